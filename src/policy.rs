//! The rules about jobs, as pure functions: which defaults a job gets, and what becomes of an ending.
//!
//! Must not read a clock, roll a die or touch anything: `now` and `jitter` come from the caller.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{OnShutdown, Settings, TaskTypeSettings};
use crate::job::{NewJob, RetryOn, Target, TaskType};
use crate::outcome::{Cause, Outcome};
use crate::payload::Draft;

/// The general defaults of SPEC 3.
const GENERAL_TIMEOUT: Duration = Duration::from_secs(300);
const GENERAL_ATTEMPTS: u32 = 3;
/// Experiments have no type; they run at this priority.
const EXPERIMENT_PRIORITY: u8 = 7;
/// Before a job is tried again for which no process could be had.
const NOT_STARTED_DELAY: Duration = Duration::from_secs(1);
/// At most so much of a delay is added at random, so that retries spread.
const MOST_JITTER: f64 = 0.1;

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
    pub retry_on: RetryOn,
    /// The first delay.
    pub backoff_min: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
    /// What becomes of a run that our shutdown cuts short.
    pub on_shutdown: OnShutdown,
}

/// Decides an ending. `jitter` is asked for a number in `0.0..1.0` if there is a retry to spread.
pub fn decide(
    outcome: &Outcome,
    standing: &Standing,
    now: Timestamp,
    jitter: impl FnOnce() -> f64,
) -> Disposition {
    let cause = match outcome {
        Outcome::Succeeded(_) => return Disposition::Complete,
        Outcome::NotStarted(_) => return Disposition::PutBack(Some(now + NOT_STARTED_DELAY)),
        Outcome::Failed(failure) => failure.cause,
    };
    let retried = match cause {
        Cause::Shutdown => {
            return match standing.on_shutdown {
                OnShutdown::Requeue => Disposition::PutBack(None),
                OnShutdown::Fail => Disposition::Fail,
            };
        }
        Cause::Unfit | Cause::Cancelled => false,
        Cause::Raised { transient } => transient || standing.retry_on == RetryOn::All,
        Cause::TimedOut | Cause::Limit(_) | Cause::Crashed => standing.retry_on == RetryOn::All,
    };
    let failures = standing.failures.saturating_add(1);
    if !retried || failures >= standing.max_attempts {
        return Disposition::Fail;
    }
    Disposition::RetryAt(
        now + delay(failures, standing.backoff_min, standing.backoff_max, jitter()),
    )
}

/// The delay after the n-th failure: `min(max, min · 2^(n−1))` and up to 10 % more (SPEC 4).
fn delay(failures: u32, min: Duration, max: Duration, jitter: f64) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let delay = min.saturating_mul(factor).min(max);
    delay.saturating_add(delay.mul_f64(jitter.clamp(0.0, 1.0) * MOST_JITTER))
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
    pub fn settle(&self, draft: Draft, tool: Option<&ToolSettings>) -> NewJob {
        let experiment = draft.experiment_id.is_some();
        let assumed = draft.task_type.is_none() && !experiment;
        // Experiments have no type, and retry on transient errors only, whatever their message says.
        let task_type = match draft.task_type {
            _ if experiment => None,
            None => Some(TaskType::OnDemand),
            named => named,
        };
        let of_type = task_type.and_then(|kind| self.task_types.get(&kind)).copied();
        let of_type = of_type.unwrap_or_default();
        let built_in = task_type.map(built_in);
        let tool = tool.filter(|_| matches!(draft.target, Some(Target::Tool(_))) || experiment);
        NewJob {
            priority: draft
                .priority
                .or(of_type.priority)
                .or(built_in.map(|(priority, _)| priority))
                .unwrap_or(EXPERIMENT_PRIORITY),
            timeout: draft
                .timeout
                .or(tool.and_then(|tool| tool.timeout))
                .or(of_type.timeout)
                .or(self.timeout)
                .or(built_in.map(|(_, timeout)| timeout))
                .unwrap_or(GENERAL_TIMEOUT),
            max_attempts: draft
                .max_attempts
                .or(tool.and_then(|tool| tool.max_attempts))
                .or(of_type.max_attempts)
                .or(self.max_attempts)
                .unwrap_or(GENERAL_ATTEMPTS),
            retry_on: if experiment {
                RetryOn::Transient
            } else {
                draft.retry_on.or(of_type.retry_on).unwrap_or(RetryOn::All)
            },
            warning: assumed.then(|| "task_type missing: taken as on_demand".to_owned()),
            id: draft.id,
            target: draft.target,
            parameters: draft.parameters,
            task_type,
            experiment_id: draft.experiment_id,
            idempotency_key: draft.idempotency_key,
            run_at: draft.run_at,
        }
    }
}

