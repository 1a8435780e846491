//! What must be known before an attempt can run: for an experiment, whether it may, and what.

use std::sync::Arc;
use std::time::Duration;

use super::{Flow, Runs};
use crate::clock::{self, Timestamp};
use crate::experiments::definition::{Definition, Stored};
use crate::experiments::{Begin, Metric};
use crate::job::{Claim, Target};
use crate::ledger::RunStart;
use crate::outcome::{Cause, Failure, error_type};

/// Before an experiment that another executor runs is looked at again.
const BUSY: Duration = Duration::from_millis(250);
/// Before an experiment is tried again while Redis is away.
const AWAY: Duration = Duration::from_secs(1);

/// Whether an attempt can begin.
pub(super) enum Start {
    /// With this target, or failing at once for this reason.
    Ready(Claim, Result<Target, Failure>),
    /// Not before then.
    NotNow(Claim, Timestamp),
}

/// Settles what an attempt runs.
pub(super) async fn start(flow: &Flow, claim: Claim) -> Start {
    match (&claim.experiment_id, &claim.target) {
        (None, Some(target)) => {
            let target = target.clone();
            Start::Ready(claim, Ok(target))
        }
        (None, None) => Start::Ready(
            claim,
            Err(unfit(error_type::PAYLOAD, "the job names nothing to run".into())),
        ),
        (Some(experiment), _) => {
            let experiment = experiment.clone();
            match &flow.runs {
                Some(runs) => start_experiment(flow, runs, claim, &experiment).await,
                None => Start::Ready(claim, Err(not_found(&experiment))),
            }
        }
    }
}

async fn start_experiment(flow: &Flow, runs: &Runs, claim: Claim, experiment: &str) -> Start {
    // Redis is told who runs it: that must not be a job that a power cut can take back.
    if flow.ledger.settled().await.is_err() {
        return Start::NotNow(claim, clock::now() + AWAY);
    }
    let begun = runs.experiments.begin(experiment, &claim.id, claim.run_id.as_deref()).await;
    match begun {
        Err(_) => Start::NotNow(claim, clock::now() + AWAY),
        Ok(Begin::Busy { run_id }) => {
            tracing::debug!(event = "experiment_busy", job_id = %claim.id, experiment_id = experiment, run_id, "waits for its turn");
            Start::NotNow(claim, clock::now() + BUSY)
        }
        Ok(Begin::Missing) => Start::Ready(claim, Err(not_found(experiment))),
        Ok(Begin::Unreadable(kind)) => {
            let error =
                format!("experiments:{experiment} is a {kind}; it must be a hash or a text");
            Start::Ready(claim, Err(unfit(error_type::PAYLOAD, error)))
        }
        Ok(Begin::Begun { run_id, stored }) => {
            begin_run(flow, runs, claim, experiment, run_id, &stored).await
        }
    }
}

/// The run has its id: writes it down, whatever its definition is worth.
async fn begin_run(
    flow: &Flow,
    runs: &Runs,
    mut claim: Claim,
    experiment: &str,
    run_id: String,
    stored: &Stored,
) -> Start {
    let read = stored
        .definition()
        .map_err(|error| unfit(error_type::PAYLOAD, format!("experiment {experiment}: {error}")));
    if let Ok(definition) = &read {
        let Ok(tool) = runs.experiments.tool_settings(&definition.tool).await else {
            return Start::NotNow(claim, clock::now() + AWAY);
        };
        let Definition { params, timeout, max_attempts, .. } = definition.clone();
        claim.parameters = params;
        claim.timeout = timeout.or(tool.timeout).unwrap_or(claim.timeout);
        claim.max_attempts = max_attempts.or(tool.max_attempts).unwrap_or(claim.max_attempts);
    }
    let target = read.map(|definition| Target::Tool(definition.tool));
    let first = claim.run_id.as_deref() != Some(&run_id);
    claim.run_id = Some(run_id.clone());
    claim.target = target.as_ref().ok().cloned();
    let start = RunStart {
        run_id: run_id.clone(),
        target: claim.target.clone(),
        parameters: claim.parameters.clone(),
        timeout: claim.timeout,
        max_attempts: claim.max_attempts,
    };
    if let Err(error) = flow.ledger.begin_run(Arc::new(claim.clone()), start).await {
        tracing::error!(event = "run_not_begun", job_id = %claim.id, experiment_id = experiment, run_id, error = super::chain(&error), "the ledger refused; tried again");
        return Start::NotNow(claim, clock::now() + AWAY);
    }
    if first {
        runs.metrics.send(Metric {
            experiment_id: experiment.to_owned(),
            run_id: Some(run_id),
            event: "run_started".into(),
            fields: serde_json::Map::new(),
        });
    }
    Start::Ready(claim, target)
}

fn not_found(experiment: &str) -> Failure {
    let error = format!("Experiment not found: {experiment}");
    unfit(error_type::EXPERIMENT_NOT_FOUND, error)
}

fn unfit(error_type: &str, error: String) -> Failure {
    Failure {
        cause: Cause::Unfit,
        error_type: error_type.to_owned(),
        traceback: format!("no traceback: nothing was run ({error})"),
        error,
        partial_results: None,
    }
}
