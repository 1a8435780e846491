//! What Redis is told: the ledger's outbox, in order, until acknowledged; live progress, best effort.
//!
//! Must not hold up a run, nor lose a message because one key is of the wrong type.

mod held;
mod progress;
mod runs;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};

use crate::health::Health;
use crate::ledger::{Acknowledged, Ledger, OutboxEntry, OutboxKind};
use crate::link::{Link, is_forbidden, is_outage};
use held::Held;

pub use progress::Progress;

/// Most messages sent in one go.
const BATCH: u32 = 256;
/// After Redis refused.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks at the outbox at least so often.
const LOOK: Duration = Duration::from_secs(5);

/// How often what is held is looked after.
const HELD_AGAIN: Duration = Duration::from_secs(1);

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
    held: Mutex<Held>,
}

impl Publisher {
    /// One that has sent nothing.
    pub fn new(link: Arc<Link>, ledger: Ledger, health: Arc<Health>, status_ttl: Duration) -> Self {
        let (sent, held) = (AtomicI64::new(0), Mutex::default());
        Self { link, ledger, health, status_ttl, sent, held }
    }

    /// Sends for ever.
    pub async fn run(&self) {
        loop {
            // The timeout guards against a question that got lost, and looks after what is held.
            let wait = if self.held().is_empty() { LOOK } else { HELD_AGAIN };
            let well = if self.held().is_full() {
                tokio::time::sleep(wait).await;
                true
            } else {
                let next = self.ledger.next_outbox(self.acknowledged(), BATCH);
                match tokio::time::timeout(wait, next).await {
                    Ok(Ok(entries)) => self.send_batch(&entries).await,
                    Ok(Err(_)) => false,
                    Err(_) => true,
                }
            };
            if !well || !self.try_held().await {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Sends what is there; `false`: Redis or the ledger refused, the next start tries again.
    pub async fn send_all(&self) -> bool {
        loop {
            let Ok(entries) = self.ledger.outbox(self.acknowledged(), BATCH).await else {
                return false;
            };
            if entries.is_empty() || self.held().is_full() {
                return self.held().is_empty();
            }
            if !self.send_batch(&entries).await {
                return false;
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledged(&self) -> Acknowledged {
        Acknowledged { up_to: self.sent.load(Ordering::Relaxed), but: self.held().kept() }
    }

    async fn send_batch(&self, entries: &[OutboxEntry]) -> bool {
        self.health.metrics().set_outbox(entries.len());
        // Jobs go out many at a time; a run's messages one by one, in their place.
        for part in entries.chunk_by(|a, b| (a.kind, b.kind) == (OutboxKind::Job, OutboxKind::Job))
        {
            // What follows a message that is held waits with it.
            let (wait, go): (Vec<OutboxEntry>, Vec<OutboxEntry>) =
                part.iter().cloned().partition(|entry| self.held().holds(&entry.subject));
            match self.send(&go).await {
                Ok(forbidden) => self.hold(forbidden, wait),
                Err(error) => {
                    self.link.failed(&error).await;
                    return false;
                }
            }
            if let Some(last) = part.last() {
                self.sent.store(last.seq, Ordering::Relaxed);
            }
        }
        true
    }

    /// Keeps what Redis forbids, and what must wait for that.
    fn hold(&self, forbidden: Option<Forbidden>, wait: Vec<OutboxEntry>) {
        let mut held = self.held();
        if let Some(Forbidden { entries, why }) = forbidden {
            if held.is_empty() {
                self.health.set_publish_fault(Some(format!("it forbids what it is told: {why}")));
                tracing::error!(
                    event = "messages_held",
                    subject = entries[0].subject,
                    error = why,
                    "Redis forbids messages; they are kept and tried again, those of others go on"
                );
            }
            entries.into_iter().for_each(|entry| held.add(entry));
        }
        wait.into_iter().for_each(|entry| held.add(entry));
    }

    /// Tries what is held, now and then; `false`: Redis is away.
    async fn try_held(&self) -> bool {
        loop {
            let next = self.held().next(Instant::now());
            let Some(entry) = next else { return true };
            match self.send(std::slice::from_ref(&entry)).await {
                Ok(Some(_)) => return true,
                Ok(None) => {
                    let mut held = self.held();
                    held.sent(&entry);
                    if held.is_empty() {
                        self.health.set_publish_fault(None);
                        tracing::info!(
                            event = "messages_released",
                            "Redis takes all messages again"
                        );
                    }
                }
                Err(error) => {
                    self.link.failed(&error).await;
                    return false;
                }
            }
        }
    }

    /// Sends either jobs, or one message of a run. What Redis forbids comes back.
    async fn send(&self, entries: &[OutboxEntry]) -> Result<Option<Forbidden>, RedisError> {
        let Some(first) = entries.first() else { return Ok(None) };
        let mut connection = self.link.connection().await?;
        let sent = match first.kind {
            OutboxKind::Job => return self.send_jobs(&mut connection, entries).await,
            OutboxKind::RunBegan => runs::began(&mut connection, first).await,
            OutboxKind::RunEnded => runs::ended(&mut connection, first).await,
        };
        match sent {
            Ok(()) => Ok(None),
            Err(error) if is_forbidden(&error) => {
                Ok(Some(Forbidden { entries: vec![first.clone()], why: error.to_string() }))
            }
            Err(error) if !is_outage(&error) => {
                refused(first, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// One pipeline for all. What is refused in it by itself, such as a key of the wrong type, takes
    /// nothing else along and is not repeated.
    async fn send_jobs(
        &self,
        connection: &mut MultiplexedConnection,
        entries: &[OutboxEntry],
    ) -> Result<Option<Forbidden>, RedisError> {
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
        let (mut answers, mut forbidden) = (answers.into_iter(), None::<Forbidden>);
        for (entry, asked) in entries.iter().zip(asks) {
            let error = answers.by_ref().take(asked).filter_map(Result::err).fold(None, worse);
            match (error, &mut forbidden) {
                // Let through or not: it must not stand before one that is sent again.
                (_, Some(forbidden)) if forbidden.concerns(entry) => {
                    forbidden.entries.push(entry.clone());
                }
                (Some(error), forbidden) if is_forbidden(&error) => {
                    let why = error.to_string();
                    let entries = Vec::new();
                    forbidden.get_or_insert(Forbidden { entries, why }).entries.push(entry.clone());
                }
                (Some(error), _) => refused(entry, &error),
                (None, _) => {}
            }
        }
        Ok(forbidden)
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

/// Messages that Redis forbids, in order.
#[derive(Debug)]
struct Forbidden {
    entries: Vec<OutboxEntry>,
    why: String,
}

impl Forbidden {
    fn concerns(&self, entry: &OutboxEntry) -> bool {
        self.entries.iter().any(|forbidden| forbidden.subject == entry.subject)
    }
}

/// Of two errors the one that may pass: its message must be told again.
fn worse(known: Option<RedisError>, error: RedisError) -> Option<RedisError> {
    known.filter(|known| is_forbidden(known) || !is_forbidden(&error)).or(Some(error))
}

/// One line for a message that Redis will never take.
fn refused(entry: &OutboxEntry, error: &RedisError) {
    tracing::error!(event = "message_refused", subject = entry.subject, error = %error, "Redis refused a message; it is left out");
}

/// A `null` result of a job that ended well is a result.
fn ended_well(fields: &Fields) -> bool {
    fields.get("status").and_then(Json::as_str) == Some("COMPLETED")
}
