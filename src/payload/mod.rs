//! Bytes from outside → a job, or exactly what is wrong with them. Pure.

use std::time::Duration;

use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::job::{JobId, Refusal, RetryOn, Target, TaskType};

/// The largest payload taken for a job; of a larger one the first so many bytes are kept.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;

/// A job as read: each field checked, none defaulted. [`crate::policy::Defaults::settle`] makes a
/// [`crate::job::NewJob`] of it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its own id.
    pub id: Option<JobId>,
    /// `None` where it names none.
    pub task_type: Option<TaskType>,
    /// `None` for an experiment.
    pub target: Option<Target>,
    /// `{"experiment_id": …}` alone: a durable trigger.
    pub experiment_id: Option<String>,
    /// A JSON object.
    pub parameters: Box<RawValue>,
    /// Over 0, up to 30 days.
    pub timeout: Option<Duration>,
    /// 1–100.
    pub max_attempts: Option<u32>,
    /// 1–9.
    pub priority: Option<u8>,
    /// `all` or `transient`.
    pub retry_on: Option<RetryOn>,
    /// Jobs with the same key run once.
    pub idempotency_key: Option<String>,
    /// Not before.
    pub run_at: Option<Timestamp>,
}

/// What reading needs to know of this installation.
pub struct Rules<'a> {
    /// Allowed top-level packages.
    pub allowed_modules: &'a [String],
    /// Whether a dotted name is a module file (`a/b.py`, or a package `a/b/__init__.py`) under
    /// `TASKS_PATH`: decides where the module ends in a dotted target.
    pub is_module: &'a dyn Fn(&str) -> bool,
}

/// Reads one payload.
pub fn read(_bytes: &[u8], _rules: &Rules<'_>) -> Result<Draft, Refusal> {
    unimplemented!()
}

/// Reads a target in any spelling of SPEC 2; the error is one line for people.
pub fn read_target(_text: &str, _rules: &Rules<'_>) -> Result<Target, Refusal> {
    unimplemented!()
}
