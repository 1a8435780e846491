//! Schedules as data: reading one, what is due, what was missed. Pure.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::clock::{self, Timestamp};
use crate::cron::{CronError, Expression};

/// What is wrong with a stored schedule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Its expression.
    #[error("{text:?}: {source}")]
    Expression {
        /// As stored.
        text: String,
        /// Why.
        source: CronError,
    },
    /// Its zone.
    #[error("{name:?} is no time zone")]
    Zone {
        /// As stored.
        name: String,
    },
    /// It looks like JSON, but is not what it should be.
    #[error("it is neither a cron expression nor JSON {{\"schedule\", \"timezone\"}}")]
    Form,
}

/// A schedule, read.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// As written.
    pub text: String,
    /// The zone's name.
    pub zone_name: String,
    expression: Expression,
    zone: TimeZone,
}

#[derive(Deserialize)]
struct Stored {
    schedule: String,
    timezone: Option<String>,
}

impl Schedule {
    /// Reads an expression in a zone.
    pub fn new(text: &str, zone: &str) -> Result<Self, ScheduleError> {
        let expression = Expression::parse(text)
            .map_err(|source| ScheduleError::Expression { text: text.to_owned(), source })?;
        let zone_name = zone.to_owned();
        let zone =
            TimeZone::get(zone).map_err(|_| ScheduleError::Zone { name: zone.to_owned() })?;
        Ok(Self { text: text.to_owned(), zone_name, expression, zone })
    }

    /// Reads what is stored in `schedules:{id}`: an expression, or JSON with a zone of its own.
    pub fn read(stored: &str, general_zone: &str) -> Result<Self, ScheduleError> {
        if !stored.trim_start().starts_with('{') {
            return Self::new(stored, general_zone);
        }
        let stored: Stored = serde_json::from_str(stored).map_err(|_| ScheduleError::Form)?;
        Self::new(&stored.schedule, stored.timezone.as_deref().unwrap_or(general_zone))
    }

    /// The first time after an instant.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.expression.next_after(after, &self.zone)
    }

    /// The zone, for showing times.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The last time that passed after `base`, up to `now`, if it is within the window.
    pub fn missed(&self, base: Timestamp, now: Timestamp, window: Duration) -> Option<Timestamp> {
        let mut after = base.max(now - window);
        let mut last = None;
        while let Some(due) = self.next_after(after).filter(|due| *due <= now) {
            last = Some(due);
            after = due;
        }
        last
    }
}

/// What is remembered of a schedule: since when it is known, its last due time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockEntry {
    /// As it was written when it was first seen.
    pub expression: String,
    /// Its zone.
    pub timezone: String,
    /// RFC 3339.
    pub seen: String,
    /// RFC 3339; `None`: it has not fired.
    pub last: Option<String>,
}

impl ClockEntry {
    /// A schedule seen for the first time.
    pub fn first(schedule: &Schedule, now: Timestamp) -> Self {
        Self {
            expression: schedule.text.clone(),
            timezone: schedule.zone_name.clone(),
            seen: clock::text(now),
            last: None,
        }
    }

    /// Whether it is about this very schedule: a changed one begins anew.
    pub fn fits(&self, schedule: &Schedule) -> bool {
        self.expression == schedule.text && self.timezone == schedule.zone_name
    }

    /// From when on times count.
    pub fn base(&self) -> Option<Timestamp> {
        clock::parse(self.last.as_deref().unwrap_or(&self.seen))
    }

    /// The same after it fired.
    pub fn fired(&self, due: Timestamp) -> Self {
        Self { last: Some(clock::text(due)), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn missed_times_count_once_the_last_of_them_within_the_window() {
        let schedule = Schedule::new("*/10 * * * *", "UTC").unwrap();
        let now = at("2026-01-01T12:05:00Z");
        let hour = Duration::from_secs(3600);
        let missed = |base: &str, window| schedule.missed(at(base), now, window);
        assert_eq!(missed("2026-01-01T11:00:00Z", hour), Some(at("2026-01-01T12:00:00Z")));
        assert_eq!(missed("2026-01-01T12:00:00Z", hour), None);
        assert_eq!(missed("2026-01-01T11:00:00Z", Duration::from_secs(60)), None);
    }

    #[test]
    fn stored_schedules_are_read_in_both_forms() {
        assert_eq!(Schedule::read("0 9 * * MON", "UTC").unwrap().zone_name, "UTC");
        let json = r#"{"schedule": "0 9 * * MON", "timezone": "Europe/Berlin"}"#;
        assert_eq!(Schedule::read(json, "UTC").unwrap().zone_name, "Europe/Berlin");
        assert_eq!(Schedule::read("{", "UTC").unwrap_err(), ScheduleError::Form);
        assert!(Schedule::read("61 * * * *", "UTC").unwrap_err().to_string().contains("61"));
        let zone = r#"{"schedule": "0 9 * * MON", "timezone": "Mars"}"#;
        assert!(Schedule::read(zone, "UTC").unwrap_err().to_string().contains("Mars"));
    }
}
