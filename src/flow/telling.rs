//! What is told of an attempt: log lines, counters, an experiment's metrics.

use serde_json::{Map, Value, json};

use super::Flow;
use crate::clock;
use crate::experiments::Metric;
use crate::experiments::definition::length;
use crate::job::Claim;
use crate::outcome::{Failure, Outcome, Report, RunEvent};
use crate::policy::Disposition;

/// An attempt begins.
pub(super) fn began(flow: &Flow, claim: &Claim) {
    let waited = claim.claimed_at.duration_since(claim.created_at).as_secs_f64().max(0.0);
    flow.health.metrics().waited(claim.source, waited);
    tracing::info!(
        event = "job_started",
        job_id = %claim.id,
        attempt = claim.attempt,
        source = %claim.source,
        task_type = claim.task_type.map(tracing::field::display),
        experiment_id = claim.experiment_id,
        run_id = claim.run_id,
        target = claim.target.as_ref().map(tracing::field::display),
        "attempt {}, {} of {} failures so far",
        claim.attempt,
        claim.failures,
        claim.max_attempts,
    );
}

/// Something happened in a run: an experiment's metric, a job's progress.
pub(super) fn event(flow: &Flow, claim: &Claim, event: &RunEvent) {
    if let (RunEvent::Progress { done, total }, Some(runs)) = (event, &flow.runs) {
        runs.progress.tell(&claim.id, *done, *total);
    }
    if claim.experiment_id.is_none() {
        return;
    }
    match event {
        RunEvent::Progress { done, total } => {
            metric(flow, claim, "progress", json!({"done": done, "total": total}));
        }
        RunEvent::Items(count) => metric(flow, claim, "items_processed", json!({"count": count})),
        RunEvent::Emit { name, fields } => {
            let fields = serde_json::from_str(fields.get()).unwrap_or(Value::Null);
            metric(flow, claim, name, fields);
        }
        RunEvent::Partial(_) => {}
    }
}

fn metric(flow: &Flow, claim: &Claim, event: &str, fields: Value) {
    let (Some(runs), Some(experiment)) = (&flow.runs, &claim.experiment_id) else { return };
    let fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    runs.metrics.send(Metric {
        experiment_id: experiment.clone(),
        run_id: claim.run_id.clone(),
        event: event.to_owned(),
        fields,
    });
}

/// What is said of an ending, kept while the report itself goes to the ledger.
pub(super) struct Told {
    outcome: &'static str,
    pid: Option<u32>,
    failure: Option<Failure>,
    not_started: Option<String>,
}

impl Told {
    pub(super) fn of(report: &Report) -> Self {
        let (failure, not_started) = match &report.outcome {
            Outcome::Succeeded(_) => (None, None),
            Outcome::NotStarted(why) => (None, Some(why.clone())),
            Outcome::Failed(failure) => (Some(failure.clone()), None),
        };
        Self { outcome: report.outcome.word(), pid: report.pid, failure, not_started }
    }
}

/// An attempt is over and recorded.
pub(super) fn ended(flow: &Flow, claim: &Claim, told: &Told, what: Disposition, seconds: f64) {
    let metrics = flow.health.metrics();
    metrics.attempt_ended(told.outcome, seconds);
    let failure = told.failure.as_ref();
    let error_type = failure.map(|failure| failure.error_type.as_str());
    match what {
        Disposition::Complete => metrics.job_ended(claim.source, "COMPLETED", None),
        Disposition::Fail => metrics.job_ended(claim.source, "FAILED", error_type),
        Disposition::RetryAt(_) => metrics.retried(),
        Disposition::PutBack(_) => {}
    }
    end_of_run(flow, claim, told, what);
    line(claim, told, what, seconds);
}

/// The last metrics of an experiment's run.
fn end_of_run(flow: &Flow, claim: &Claim, told: &Told, what: Disposition) {
    if claim.run_id.is_none() {
        return;
    }
    match what {
        Disposition::Complete => metric(flow, claim, "run_completed", Value::Null),
        Disposition::Fail => {
            let failure = told.failure.as_ref();
            let partial = failure.and_then(|failure| failure.partial_results.as_ref());
            if let Some(items) = partial.and_then(|partial| length(partial)) {
                metric(flow, claim, "partial_completion", json!({"items_processed": items}));
            }
            let fields = failure.map(|f| json!({"error": f.error, "error_type": f.error_type}));
            metric(flow, claim, "run_failed", fields.unwrap_or(Value::Null));
        }
        Disposition::RetryAt(_) | Disposition::PutBack(_) => {}
    }
}

fn line(claim: &Claim, told: &Told, what: Disposition, seconds: f64) {
    let failure = told.failure.as_ref();
    let error = failure.map(|failure| failure.error.as_str()).or(told.not_started.as_deref());
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
                error_type = failure.map(|failure| failure.error_type.as_str()),
                error,
                traceback = failure.map(|failure| failure.traceback.as_str()),
                $($message)+
            )
        };
    }
    match what {
        Disposition::Complete => line!(info, "job_completed", "COMPLETED", "done"),
        Disposition::Fail => line!(error, "job_failed", "FAILED", "failed for good"),
        Disposition::RetryAt(at) => {
            line!(warn, "job_retrying", "QUEUED", "next try at {}", clock::text(at));
        }
        Disposition::PutBack(_) => {
            line!(warn, "job_put_back", "QUEUED", "put back, not counted");
        }
    }
}
