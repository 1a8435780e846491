//! What Redis shows is a copy of the ledger, and nothing noted for it is forgotten.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;

use super::Subject;
use crate::config::RedisUrl;
use crate::experiments::RUNS;
use crate::ledger::{Finding, LedgerError, Reader, Shown};
use crate::link;

/// Jobs that have ended, of which the copies are looked at: the newest.
const ENDED: u32 = 1000;
/// Most jobs asked for in one go.
const BATCH: usize = 500;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long what is to be told may take while Redis answers.
const TELLING: Duration = Duration::from_secs(6);

/// Why it could not be looked at to the end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// What is read of a job's hash, in this order.
const FIELDS: &[&str] = &["status", "attempts", "executor_id"];
type Copy = (Option<String>, Option<u32>, Option<String>);

/// Faults by what they are about, so that only those that last are told.
type Faults = BTreeMap<String, Finding>;

/// Looks Redis over. That it does not answer is a finding: nothing could be said.
pub(super) async fn look(
    url: &RedisUrl,
    subject: &Subject,
    reader: &Reader,
) -> Result<Vec<Finding>, LedgerError> {
    let silent = |error: String| {
        let detail = format!("Redis could not be looked at: {error}");
        vec![finding(None, detail, "see `executor doctor`; REDIS_URL=none leaves Redis out")]
    };
    let mut connection = match link::connect(url).await {
        Ok(connection) => connection,
        Err(error) => return Ok(silent(error.to_string())),
    };
    match lasting(subject, reader, &mut connection).await {
        Ok(faults) => Ok(faults.into_values().collect()),
        Err(Ended::Ledger(error)) => Err(error),
        Err(Ended::Redis(error)) => Ok(silent(error.to_string())),
    }
}

/// The faults that are still there after all that may be on its way has had its time.
async fn lasting(
    subject: &Subject,
    reader: &Reader,
    connection: &mut MultiplexedConnection,
) -> Result<Faults, Ended> {
    // Without an executor nothing is on its way.
    let patience = match subject.executor_id {
        Some(_) => subject.heartbeat + TELLING,
        None => Duration::ZERO,
    };
    let begun = Instant::now();
    let mut before: Option<Faults> = None;
    loop {
        let mut faults = Faults::new();
        let id = reader.ledger_id()?.unwrap_or_default();
        copies(reader, connection, &mut faults).await?;
        runs(reader, &id, connection, &mut faults).await?;
        if subject.executor_id.is_some() {
            notes(reader, &id, connection, &mut faults).await?;
        }
        if let Some(before) = &before {
            faults.retain(|about, _| before.contains_key(about));
        }
        if faults.is_empty() || begun.elapsed() >= patience {
            return Ok(faults);
        }
        before = Some(faults);
        tokio::time::sleep(LOOK).await;
    }
}

/// The hash of each job says what the ledger says, once that has been told.
async fn copies(
    reader: &Reader,
    connection: &mut MultiplexedConnection,
    faults: &mut Faults,
) -> Result<(), Ended> {
    let jobs = reader.shown(ENDED)?;
    for batch in jobs.chunks(BATCH) {
        let mut pipeline = redis::pipe();
        for job in batch {
            let key = format!("executor:job:{}", job.id);
            pipeline.cmd("HMGET").arg(key).arg(FIELDS);
        }
        let answers: Vec<Result<Copy, RedisError>> =
            pipeline.ignore_errors().query_async(connection).await?;
        for (job, answer) in batch.iter().zip(answers) {
            if let Some(detail) = differs(job, answer) {
                let advice = "Redis has lost writes (see `executor doctor`): delete the hash, the ledger is right";
                faults.insert(format!("job {}", job.id), finding(Some(&job.id), detail, advice));
            }
        }
    }
    Ok(())
}

/// What is wrong with the copy; one that is gone has expired, or Redis was emptied. Executors that
/// share a Redis may each have a job of that id: the copy is of the one that told last.
fn differs(job: &Shown, answer: Result<Copy, RedisError>) -> Option<String> {
    if job.untold {
        return None;
    }
    match answer {
        Err(_) => Some(format!("executor:job:{} is no hash of ours", job.id)),
        Ok((None, ..)) => None,
        Ok((Some(_), _, executor)) if executor.is_some() && executor != job.executor_id => None,
        Ok((Some(status), attempts, _)) => {
            let attempts = attempts.unwrap_or(0);
            (status != job.status || attempts != job.attempts).then(|| {
                format!(
                    "it is {} with {} starts, but Redis shows {status} with {attempts}",
                    job.status, job.attempts
                )
            })
        }
    }
}

/// What runs, as far as it matters here.
#[derive(Deserialize)]
struct Run {
    run_id: String,
    job_id: String,
    ledger_id: String,
}

/// No experiment is held by a run of ours that is over.
async fn runs(
    reader: &Reader,
    ledger_id: &str,
    connection: &mut MultiplexedConnection,
    faults: &mut Faults,
) -> Result<(), Ended> {
    let held: BTreeMap<String, String> =
        redis::cmd("HGETALL").arg(RUNS).query_async(connection).await?;
    for (experiment, text) in held {
        let Ok(run) = serde_json::from_str::<Run>(&text) else { continue };
        if run.ledger_id != ledger_id {
            continue;
        }
        let state = match reader.run_is_over(&run.job_id, &experiment)? {
            Some(false) => continue,
            Some(true) => "is over",
            None => "is not in the ledger",
        };
        let detail =
            format!("experiment {experiment} is held by the run {}, whose job {state}", run.run_id);
        let advice = "nothing can run the experiment: remove its field from executor:runs";
        faults.insert(format!("run {experiment}"), finding(Some(&run.job_id), detail, advice));
    }
    Ok(())
}

/// What was noted while it was taken is written down before long.
async fn notes(
    reader: &Reader,
    ledger_id: &str,
    connection: &mut MultiplexedConnection,
    faults: &mut Faults,
) -> Result<(), Ended> {
    let key = format!("executor:accepting:{ledger_id}");
    let receipts: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(connection).await?;
    for receipt in reader.unknown_receipts(&receipts)? {
        let detail = format!("the payload {receipt} in {key} is not written down");
        let advice =
            "look for accept_delayed or queue_unreadable in the log; a restart reads it again";
        faults.insert(format!("note {receipt}"), finding(None, detail, advice));
    }
    Ok(())
}

fn finding(job: Option<&str>, detail: String, advice: &'static str) -> Finding {
    Finding { check: "redis", job_id: job.map(str::to_owned), detail, advice }
}
