//! The life of one attempt on one screen: begin, run, decide, record, tell.
//!
//! Must not choose what runs next (the ledger does) nor how an ending is judged ([`crate::policy`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::config::OnShutdown;
use crate::health::Health;
use crate::job::{Claim, JobId, StartMethod, Target};
use crate::ledger::{Finish, Ledger, LedgerError};
use crate::outcome::{Cause, Failure, Outcome, Report, RunEvent, error_type};
use crate::policy::{self, Disposition, Standing};
use crate::publish::Progress;
use crate::slots::{Action, Run, Slots, Stop};

/// Between two tries to record an ending that the ledger refused (full disk, …).
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// How many events of a run may wait to be told.
const EVENT_ROOM: usize = 256;

/// What every attempt needs.
#[derive(Debug)]
pub struct Flow {
    /// Where attempts run.
    pub slots: Slots,
    /// How they are born.
    pub start_method: StartMethod,
    /// Where they are recorded.
    pub ledger: Ledger,
    /// What others are shown.
    pub health: Arc<Health>,
    /// Live progress for Redis; `None` without Redis.
    pub progress: Option<Progress>,
    /// The first retry's delay.
    pub backoff_min: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
    /// What becomes of runs that a shutdown cuts short.
    pub on_shutdown: OnShutdown,
}

/// An attempt is over and recorded.
#[derive(Debug)]
pub struct Ended {
    /// Whose.
    pub id: JobId,
    /// Its record carried the demand for a successor.
    pub asked_for_more: bool,
}

/// Lives one attempt from its claim to its record.
pub async fn attempt(flow: &Flow, claim: Claim, stop: watch::Receiver<Stop>) -> Ended {
    let claim = Arc::new(claim);
    began(flow, &claim);
    let report = run(flow, &claim, stop.clone()).await;
    let disposition = decide(flow, &claim, &report.outcome);
    let seconds = report.finished_at.duration_since(claim.claimed_at).as_secs_f64();
    let demand = u32::from(*stop.borrow() == Stop::No || *stop.borrow() == Stop::Cancel);
    let told = Told::of(&report);
    let finish = Finish { claim: Arc::clone(&claim), report, disposition, demand };
    let recorded = record(flow, finish).await;
    tell(flow, &claim, &told, disposition, seconds);
    Ended { id: claim.id.clone(), asked_for_more: recorded && demand > 0 }
}

fn began(flow: &Flow, claim: &Claim) {
    let waited = claim.claimed_at.duration_since(claim.created_at).as_secs_f64().max(0.0);
    flow.health.metrics().waited(claim.source, waited);
    tracing::info!(
        event = "job_started",
        job_id = %claim.id,
        attempt = claim.attempt,
        source = %claim.source,
        task_type = claim.task_type.map(tracing::field::display),
        target = claim.target.as_ref().map(tracing::field::display),
        "attempt {} of {}",
        claim.failures + 1,
        claim.max_attempts,
    );
}

async fn run(flow: &Flow, claim: &Arc<Claim>, stop: watch::Receiver<Stop>) -> Report {
    let Some(target) = claim.target.clone() else {
        return no_target(flow, claim);
    };
    let run = run_of(claim, target);
    let (events, told) = mpsc::channel(EVENT_ROOM);
    let started = |pid| flow.ledger.started(claim, pid);
    let (report, ()) =
        tokio::join!(flow.slots.run(run, stop, started, events), pass_on(flow, claim, told),);
    report
}

fn run_of(claim: &Claim, target: Target) -> Run {
    Run {
        job_id: claim.id.clone(),
        attempt: claim.attempt,
        run_id: claim.run_id.clone(),
        experiment_id: claim.experiment_id.clone(),
        target,
        parameters: claim.parameters.clone(),
        timeout: claim.timeout,
        action: Action::Call,
    }
}

/// Passes a run's events on while it runs; ends when the run's side is dropped.
async fn pass_on(flow: &Flow, claim: &Claim, mut events: mpsc::Receiver<RunEvent>) {
    while let Some(event) = events.recv().await {
        if let (RunEvent::Progress { done, total }, Some(progress)) = (&event, &flow.progress) {
            progress.tell(&claim.id, *done, *total);
        }
    }
}

