//! Schedules of experiments: the leader fires each due time once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;

use super::firing::{Fired, Firing, clock_entries, note_seen};
use super::leader::{Leader, item};
use super::timetable::{ClockEntry, Schedule};
use crate::clock::{self, Timestamp};
use crate::experiments::{Metric, Metrics};
use crate::job::Source;

/// The longest sleep: the clock may be set meanwhile.
const SLEEP: Duration = Duration::from_secs(1);
/// A longer stall than a lease lasts is a clock that was set: its times do not all fire.
const STALL: Duration = Duration::from_secs(10);
/// After Redis refused.
const PAUSE: Duration = Duration::from_millis(500);

/// The door.
#[derive(Debug)]
pub struct Cron {
    /// Whether to act.
    pub leader: Arc<Leader>,
    /// For `run_skipped`.
    pub metrics: Metrics,
    /// How often schedules are read again.
    pub check_interval: Duration,
    /// How late a missed time may fire.
    pub window: Duration,
    /// The zone of schedules without one.
    pub zone: String,
    /// States in which an experiment is started.
    pub eligible: Vec<String>,
    /// Told when a schedule has changed.
    pub changed: Arc<Notify>,
}

/// A schedule with what is remembered of it.
#[derive(Debug)]
struct Entry {
    schedule: Schedule,
    clock: ClockEntry,
    next: Option<Timestamp>,
}

impl Cron {
    /// Fires for ever, while leading.
    pub async fn run(self) {
        let mut lease = self.leader.lease();
        let mut told = HashMap::new();
        loop {
            let held = lease.wait_for(Option::is_some).await.ok().and_then(|lease| lease.clone());
            let Some(held) = held else { return };
            if let Err(error) = self.lead(&held, &mut told).await {
                self.leader.link().failed(&error).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Fires as long as this lease holds.
    async fn lead(
        &self,
        lease: &str,
        told: &mut HashMap<String, String>,
    ) -> Result<(), RedisError> {
        let mut connection = self.leader.link().connection().await?;
        let since = clock::now();
        let mut table = self.read(&mut connection, told, since).await?;
        self.catch_up(&mut connection, lease, &mut table).await?;
        let mut read_again = clock::now() + self.check_interval;
        let mut changes = self.leader.lease();
        while changes.borrow_and_update().as_deref() == Some(lease) {
            let now = clock::now();
            for (id, entry) in &mut table {
                // After a stall there may be several; while the lease holds each one fires.
                while let Some(due) = entry.next.filter(|due| *due <= now) {
                    self.fire(&mut connection, lease, id, entry, due).await?;
                    entry.next = entry.schedule.next_after(due.max(now - STALL));
                }
            }
            let earliest = table.values().filter_map(|entry| entry.next).min();
            let until = earliest.map_or(read_again, |next| next.min(read_again));
            let left =
                Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
            let reread = tokio::select! {
                () = tokio::time::sleep(left.min(SLEEP)) => clock::now() >= read_again,
                () = self.changed.notified() => true,
                _ = changes.changed() => false,
            };
            if reread {
                table = self.read(&mut connection, told, since).await?;
                read_again = clock::now() + self.check_interval;
            }
        }
        Ok(())
    }

    /// All schedules stored, with what is remembered of each.
    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        told: &mut HashMap<String, String>,
        since: Timestamp,
    ) -> Result<BTreeMap<String, Entry>, RedisError> {
        let now = clock::now();
        let mut remembered = clock_entries(connection).await?;
        let mut table = BTreeMap::new();
        for key in super::scan(connection, "schedules:*").await? {
            let id = key.strip_prefix("schedules:").unwrap_or(&key).to_owned();
            let stored: Result<Option<Vec<u8>>, RedisError> =
                redis::cmd("GET").arg(&key).query_async(connection).await;
            let text = match stored {
                Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
                Ok(None) => continue,
                Err(error) if error.code() == Some("WRONGTYPE") => "(not a text)".to_owned(),
                Err(error) => return Err(error),
            };
            let schedule = match Schedule::read(&text, &self.zone) {
                Ok(schedule) => schedule,
                Err(error) => {
                    let error = error.to_string();
                    if told.insert(id.clone(), error.clone()).as_ref() != Some(&error) {
                        tracing::warn!(
                            event = "bad_schedule",
                            experiment_id = id,
                            error,
                            "it does not fire until it is mended"
                        );
                    }
                    continue;
                }
            };
            told.remove(&id);
            let clock = match remembered.remove(&id).filter(|clock| clock.fits(&schedule)) {
                Some(clock) => clock,
                None => note_seen(connection, &id, &schedule, now).await?,
            };
            // What passed before this lease is for the catch-up.
            let base = clock.base().unwrap_or(now);
            let next = schedule.next_after(base.max(since));
            table.insert(id, Entry { schedule, clock, next });
        }
        Ok(table)
    }

    /// Times that passed while nobody led fire once together.
    async fn catch_up(
        &self,
        connection: &mut MultiplexedConnection,
        lease: &str,
        table: &mut BTreeMap<String, Entry>,
    ) -> Result<(), RedisError> {
        let now = clock::now();
        for (id, entry) in table {
            let base = entry.clock.base().unwrap_or(now);
            if let Some(due) = entry.schedule.missed(base, now, self.window) {
                tracing::info!(
                    event = "catching_up",
                    experiment_id = id,
                    due = clock::text(due),
                    "nobody led when it was due"
                );
                self.fire(connection, lease, id, entry, due).await?;
            }
            entry.next = entry.schedule.next_after(now);
        }
        Ok(())
    }

    async fn fire(
        &self,
        connection: &mut MultiplexedConnection,
        lease: &str,
        id: &str,
        entry: &mut Entry,
        due: Timestamp,
    ) -> Result<(), RedisError> {
        entry.clock = entry.clock.fired(due);
        let payload = serde_json::json!({"experiment_id": id}).to_string();
        let firing = Firing {
            lease,
            field: id,
            due,
            window: self.window,
            clock: &entry.clock,
            item: &item(Source::Cron, payload.as_bytes()),
            experiment: Some(id),
            eligible: &self.eligible,
        };
        match firing.fire(connection).await? {
            Fired::Now => tracing::info!(
                event = "schedule_fired",
                experiment_id = id,
                due = clock::text(due),
                "due"
            ),
            Fired::Running { run_id } => {
                tracing::info!(
                    event = "run_skipped",
                    experiment_id = id,
                    run_id,
                    due = clock::text(due),
                    "it still runs"
                );
                self.metrics.send(Metric {
                    experiment_id: id.to_owned(),
                    run_id: Some(run_id),
                    event: "run_skipped".into(),
                    fields: serde_json::Map::new(),
                });
            }
            Fired::Ineligible | Fired::Known | Fired::Lost => {}
        }
        Ok(())
    }
}
