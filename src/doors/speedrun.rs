//! The continuous loop over ready experiments, in turn, so that none starves.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::leader::{Leader, item};
use crate::experiments::definition::Stored;
use crate::experiments::{self, RUNS};
use crate::job::Source;

/// Experiments put on the list that have not begun: `begin.lua` takes them off.
const QUEUED: &str = "executor:queued";
/// One that has not begun after so long is put on the list again.
const FORGOTTEN: u64 = 3600;

/// The door.
#[derive(Debug)]
pub struct Speedrun {
    /// Whether to act.
    pub leader: Arc<Leader>,
    /// Between two cycles.
    pub interval: Duration,
    /// Most experiments started in one cycle.
    pub most: usize,
    /// States in which an experiment is started.
    pub eligible: Vec<String>,
}

impl Speedrun {
    /// Cycles for ever, while leading.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last = String::new();
        loop {
            tick.tick().await;
            if self.leader.lease().borrow().is_none() {
                continue;
            }
            if let Err(error) = self.cycle(&mut last).await {
                self.leader.link().failed(&error).await;
            }
        }
    }

    /// Puts the next few on the list: those after the last one, and from the beginning again.
    async fn cycle(&self, last: &mut String) -> Result<(), RedisError> {
        let mut connection = self.leader.link().connection().await?;
        let ids = self.eligible_ids(&mut connection).await?;
        let turn = ids.partition_point(|id| id <= last);
        let in_turn: Vec<&String> =
            ids[turn..].iter().chain(&ids[..turn]).take(self.most).collect();
        for id in in_turn {
            let payload = serde_json::json!({"experiment_id": id}).to_string();
            let now = crate::clock::now().as_second();
            redis::cmd("HSET")
                .arg(QUEUED)
                .arg(id)
                .arg(now)
                .query_async::<()>(&mut connection)
                .await?;
            let (item, mark) = (item(Source::Speedrun, payload.as_bytes()), uuid::Uuid::now_v7());
            if !self.leader.push(&item, &mark.to_string()).await? {
                return Ok(());
            }
            last.clone_from(id);
        }
        Ok(())
    }

    /// Sorted, without those that run or wait to begin.
    async fn eligible_ids(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<String>, RedisError> {
        let running: Vec<String> = redis::cmd("HKEYS").arg(RUNS).query_async(connection).await?;
        let queued: std::collections::BTreeMap<String, u64> =
            redis::cmd("HGETALL").arg(QUEUED).query_async(connection).await?;
        let now = crate::clock::now().as_second().unsigned_abs();
        let mut ids = Vec::new();
        for key in super::scan(connection, "experiments:*").await? {
            let id = key.strip_prefix("experiments:").unwrap_or(&key).to_owned();
            let waits = queued.get(&id).is_some_and(|at| now.saturating_sub(*at) < FORGOTTEN);
            if waits || running.contains(&id) {
                continue;
            }
            if self.eligible.contains(&state_of(connection, &id).await?) {
                ids.push(id);
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}

/// The state of an experiment; empty where it has none.
async fn state_of(connection: &mut MultiplexedConnection, id: &str) -> Result<String, RedisError> {
    let key = experiments::key(id);
    let state: Result<Option<Vec<u8>>, RedisError> =
        redis::cmd("HGET").arg(&key).arg("state").query_async(connection).await;
    match state {
        Ok(state) => Ok(String::from_utf8_lossy(&state.unwrap_or_default()).into_owned()),
        Err(error) if error.code() == Some("WRONGTYPE") => {
            let text: Result<Option<Vec<u8>>, RedisError> =
                redis::cmd("GET").arg(&key).query_async(connection).await;
            let text = text.ok().flatten().unwrap_or_default();
            Ok(Stored::Document(String::from_utf8_lossy(&text).into_owned()).state())
        }
        Err(error) => Err(error),
    }
}
