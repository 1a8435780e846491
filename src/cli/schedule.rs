//! `executor schedule`: when things fire.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::args::ScheduleCommand;
use super::job::Format;
use super::{CliError, exit, out, runtime, table};
use crate::clock::{self, Timestamp};
use crate::config::Settings;
use crate::doors::timetable::Schedule;
use crate::link;

pub(super) fn schedule(command: &ScheduleCommand, settings: &Settings) -> Result<u8, CliError> {
    match command {
        ScheduleCommand::Test { expression, timezone, from, count, json } => {
            let zone = timezone.as_deref().unwrap_or(&settings.timezone);
            let from = match from {
                None => clock::now(),
                Some(text) => clock::parse(text).ok_or_else(|| {
                    CliError::Usage(format!("--from {text}: it must be a time with its zone, such as 2026-03-08T10:00:00Z"))
                })?,
            };
            test(expression, zone, from, *count, Format::of(*json))
        }
        ScheduleCommand::List { json } => list(settings, Format::of(*json)),
    }
}

fn test(
    expression: &str,
    zone: &str,
    from: Timestamp,
    count: usize,
    format: Format,
) -> Result<u8, CliError> {
    let schedule =
        Schedule::new(expression, zone).map_err(|error| CliError::Usage(error.to_string()))?;
    let mut times = Vec::new();
    let mut after = from;
    while times.len() < count
        && let Some(next) = schedule.next_after(after)
    {
        times.push(next);
        after = next;
    }
    if times.is_empty() && count > 0 {
        return Err(CliError::Failed(format!(
            "{expression:?} never fires: its date does not come"
        )));
    }
    match format {
        Format::Programs => out::json(&json!({
            "expression": expression,
            "timezone": zone,
            "next": times.iter().map(|at| utc(*at)).collect::<Vec<_>>(),
        })),
        Format::People => {
            times.iter().for_each(|at| out::line(&words(*at, from, schedule.zone())));
        }
    }
    Ok(exit::OK)
}

fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `in 3 h 12 min, Mon 09:00 PST (2026-03-09T16:00:00Z)`.
fn words(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let format = if left < Duration::from_secs(6 * 86_400) {
        "%a %H:%M:%S %Z"
    } else {
        "%a %d %b %Y %H:%M:%S %Z"
    };
    let local = local.strftime(format).to_string().replace(":00 ", " ");
    format!("in {}, {local} ({})", table::span(left), utc(at))
}

/// A schedule that is known, and its next time or what is wrong with it.
struct Known {
    id: String,
    from: &'static str,
    text: String,
    read: Result<Schedule, String>,
}

fn list(settings: &Settings, format: Format) -> Result<u8, CliError> {
    let of_settings = settings.schedules.iter().map(|schedule| {
        let zone = schedule.timezone.as_deref().unwrap_or(&settings.timezone);
        Known {
            id: schedule.id.clone(),
            from: "configuration",
            text: schedule.cron.clone(),
            read: Schedule::new(&schedule.cron, zone).map_err(|error| error.to_string()),
        }
    });
    let mut known: Vec<Known> = of_settings.collect();
    if let Some(url) = &settings.redis {
        for (id, text) in runtime()?.block_on(link::schedules(url))? {
            let read = Schedule::read(&text, &settings.timezone).map_err(|error| error.to_string());
            known.push(Known { id, from: "redis", text, read });
        }
    }
    let now = clock::now();
    match format {
        Format::Programs => out::json(&known.iter().map(|known| as_json(known, now)).collect()),
        Format::People if known.is_empty() => out::note("no schedules"),
        Format::People => {
            let rows: Vec<_> = known.iter().map(|known| as_row(known, now)).collect();
            out::line(&table::table(&["ID", "FROM", "SCHEDULE", "ZONE", "NEXT"], &rows));
        }
    }
    Ok(exit::OK)
}

fn as_json(known: &Known, now: Timestamp) -> Value {
    let (next, zone, error) = match &known.read {
        Ok(schedule) => (schedule.next_after(now).map(utc), Some(&schedule.zone_name), None),
        Err(error) => (None, None, Some(error)),
    };
    json!({"id": known.id, "from": known.from, "schedule": known.text, "timezone": zone, "next": next, "error": error})
}

fn as_row(known: &Known, now: Timestamp) -> Vec<String> {
    let (zone, next) = match &known.read {
        Ok(schedule) => (
            schedule.zone_name.clone(),
            schedule
                .next_after(now)
                .map_or_else(|| "never".to_owned(), |at| words(at, now, schedule.zone())),
        ),
        Err(error) => (String::new(), format!("faulty: {error}")),
    };
    vec![known.id.clone(), known.from.to_owned(), known.text.clone(), zone, next]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_words_people_read() {
        let zone = TimeZone::get("America/Los_Angeles").unwrap();
        let now = "2026-03-09T12:48:00Z".parse().unwrap();
        let at = "2026-03-09T16:00:00Z".parse().unwrap();
        assert_eq!(words(at, now, &zone), "in 3 h 12 min, Mon 09:00 PDT (2026-03-09T16:00:00Z)");
    }
}
