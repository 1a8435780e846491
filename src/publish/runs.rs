//! What is told of an experiment's run: its state, its hash, its result message.

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;

use crate::experiments::{Ended, StateChange, change_state, ended_messages};
use crate::ledger::OutboxEntry;

/// Where results are published.
const RESULTS: &str = "fullsend:experiment_results";

/// A run that began, as the outbox has it.
#[derive(Deserialize)]
struct Began {
    experiment_id: String,
    run_id: String,
    started_at: String,
    attempts: u32,
}

/// Tells that a run began.
pub(super) async fn began(
    connection: &mut MultiplexedConnection,
    entry: &OutboxEntry,
) -> Result<(), RedisError> {
    let Ok(began) = serde_json::from_str::<Began>(&entry.body) else { return unreadable(entry) };
    let (experiment, run_id) = (&began.experiment_id, &began.run_id);
    change_state(connection, experiment, run_id, StateChange::Began).await?;
    redis::cmd("HSET")
        .arg(format!("experiment_runs:{run_id}"))
        .arg(&[("run_id", run_id), ("experiment_id", experiment)])
        .arg(&[("started_at", &began.started_at), ("timestamp", &began.started_at)])
        .arg(&[("status", "running"), ("attempts", &began.attempts.to_string())])
        .query_async(connection)
        .await
}

/// Tells that a run ended, or that a trigger was for nothing.
pub(super) async fn ended(
    connection: &mut MultiplexedConnection,
    entry: &OutboxEntry,
) -> Result<(), RedisError> {
    let Ok(ended) = serde_json::from_str::<Ended<'_>>(&entry.body) else {
        return unreadable(entry);
    };
    let (hash, message) = ended_messages(&ended);
    if let (Some(experiment), Some(run_id)) = (&ended.experiment_id, &ended.run_id) {
        let key = format!("experiment_runs:{run_id}");
        redis::cmd("HSET").arg(key).arg(&hash).query_async::<()>(connection).await?;
        let word = if ended.well() { "run" } else { "failed" };
        change_state(connection, experiment, run_id, StateChange::Ended(word)).await?;
    }
    redis::cmd("PUBLISH").arg(RESULTS).arg(message.to_string()).query_async(connection).await
}

/// Our own writing that we cannot read: nothing Redis could mend.
fn unreadable(entry: &OutboxEntry) -> Result<(), RedisError> {
    tracing::error!(event = "message_unreadable", experiment_id = entry.subject, "left out");
    Ok(())
}
