//! Schedules of the configuration: jobs on a clock, in every mode, with or without Redis.
//!
//! With Redis each executor that has a schedule marks its due time first and pushes if nobody had;
//! without, the ledger recognises a repeat by its receipt.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;

use super::firing::{Fired, Firing, clock_entries, note_seen};
use super::intake::{self, Intake};
use super::leader::item;
use super::timetable::{ClockEntry, Schedule};
use crate::clock::{self, Timestamp};
use crate::config::Settings;
use crate::experiments::tools::ToolTable;
use crate::job::Source;
use crate::ledger::{ClockRow, Ledger, LedgerError};
use crate::link::Link;

/// The longest sleep: the clock may be set meanwhile.
const SLEEP: Duration = Duration::from_secs(1);
/// After Redis or the ledger refused.
const PAUSE: Duration = Duration::from_millis(500);

/// Where due times are marked and jobs go.
#[derive(Debug)]
pub enum Clockwork {
    /// Marks in Redis; whoever has a free slot runs the job.
    Redis(Arc<Link>),
    /// The ledger itself.
    Ledger(Ledger, Intake),
}

/// Why a round failed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

#[derive(Debug)]
struct Entry {
    id: String,
    schedule: Schedule,
    payload: Vec<u8>,
    clock: Option<ClockEntry>,
    next: Option<Timestamp>,
}

/// The door.
#[derive(Debug)]
pub struct Schedules {
    entries: Vec<Entry>,
    window: Duration,
    clockwork: Clockwork,
}

impl Schedules {
    /// The schedules of the settings, which were checked before.
    pub fn new(settings: &Settings, clockwork: Clockwork) -> Self {
        let entry = |schedule: &crate::config::Schedule| {
            let zone = schedule.timezone.as_deref().unwrap_or(&settings.timezone);
            Some(Entry {
                id: format!("schedule:{}", schedule.id),
                schedule: Schedule::new(&schedule.cron, zone).ok()?,
                payload: schedule.job.to_string().into_bytes(),
                clock: None,
                next: None,
            })
        };
        let entries = settings.schedules.iter().filter_map(entry).collect();
        Self { entries, window: settings.cron_catch_up_window, clockwork }
    }

    /// Fires for ever.
    pub async fn run(mut self) {
        if self.entries.is_empty() {
            return;
        }
        let mut told = false;
        loop {
            let wait = match self.round().await {
                Ok(()) => {
                    told = false;
                    self.until_next()
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(event = "schedules_delayed", error = %error, "due times are made up for within the catch-up window");
                    }
                    PAUSE
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn until_next(&self) -> Duration {
        let next = self.entries.iter().filter_map(|entry| entry.next).min();
        let left = next.map(|next| next.duration_since(Timestamp::now()));
        left.map_or(SLEEP, |left| Duration::try_from(left).unwrap_or_default()).min(SLEEP)
    }

    /// Fires what is due by now.
    async fn round(&mut self) -> Result<(), RoundError> {
        let now = clock::now();
        self.remember(now).await?;
        for entry in &mut self.entries {
            let Some(known) = entry.clock.clone() else { continue };
            let base = known.base().unwrap_or(now);
            if let Some(due) = entry.schedule.missed(base, now, self.window) {
                let fired = known.fired(due);
                fire(&self.clockwork, entry, due, self.window, &fired).await?;
                entry.clock = Some(fired);
            }
            entry.next = entry.schedule.next_after(now);
        }
        Ok(())
    }

    /// Reads, once, what is remembered of each; a new or changed one is known from now on.
    async fn remember(&mut self, now: Timestamp) -> Result<(), RoundError> {
        if self.entries.iter().all(|entry| entry.clock.is_some()) {
            return Ok(());
        }
        match &self.clockwork {
            Clockwork::Redis(link) => {
                let mut connection = link.connection().await?;
                let mut known = clock_entries(&mut connection).await?;
                for entry in &mut self.entries {
                    let fits = known.remove(&entry.id).filter(|clock| clock.fits(&entry.schedule));
                    entry.clock = Some(match fits {
                        Some(clock) => clock,
                        None => note_seen(&mut connection, &entry.id, &entry.schedule, now).await?,
                    });
                }
            }
            Clockwork::Ledger(ledger, _) => {
                let rows = ledger.clock().await?;
                for entry in &mut self.entries {
                    let known = rows.iter().find(|row| row.id == entry.id).map(of_row);
                    let fits = known.filter(|clock| clock.fits(&entry.schedule));
                    let clock = fits.unwrap_or_else(|| ClockEntry::first(&entry.schedule, now));
                    ledger.note_clock(to_row(&entry.id, &clock)).await?;
                    entry.clock = Some(clock);
                }
            }
        }
        Ok(())
    }
}

async fn fire(
    clockwork: &Clockwork,
    entry: &Entry,
    due: Timestamp,
    window: Duration,
    fired: &ClockEntry,
) -> Result<(), RoundError> {
    let first = match clockwork {
        Clockwork::Redis(link) => {
            let mut connection = link.connection().await?;
            let firing = Firing {
                lease: "",
                field: &entry.id,
                due,
                window,
                clock: fired,
                item: &item(Source::Cron, &entry.payload),
                experiment: None,
                eligible: &[],
            };
            firing.fire(&mut connection).await? == Fired::Now
        }
        Clockwork::Ledger(ledger, intake) => {
            let receipt = format!("{}:{}", entry.id, due.as_second());
            let draft = intake.read(&entry.payload);
            let arrival = intake.arrival(
                Some(receipt),
                Source::Cron,
                &entry.payload,
                draft,
                &ToolTable::new(),
            );
            let accepted = ledger.accept(vec![arrival.clone()]).await?;
            intake::tell(&[arrival], &accepted);
            ledger.note_clock(to_row(&entry.id, fired)).await?;
            accepted.iter().any(|accepted| !accepted.repeated)
        }
    };
    if first {
        tracing::info!(
            event = "schedule_fired",
            schedule = entry.id,
            due = clock::text(due),
            "due"
        );
    }
    Ok(())
}

fn of_row(row: &ClockRow) -> ClockEntry {
    ClockEntry {
        expression: row.expression.clone(),
        timezone: row.timezone.clone(),
        seen: row.seen.clone(),
        last: row.last.clone(),
    }
}

fn to_row(id: &str, clock: &ClockEntry) -> ClockRow {
    ClockRow {
        id: id.to_owned(),
        expression: clock.expression.clone(),
        timezone: clock.timezone.clone(),
        seen: clock.seen.clone(),
        last: clock.last.clone(),
    }
}
