//! Runs whose executor is dead: the leader sets their experiments back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use serde::Deserialize;

use super::leader::Leader;
use crate::experiments::{RUNS, StateChange, change_state};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// What runs, as far as rescuing needs to know.
#[derive(Deserialize)]
struct Entry {
    run_id: String,
    ledger_id: String,
    executor_id: String,
}

/// Looks for ever, while leading.
pub async fn run(leader: Arc<Leader>) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        if leader.lease().borrow().is_none() {
            continue;
        }
        if let Err(error) = look(&leader).await {
            leader.link().failed(&error).await;
        }
    }
}

async fn look(leader: &Leader) -> Result<(), RedisError> {
    let mut connection = leader.link().connection().await?;
    let runs: BTreeMap<String, String> =
        redis::cmd("HGETALL").arg(RUNS).query_async(&mut connection).await?;
    for (experiment, text) in runs {
        let Ok(entry) = serde_json::from_str::<Entry>(&text) else { continue };
        let heartbeat = format!("executor:heartbeat:{}", entry.executor_id);
        let beats: Option<String> =
            redis::cmd("HGET").arg(heartbeat).arg("ledger_id").query_async(&mut connection).await?;
        if beats.as_ref() == Some(&entry.ledger_id) {
            continue;
        }
        tracing::warn!(
            event = "run_rescued",
            experiment_id = experiment,
            run_id = entry.run_id,
            "its executor is dead; the experiment is set back to the state before"
        );
        change_state(&mut connection, &experiment, &entry.run_id, StateChange::Lost).await?;
    }
    Ok(())
}