/// Priority and timeout that a type brings (SPEC 4); attempts and retries are the general ones.
fn built_in(kind: TaskType) -> (u8, Duration) {
    let (priority, seconds) = match kind {
        TaskType::Event => (9, 60),
        TaskType::OnDemand => (7, 300),
        TaskType::ScheduledBatch => (5, 3600),
        TaskType::Etl => (4, 7200),
        TaskType::Maintenance => (2, 1800),
    };
    (priority, Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Failure, Limit, Success};
    use serde_json::value::RawValue;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(cause: Cause) -> Outcome {
        Outcome::Failed(Failure {
            cause,
            error_type: "E".into(),
            error: "e".into(),
            traceback: "t".into(),
            partial_results: None,
        })
    }

    fn standing(failures: u32, retry_on: RetryOn, on_shutdown: OnShutdown) -> Standing {
        Standing {
            failures,
            max_attempts: 3,
            retry_on,
            backoff_min: SECOND,
            backoff_max: 30 * SECOND,
            on_shutdown,
        }
    }

    #[test]
    fn endings_are_decided_as_in_the_table() {
        use Disposition::{Complete, Fail, PutBack, RetryAt};
        let now = Timestamp::UNIX_EPOCH;
        let all = |failures| standing(failures, RetryOn::All, OnShutdown::Requeue);
        let transient = |failures| standing(failures, RetryOn::Transient, OnShutdown::Fail);
        let first = RetryAt(now + SECOND);
        let raised = |transient| failed(Cause::Raised { transient });
        let success = Outcome::Succeeded(Success {
            value: RawValue::NULL.to_owned(),
            bytes: 4,
            truncated: false,
        });
        let none = Outcome::NotStarted("no python".into());
        for (outcome, standing, want) in [
            (success, all(2), Complete),
            (raised(false), all(0), first),
            (raised(false), all(1), RetryAt(now + 2 * SECOND)),
            (raised(false), all(2), Fail),
            (raised(false), transient(0), Fail),
            (raised(true), transient(0), first),
            (failed(Cause::TimedOut), all(0), first),
            (failed(Cause::TimedOut), transient(0), Fail),
            (failed(Cause::Crashed), all(0), first),
            (failed(Cause::Limit(Limit::Memory)), all(0), first),
            (failed(Cause::Limit(Limit::Cpu)), transient(0), Fail),
            (failed(Cause::Unfit), all(0), Fail),
            (failed(Cause::Cancelled), all(0), Fail),
            (failed(Cause::Shutdown), all(0), PutBack(None)),
            (failed(Cause::Shutdown), transient(0), Fail),
            (none, all(2), PutBack(Some(now + SECOND))),
        ] {
            assert_eq!(decide(&outcome, &standing, now, || 0.0), want, "{outcome:?} {standing:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_delay_grows_to_its_bound_with_at_most_a_tenth_more(
            failures in 1u32..1000, min_ms in 0u64..100_000, more_ms in 0u64..100_000, jitter in 0.0f64..1.0,
        ) {
            let min = Duration::from_millis(min_ms);
            let max = min + Duration::from_millis(more_ms);
            let delay = delay(failures, min, max, jitter);
            proptest::prop_assert!(delay >= min);
            proptest::prop_assert!(delay <= max.mul_f64(1.1001));
        }
    }

    fn draft() -> Draft {
        Draft {
            id: None,
            task_type: Some(TaskType::Etl),
            target: Some(Target::Tool("t".into())),
            experiment_id: None,
            parameters: RawValue::NULL.to_owned(),
            timeout: None,
            max_attempts: None,
            priority: None,
            retry_on: None,
            idempotency_key: None,
            run_at: None,
        }
    }

    #[test]
    fn fields_are_settled_in_their_order_of_precedence() {
        let bare = Defaults { timeout: None, max_attempts: None, task_types: BTreeMap::new() };
        let job = bare.settle(draft(), None);
        assert_eq!((job.priority, job.timeout, job.max_attempts), (4, 7200 * SECOND, 3));

        let general = Defaults { timeout: Some(9 * SECOND), max_attempts: Some(8), ..bare.clone() };
        let job = general.settle(draft(), None);
        assert_eq!((job.priority, job.timeout, job.max_attempts), (4, 9 * SECOND, 8));

        let of_type = TaskTypeSettings {
            priority: Some(1),
            timeout: Some(7 * SECOND),
            max_attempts: Some(6),
            retry_on: Some(RetryOn::Transient),
        };
        let typed = Defaults { task_types: [(TaskType::Etl, of_type)].into(), ..general };
        let job = typed.settle(draft(), None);
        assert_eq!((job.priority, job.timeout, job.max_attempts), (1, 7 * SECOND, 6));
        assert_eq!(job.retry_on, RetryOn::Transient);

        let tool = ToolSettings { timeout: Some(5 * SECOND), max_attempts: Some(4) };
        let job = typed.settle(draft(), Some(&tool));
        assert_eq!((job.timeout, job.max_attempts), (5 * SECOND, 4));

        let own = Draft {
            timeout: Some(3 * SECOND),
            max_attempts: Some(2),
            priority: Some(9),
            ..draft()
        };
        let job = typed.settle(own, Some(&tool));
        assert_eq!((job.priority, job.timeout, job.max_attempts), (9, 3 * SECOND, 2));
    }

    #[test]
    fn a_missing_type_is_on_demand_with_a_warning_and_experiments_have_none() {
        let bare = Defaults { timeout: None, max_attempts: None, task_types: BTreeMap::new() };
        let job = bare.settle(Draft { task_type: None, ..draft() }, None);
        assert_eq!((job.task_type, job.priority), (Some(TaskType::OnDemand), 7));
        assert!(job.warning.is_some());
        let experiment = Draft {
            retry_on: Some(RetryOn::All),
            target: None,
            experiment_id: Some("e".into()),
            ..draft()
        };
        let job = bare.settle(experiment, None);
        assert_eq!((job.task_type, job.priority, job.timeout), (None, 7, 300 * SECOND));
        assert_eq!((job.retry_on, job.warning), (RetryOn::Transient, None));
    }
}