/// A job without a target cannot run.
fn no_target(flow: &Flow, claim: &Claim) -> Report {
    let name = claim.experiment_id.as_deref().unwrap_or("?");
    Report {
        outcome: Outcome::Failed(Failure {
            cause: Cause::Unfit,
            error_type: error_type::EXPERIMENT_NOT_FOUND.into(),
            error: format!("no experiment {name}"),
            traceback: "no traceback: nothing was run".into(),
            partial_results: None,
        }),
        pid: None,
        start_method: flow.start_method,
        finished_at: clock::now(),
        exit: None,
        usage: Default::default(),
        survivors_killed: 0,
        log_tail: String::new(),
        log_bytes: 0,
    }
}

fn decide(flow: &Flow, claim: &Claim, outcome: &Outcome) -> Disposition {
    let standing = Standing {
        failures: claim.failures,
        max_attempts: claim.max_attempts,
        retry_on: claim.retry_on,
        backoff_min: flow.backoff_min,
        backoff_max: flow.backoff_max,
        on_shutdown: flow.on_shutdown,
    };
    policy::decide(outcome, &standing, clock::now(), jitter())
}

/// A number in `0.0..1.0` that spreads retries; its quality does not matter.
fn jitter() -> f64 {
    let (_, low) = uuid::Uuid::now_v7().as_u64_pair();
    (low >> 11 & 0xffff) as f64 / 65_536.0
}

/// Records an ending, again each second until the ledger takes it: the slot stays taken meanwhile,
/// so that a full disk slows work down instead of losing its record. `false`: the ledger no longer
/// has this attempt as running, so there is nothing to record.
async fn record(flow: &Flow, finish: Finish) -> bool {
    let mut told = false;
    loop {
        match flow.ledger.finish(finish.clone()).await {
            Ok(()) => return true,
            Err(error @ (LedgerError::NotRunning { .. } | LedgerError::Closed)) => {
                tracing::error!(event = "record_refused", job_id = %finish.claim.id, attempt = finish.claim.attempt, error = %error, "the ending was not recorded");
                return false;
            }
            Err(error) => {
                if !told {
                    told = true;
                    tracing::error!(event = "record_delayed", job_id = %finish.claim.id, attempt = finish.claim.attempt, error = %chain(&error), "the ledger refused the ending; trying again each second");
                }
                tokio::time::sleep(RECORD_AGAIN).await;
            }
        }
    }
}

/// An error with its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What the log says of an ending, kept while the report itself goes to the ledger.
struct Told {
    outcome: &'static str,
    pid: Option<u32>,
    failure: Option<(String, String, String)>,
}

impl Told {
    fn of(report: &Report) -> Self {
        let failure = match &report.outcome {
            Outcome::Succeeded(_) => None,
            Outcome::NotStarted(why) => Some(("NotStarted".into(), why.clone(), String::new())),
            Outcome::Failed(f) => {
                Some((f.error_type.clone(), f.error.clone(), f.traceback.clone()))
            }
        };
        Self { outcome: report.outcome.word(), pid: report.pid, failure }
    }
}

fn tell(flow: &Flow, claim: &Claim, told: &Told, disposition: Disposition, seconds: f64) {
    flow.health.metrics().attempt_ended(told.outcome, seconds);
    let (error_type, error, traceback) = match &told.failure {
        Some((kind, error, traceback)) => (Some(kind), Some(error), Some(traceback)),
        None => (None, None, None),
    };
    macro_rules! line {
        ($level:ident, $event:literal, $status:literal, $($message:tt)+) => {
            tracing::$level!(
                event = $event,
                job_id = %claim.id,
                attempt = claim.attempt,
                source = %claim.source,
                task_type = claim.task_type.map(tracing::field::display),
                experiment_id = claim.experiment_id,
                run_id = claim.run_id,
                pid = told.pid,
                status = $status,
                duration_seconds = seconds,
                error_type,
                error,
                traceback,
                $($message)+
            )
        };
    }
    match disposition {
        Disposition::Complete => {
            flow.health.metrics().job_ended(claim.source, "COMPLETED", None);
            line!(info, "job_completed", "COMPLETED", "done");
        }
        Disposition::Fail => {
            flow.health.metrics().job_ended(claim.source, "FAILED", error_type.map(String::as_str));
            line!(error, "job_failed", "FAILED", "failed for good");
        }
        Disposition::RetryAt(at) => {
            flow.health.metrics().retried();
            line!(warn, "job_retrying", "QUEUED", "next try at {}", clock::text(at));
        }
        Disposition::PutBack(_) => line!(warn, "job_put_back", "QUEUED", "put back, not counted"),
    }
}
