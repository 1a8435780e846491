//! What Redis is told: the ledger's outbox, in order, until acknowledged; live progress, best effort.
//!
//! Must not hold up a run, nor lose a message because one key is of the wrong type.

mod progress;
mod runs;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};

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

type Json = serde_json::Value;
type Fields = serde_json::Map<String, Json>;

/// Sends the outbox.
#[derive(Debug)]
pub struct Publisher {
    link: Arc<Link>,
    ledger: Ledger,
    health: Arc<Health>,
    /// How long a job's hash stays after its end.
    status_ttl: Duration,
    /// The last message that Redis has acknowledged; told to the ledger with the next question.
    sent: AtomicI64,
}

impl Publisher {
    /// One that has sent nothing.
    pub fn new(link: Arc<Link>, ledger: Ledger, health: Arc<Health>, status_ttl: Duration) -> Self {
        Self { link, ledger, health, status_ttl, sent: AtomicI64::new(0) }
    }

    /// Sends for ever.
    pub async fn run(&self) {
        loop {
            let after = self.sent.load(Ordering::Relaxed);
            // The timeout only guards against a question that got lost.
            let asked = tokio::time::timeout(LOOK, self.ledger.next_outbox(after, BATCH)).await;
            match asked {
                Ok(Ok(entries)) if self.send_batch(&entries).await => {}
                Err(_) => {}
                Ok(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Sends what is there; `false`: Redis or the ledger refused, try again later.
    pub async fn send_all(&self) -> bool {
        loop {
            let after = self.sent.load(Ordering::Relaxed);
            let Ok(entries) = self.ledger.outbox(after, BATCH).await else { return false };
            if entries.is_empty() {
                return true;
            }
            if !self.send_batch(&entries).await {
                return false;
            }
        }
    }

    async fn send_batch(&self, entries: &[OutboxEntry]) -> bool {
        self.health.metrics().set_outbox(entries.len());
        // Jobs go out many at a time; a run's messages one by one, in their place.
        for part in entries.chunk_by(|a, b| (a.kind, b.kind) == (OutboxKind::Job, OutboxKind::Job))
        {
            if let Err(error) = self.send(part).await {
                self.link.failed(&error).await;
                return false;
            }
            if let Some(last) = part.last() {
                self.sent.store(last.seq, Ordering::Relaxed);
            }
        }
        true
    }

    /// Sends either jobs, or one message of a run.
    async fn send(&self, entries: &[OutboxEntry]) -> Result<(), RedisError> {
        let mut connection = self.link.connection().await?;
        let [entry] = entries else { return self.send_jobs(&mut connection, entries).await };
        let sent = match entry.kind {
            OutboxKind::Job => return self.send_jobs(&mut connection, entries).await,
            OutboxKind::RunBegan => runs::began(&mut connection, entry).await,
            OutboxKind::RunEnded => runs::ended(&mut connection, entry).await,
        };
        match sent {
            Err(error) if !is_outage(&error) => {
                refused(entry, &error);
                Ok(())
            }
            sent => sent,
        }
    }

    /// One pipeline for all. What is refused in it by itself, such as a key of the wrong type, takes
    /// nothing else along and is not repeated.
    async fn send_jobs(
        &self,
        connection: &mut MultiplexedConnection,
        entries: &[OutboxEntry],
    ) -> Result<(), RedisError> {
        let mut pipeline = redis::pipe();
        let mut asks = Vec::new();
        for entry in entries {
            let before = pipeline.len();
            self.add_job(entry, &mut pipeline);
            asks.push(pipeline.len() - before);
        }
        failpoint!("outbox.send", crate::failpoint::broken().into());
        let answers: Vec<Result<Value, RedisError>> =
            pipeline.ignore_errors().query_async(connection).await?;
        failpoint!("outbox.sent", crate::failpoint::broken().into());
        if let Some(error) = answers.iter().filter_map(|a| a.as_ref().err()).find(|e| is_outage(e))
        {
            return Err(error.clone());
        }
        let mut answers = answers.into_iter();
        for (entry, asked) in entries.iter().zip(asks) {
            if let Some(error) = answers.by_ref().take(asked).filter_map(Result::err).next() {
                refused(entry, &error);
            }
        }
        Ok(())
    }

    /// The hash, its expiry, the event.
    fn add_job(&self, entry: &OutboxEntry, pipeline: &mut Pipeline) {
        let key = format!("executor:job:{}", entry.subject);
        let fields: Fields = serde_json::from_str(&entry.body).unwrap_or_default();
        let (mut set, mut gone) = (redis::cmd("HSET"), redis::cmd("HDEL"));
        set.arg(&key);
        gone.arg(&key);
        for (name, value) in fields.iter().filter(|(name, _)| *name != "job_id") {
            match value {
                Json::Null if name != "result" || !ended_well(&fields) => drop(gone.arg(name)),
                Json::String(text) if name != "result" => drop(set.arg(name).arg(text)),
                value => drop(set.arg(name).arg(value.to_string())),
            }
        }
        let ended = fields.get("finished_at").is_some_and(|at| !at.is_null());
        if ended {
            gone.arg("progress");
        }
        pipeline.add_command(set);
        if gone.args_iter().count() > 2 {
            pipeline.add_command(gone);
        }
        if ended {
            let ttl = i64::try_from(self.status_ttl.as_millis()).unwrap_or(i64::MAX);
            pipeline.pexpire(&key, ttl);
        } else {
            pipeline.persist(&key);
        }
        pipeline.publish(JOB_EVENTS, &entry.body);
    }
}

/// One line for a message that Redis will never take.
fn refused(entry: &OutboxEntry, error: &RedisError) {
    tracing::error!(event = "message_refused", subject = entry.subject, error = %error, "Redis refused a message; it is left out");
}

/// A `null` result of a job that ended well is a result.
fn ended_well(fields: &Fields) -> bool {
    fields.get("status").and_then(Json::as_str) == Some("COMPLETED")
}
