//! The life of one attempt on one screen: start, run, decide, record, tell.
//!
//! Must not choose what runs next (the ledger does) nor how an ending is judged ([`crate::policy`]).

mod starting;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::{self, Timestamp};
use crate::config::OnShutdown;
use crate::experiments::{Experiments, Metrics};
use crate::health::Health;
use crate::job::{Claim, JobId, StartMethod, Target};
use crate::ledger::{Finish, Ledger, LedgerError};
use crate::outcome::{Failure, Outcome, Report, RunEvent, Usage};
use crate::policy::{self, Disposition, Standing};
use crate::publish::Progress;
use crate::slots::{Action, Run, Slots, Stop};
use starting::Start;
use telling::Told;

/// Between two tries to record an ending that the ledger refused (full disk, …).
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// The process of a run that takes longer than this is noted while it runs.
const NOTE_PID: Duration = Duration::from_millis(50);

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
    /// What there is only with Redis.
    pub runs: Option<Runs>,
    /// The first retry's delay.
    pub backoff_min: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
    /// What becomes of runs that a shutdown cuts short.
    pub on_shutdown: OnShutdown,
}

/// Experiments, their metrics, live progress of jobs.
#[derive(Debug)]
pub struct Runs {
    /// Stored experiments.
    pub experiments: Experiments,
    /// Their metrics.
    pub metrics: Metrics,
    /// Live progress of jobs.
    pub progress: Progress,
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
    let (claim, target) = match starting::start(flow, claim).await {
        Start::Ready(claim, target) => (Arc::new(claim), target),
        Start::NotNow(claim, until) => {
            let id = claim.id.clone();
            give_back(flow, claim, Some(until)).await;
            return Ended { id, asked_for_more: false };
        }
    };
    telling::began(flow, &claim);
    let report = match target {
        Ok(target) => run(flow, &claim, target, stop.clone()).await,
        Err(failure) => nothing_run(flow, failure),
    };
    let disposition = decide(flow, &claim, &report.outcome);
    let seconds = report.finished_at.duration_since(claim.claimed_at).as_secs_f64();
    let demand = u32::from(!flow.health.draining());
    let told = Told::of(&report);
    let finish = Finish { claim: Arc::clone(&claim), report, disposition, demand };
    let recorded = record(flow, finish).await;
    telling::ended(flow, &claim, &told, disposition, seconds);
    Ended { id: claim.id.clone(), asked_for_more: recorded && demand > 0 }
}

async fn run(
    flow: &Flow,
    claim: &Arc<Claim>,
    target: Target,
    stop: watch::Receiver<Stop>,
) -> Report {
    let run = Run {
        job_id: claim.id.clone(),
        attempt: claim.attempt,
        run_id: claim.run_id.clone(),
        experiment_id: claim.experiment_id.clone(),
        target,
        parameters: claim.parameters.clone(),
        timeout: claim.timeout,
        action: Action::Call,
    };
    let (events, told) = mpsc::channel(EVENT_ROOM);
    let (pid_in, pid) = oneshot::channel();
    // Nobody waits for the pid of a run that is over already.
    let started = |pid| {
        let _ = pid_in.send(pid);
    };
    let mut run = std::pin::pin!(async {
        let ran = flow.slots.run(run, stop, started, events);
        tokio::join!(ran, pass_on(flow, claim, told)).0
    });
    tokio::select! {
        report = &mut run => return report,
        () = tokio::time::sleep(NOTE_PID) => {}
    }
    // One that takes longer may be asked for: its process is noted, at the price of a write.
    let noting = async {
        if let Ok(pid) = pid.await {
            flow.ledger.started(claim, pid);
        }
    };
    tokio::join!(run, noting).0
}

/// Passes a run's events on while it runs; ends when the run's side is dropped.
async fn pass_on(flow: &Flow, claim: &Claim, mut events: mpsc::Receiver<RunEvent>) {
    while let Some(event) = events.recv().await {
        telling::event(flow, claim, &event);
    }
}

/// The report of an attempt that could not even begin.
fn nothing_run(flow: &Flow, failure: Failure) -> Report {
    Report {
        outcome: Outcome::Failed(failure),
        pid: None,
        start_method: flow.start_method,
        finished_at: clock::now(),
        exit: None,
        usage: Usage::default(),
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
    policy::decide(outcome, &standing, clock::now(), jitter)
}

/// A number in `0.0..1.0` that spreads retries; its quality does not matter.
fn jitter() -> f64 {
    let (_, low) = uuid::Uuid::now_v7().as_u64_pair();
    (low >> 11 & 0xffff) as f64 / 65_536.0
}

/// Records an ending, again each second until the ledger takes it: the slot stays taken meanwhile,
/// so that a full disk slows work down instead of losing its record. `false`: the ledger no longer
/// has this attempt as running, so there is nothing to record. While the ledger as a whole cannot be
/// written, that is said once, by itself.
async fn record(flow: &Flow, finish: Finish) -> bool {
    let (id, attempt) = (&finish.claim.id, finish.claim.attempt);
    let mut told = false;
    loop {
        match flow.ledger.finish(finish.clone()).await {
            Ok(()) => {
                failpoint!("finish.after");
                return true;
            }
            Err(error @ (LedgerError::NotRunning { .. } | LedgerError::Closed)) => {
                tracing::error!(event = "record_refused", job_id = %id, attempt, error = %error, "the ending was not recorded");
                return false;
            }
            Err(error) => {
                if !told && flow.ledger.trouble().is_none() {
                    told = true;
                    tracing::error!(event = "record_delayed", job_id = %id, attempt, error = chain(&error), "the ledger refused the ending; trying again each second");
                }
                tokio::time::sleep(RECORD_AGAIN).await;
            }
        }
    }
}

/// The job waits again, at once or not before `until`; its start is not counted. Tried until the
/// ledger takes it.
pub async fn give_back(flow: &Flow, claim: Claim, until: Option<Timestamp>) {
    let claim = Arc::new(claim);
    while let Err(error) = flow.ledger.unclaim(Arc::clone(&claim), until).await {
        if matches!(error, LedgerError::NotRunning { .. } | LedgerError::Closed) {
            break;
        }
        tokio::time::sleep(RECORD_AGAIN).await;
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
