//! Firing a due time once across all executors, and what is remembered of schedules in Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};

use super::leader::{DUE, LEADER};
use super::timetable::{ClockEntry, Schedule};
use crate::clock::{self, Timestamp};
use crate::experiments;
use crate::link::Perform;

/// What is remembered of schedules.
const CLOCK: &str = "executor:clock";
/// A mark stays at least so long: nobody comes later than that with the same due time.
const MARK: Duration = Duration::from_secs(86_400);

/// A due time that has come.
#[derive(Debug)]
pub(super) struct Firing<'a> {
    /// The lease that must still hold; empty: none is needed.
    pub(super) lease: &'a str,
    /// The schedule's field in the clock.
    pub(super) field: &'a str,
    pub(super) due: Timestamp,
    pub(super) window: Duration,
    /// What is remembered from now on.
    pub(super) clock: &'a ClockEntry,
    pub(super) item: &'a [u8],
    /// Only if this experiment may start.
    pub(super) experiment: Option<&'a str>,
    pub(super) eligible: &'a [String],
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fired {
    Now,
    /// Another has fired it.
    Known,
    /// Another leads.
    Lost,
    /// The experiment's state says no.
    Ineligible,
    /// The experiment still runs.
    Running {
        run_id: String,
    },
}

impl Firing<'_> {
    pub(super) async fn fire(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Fired, RedisError> {
        let experiment = self.experiment.unwrap_or_default();
        let script = Script::new(include_str!("lua/fire.lua"));
        let mut call = script.key(LEADER);
        call.key(DUE)
            .key(format!("executor:fired:{}:{}", self.field, self.due.as_second()))
            .key(CLOCK)
            .key(experiments::RUNS)
            .key(experiments::key(experiment))
            .arg(self.lease)
            .arg(self.item)
            .arg((self.window * 2).max(MARK).as_secs())
            .arg(self.field)
            .arg(serde_json::to_string(self.clock).unwrap_or_default())
            .arg(experiment);
        for state in self.eligible {
            call.arg(state);
        }
        failpoint!("fire.before", crate::failpoint::broken().into());
        let answer: Vec<String> = call.perform(connection).await?;
        failpoint!("fire.after", crate::failpoint::broken().into());
        Ok(match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["fired"] => Fired::Now,
            ["known"] => Fired::Known,
            ["ineligible"] => Fired::Ineligible,
            ["running", run_id] => Fired::Running { run_id: (*run_id).to_owned() },
            _ => Fired::Lost,
        })
    }
}

/// All that is remembered.
pub(super) async fn clock_entries(
    connection: &mut MultiplexedConnection,
) -> Result<BTreeMap<String, ClockEntry>, RedisError> {
    let texts: BTreeMap<String, String> =
        redis::cmd("HGETALL").arg(CLOCK).query_async(connection).await?;
    let read = |(id, text): (String, String)| Some((id, serde_json::from_str(&text).ok()?));
    Ok(texts.into_iter().filter_map(read).collect())
}

/// Remembers since when a schedule is known.
pub(super) async fn note_seen(
    connection: &mut MultiplexedConnection,
    field: &str,
    schedule: &Schedule,
    now: Timestamp,
) -> Result<ClockEntry, RedisError> {
    let entry = ClockEntry::first(schedule, now);
    let text = serde_json::to_string(&entry).unwrap_or_default();
    redis::cmd("HSET").arg(CLOCK).arg(field).arg(text).query_async::<()>(connection).await?;
    tracing::info!(
        event = "schedule_seen",
        schedule = schedule.text,
        timezone = schedule.zone_name,
        next = schedule.next_after(now).map(clock::text),
        "{field}"
    );
    Ok(entry)
}
