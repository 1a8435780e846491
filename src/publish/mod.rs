//! What Redis is told: the ledger's outbox, in order, until acknowledged; live progress, best effort.
//!
//! Must not hold up a run, nor lose a message because one key is of the wrong type.

mod progress;
mod runs;

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisError};
use serde_json::Value;

use crate::health::Health;
use crate::ledger::{Ledger, OutboxEntry, OutboxKind};
use crate::link::{Link, is_outage};

pub use progress::Progress;

/// Most messages sent in one go.
const BATCH: u32 = 256;
/// After Redis refused.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks at the outbox at least so often.
const LOOK: Duration = Duration::from_secs(5);

/// Where changes of jobs are published.
const JOB_EVENTS: &str = "executor:job_events";

/// Sends the outbox.
#[derive(Debug)]
pub struct Publisher {
    /// Redis.
    pub link: Arc<Link>,
    /// Where the outbox is.
    pub ledger: Ledger,
    /// For the gauge.
    pub health: Arc<Health>,
    /// How long a job's hash stays after its end.
    pub status_ttl: Duration,
}

impl Publisher {
    /// Sends for ever.
    pub async fn run(&self) {
        loop {
            if !self.send_all().await {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            // The timeout only guards against a missed wake-up.
            let _ = tokio::time::timeout(LOOK, self.ledger.outbox_filled()).await;
        }
    }

    /// Sends what is there; `false`: Redis or the ledger refused, try again later.
    pub async fn send_all(&self) -> bool {
        loop {
            let Ok(entries) = self.ledger.outbox(BATCH).await else { return false };
            self.health.metrics().set_outbox(entries.len());
            if entries.is_empty() {
                return true;
            }
            // Jobs go out many at a time; a run's messages one by one, in their place.
            for part in
                entries.chunk_by(|a, b| (a.kind, b.kind) == (OutboxKind::Job, OutboxKind::Job))
            {
                if let Err(error) = self.send(part).await {
                    self.link.failed(&error).await;
                    return false;
                }
                self.ledger.delivered(part.iter().map(|entry| entry.seq).collect());
            }
        }
    }

    /// One pipeline for all; if one command in it was refused, each message by itself.
    async fn send(&self, entries: &[OutboxEntry]) -> Result<(), RedisError> {
        let mut connection = self.link.connection().await?;
        if entries.len() > 1 {
            let mut pipeline = redis::pipe();
            for entry in entries {
                self.add_job(entry, &mut pipeline);
            }
            match pipeline.query_async::<()>(&mut connection).await {
                Err(error) if !is_outage(&error) => {}
                sent => return sent,
            }
        }
        for entry in entries {
            let sent = match entry.kind {
                OutboxKind::Job => {
                    let mut pipeline = redis::pipe();
                    self.add_job(entry, &mut pipeline);
                    pipeline.query_async::<()>(&mut connection).await
                }
                OutboxKind::RunBegan => runs::began(&mut connection, entry).await,
                OutboxKind::RunEnded => runs::ended(&mut connection, entry).await,
            };
            match sent {
                Err(error) if !is_outage(&error) => {
                    tracing::error!(event = "message_refused", subject = entry.subject, error = %error, "Redis refused a message; it is left out");
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    /// The hash, its expiry, the event.
    fn add_job(&self, entry: &OutboxEntry, pipeline: &mut Pipeline) {
        let key = format!("executor:job:{}", entry.subject);
        let fields: serde_json::Map<String, Value> =
            serde_json::from_str(&entry.body).unwrap_or_default();
        let (mut set, mut gone) = (redis::cmd("HSET"), redis::cmd("HDEL"));
        set.arg(&key);
        gone.arg(&key);
        for (name, value) in fields.iter().filter(|(name, _)| *name != "job_id") {
            match value {
                Value::Null if name != "result" || !ended_well(&fields) => drop(gone.arg(name)),
                Value::String(text) if name != "result" => drop(set.arg(name).arg(text)),
                value => drop(set.arg(name).arg(value.to_string())),
            }
        }
        let ended = fields.get("finished_at").is_some_and(|at| !at.is_null());
        if ended {
            gone.arg("progress");
        }
        pipeline.add_command(set).ignore();
        if gone.args_iter().count() > 2 {
            pipeline.add_command(gone).ignore();
        }
        if ended {
            let ttl = i64::try_from(self.status_ttl.as_millis()).unwrap_or(i64::MAX);
            pipeline.pexpire(&key, ttl).ignore();
        } else {
            pipeline.persist(&key).ignore();
        }
        pipeline.publish(JOB_EVENTS, &entry.body).ignore();
    }
}

/// A `null` result of a job that ended well is a result.
fn ended_well(fields: &serde_json::Map<String, Value>) -> bool {
    fields.get("status").and_then(Value::as_str) == Some("COMPLETED")
}
