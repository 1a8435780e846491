//! The rules about jobs, as pure functions: which defaults a job gets, and what becomes of an ending.
//!
//! Must not read a clock, roll a die or touch anything: `now` and `jitter` come from the caller.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Settings, TaskTypeSettings};
use crate::job::{NewJob, TaskType};
use crate::outcome::Outcome;
use crate::payload::Draft;
use std::collections::BTreeMap;

/// What the queue does with an attempt that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The job is COMPLETED.
    Complete,
    /// The job is FAILED.
    Fail,
    /// The failure is counted and the job is QUEUED until then.
    RetryAt(Timestamp),
    /// Nothing is counted and the job is QUEUED at once, or from then on.
    PutBack(Option<Timestamp>),
}

/// What deciding needs to know beside the ending itself.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Counted failures before this attempt.
    pub failures: u32,
    /// Counted failures in all before the job is FAILED.
    pub max_attempts: u32,
    /// Which failures are retried.
    pub retry_on: crate::job::RetryOn,
    /// The delay's bounds.
    pub backoff_min: Duration,
    /// The delay's bounds.
    pub backoff_max: Duration,
    /// A run cut short by our shutdown is put back; otherwise FAILED.
    pub put_back_on_shutdown: PutBackOnShutdown,
}

/// Whether `ON_SHUTDOWN` says to put a run back.
pub type PutBackOnShutdown = crate::config::OnShutdown;

/// Decides an ending. `jitter` is in `0.0..1.0`.
pub fn decide(_outcome: &Outcome, _standing: &Standing, _now: Timestamp, _jitter: f64) -> Disposition {
    unimplemented!()
}

/// What `tools:{name}` in Redis says about a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolSettings {
    /// For one attempt.
    pub timeout: Option<Duration>,
    /// Counted failures in all.
    pub max_attempts: Option<u32>,
}

/// The defaults jobs get, in the order of SPEC 3.
#[derive(Clone, Debug)]
pub struct Defaults {
    timeout: Option<Duration>,
    max_attempts: Option<u32>,
    task_types: BTreeMap<TaskType, TaskTypeSettings>,
}

impl Defaults {
    /// Takes what matters from the settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            timeout: settings.tool_timeout,
            max_attempts: settings.retry.max_attempts,
            task_types: settings.task_types.clone(),
        }
    }

    /// Gives every field of a job its value: its own; `tools:{name}`; `task_types.<name>`; the
    /// general setting, if set; the type's built-in default; the general default.
    pub fn settle(&self, _draft: Draft, _tool: Option<&ToolSettings>) -> NewJob {
        let _ = (&self.timeout, &self.max_attempts, &self.task_types);
        unimplemented!()
    }
}
