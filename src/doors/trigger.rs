//! What is said on channels: triggers, schedule updates, that a leader has stopped.
//!
//! Every executor listens, so that a hand-over misses little; only the leader acts.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::RedisError;
use serde::Deserialize;
use tokio::sync::Notify;

use super::leader::{Leader, RELEASED, item};
use crate::cron::Expression;
use crate::job::Source;
use crate::link::timed_out;

/// Where schedules are changed.
const SCHEDULES: &str = "fullsend:schedules";
/// How often the subscription is asked whether it is there, and how long its answer may take.
const PING: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(2);
/// After the subscription broke.
const PAUSE: Duration = Duration::from_millis(250);
/// How often an act is tried while Redis is away, and how long in all a trigger is kept for that.
const AGAIN: Duration = Duration::from_millis(200);
const TRIES: usize = 50;

/// The listener.
#[derive(Debug)]
pub struct Triggers {
    /// Whether to act.
    pub leader: Arc<Leader>,
    /// Channels on which triggers arrive.
    pub channels: Vec<String>,
    /// Told when a schedule has changed.
    pub schedules_changed: Arc<Notify>,
}

/// A schedule update.
#[derive(Debug, Deserialize)]
struct Update {
    experiment_id: String,
    schedule: Option<String>,
    timezone: Option<String>,
}

impl Triggers {
    /// Listens for ever.
    pub async fn run(&self) {
        loop {
            if let Err(error) = self.listen().await {
                self.leader.link().failed(&error).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Listens over one connection until it breaks, or Redis is found to be away.
    async fn listen(&self) -> Result<(), RedisError> {
        let mut channels = self.channels.clone();
        channels.extend([SCHEDULES, RELEASED].map(str::to_owned));
        let (mut asking, mut stream) = self.leader.link().subscription(&channels).await?.split();
        let mut up = self.leader.link().state();
        let _ = up.wait_for(|up| *up).await;
        // Nothing else shows that a connection on which nothing comes is still one.
        let mut ping = tokio::time::interval(PING);
        loop {
            let message = tokio::select! {
                message = stream.next() => Some(message),
                _ = up.wait_for(|up| !*up) => return Ok(()),
                _ = ping.tick() => None,
            };
            let Some(message) = message else {
                let pong = tokio::time::timeout(PONG, asking.ping::<redis::Value>()).await;
                pong.unwrap_or_else(|_| Err(timed_out()))?;
                continue;
            };
            let Some(message) = message else { return Ok(()) };
            match message.get_channel_name() {
                RELEASED => self.leader.look_now(),
                SCHEDULES => {
                    self.act("schedule update", || self.update(message.get_payload_bytes())).await
                }
                _ => {
                    let item = item(Source::Trigger, message.get_payload_bytes());
                    let mark = uuid::Uuid::now_v7().to_string();
                    self.act("trigger", || self.leader.push(&item, &mark)).await;
                }
            }
        }
    }

    /// Acts, trying again through a short outage; does nothing if another leads.
    async fn act<F: Future<Output = Result<bool, RedisError>>>(
        &self,
        what: &str,
        act: impl Fn() -> F,
    ) {
        if self.leader.lease().borrow().is_none() {
            return;
        }
        for _ in 0..TRIES {
            match act().await {
                Ok(_) => return,
                Err(error) => self.leader.link().failed(&error).await,
            }
            tokio::time::sleep(AGAIN).await;
        }
        tracing::error!(
            event = "message_lost",
            "a {what} could not be acted on: Redis was away too long"
        );
    }

    /// Stores or removes a schedule; what is no update gets a log line.
    async fn update(&self, payload: &[u8]) -> Result<bool, RedisError> {
        let update: Update = match serde_json::from_slice(payload) {
            Ok(update) => update,
            Err(error) => {
                tracing::warn!(event = "bad_schedule", error = %error, "a schedule update must be {{experiment_id, schedule, timezone}}");
                return Ok(true);
            }
        };
        let key = format!("schedules:{}", update.experiment_id);
        let mut connection = self.leader.link().connection().await?;
        match &update.schedule {
            None => redis::cmd("DEL").arg(&key).query_async::<()>(&mut connection).await?,
            Some(schedule) => {
                if let Err(error) = Expression::parse(schedule) {
                    tracing::warn!(event = "bad_schedule", experiment_id = update.experiment_id, schedule, error = %error, "stored all the same; it does not fire");
                }
                let value = match &update.timezone {
                    None => schedule.clone(),
                    Some(zone) => {
                        serde_json::json!({"schedule": schedule, "timezone": zone}).to_string()
                    }
                };
                redis::cmd("SET").arg(&key).arg(value).query_async::<()>(&mut connection).await?;
            }
        }
        tracing::info!(
            event = "schedule_updated",
            experiment_id = update.experiment_id,
            schedule = update.schedule,
            "takes effect at once"
        );
        self.schedules_changed.notify_one();
        Ok(true)
    }
}
