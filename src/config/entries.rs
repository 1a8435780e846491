//! Settings that have entries of their own, `task_types` and `schedules`: every fault in them, each with
//! its entry, its field, its value and what would be right.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::values::{positive, structured, text, whole};
use super::{Schedule, TaskTypeSettings};
use crate::cron::Expression;
use crate::job::{RetryOn, TaskType};

const TASK_TYPES: &str = "event, on_demand, scheduled_batch, etl or maintenance";
const SCHEDULE_FIELDS: &[&str] = &["id", "cron", "timezone", "job"];

/// How much of a wrong value is shown.
const SHOWN: usize = 100;

/// The faults found so far, all under one key.
struct Faults {
    key: &'static str,
    found: Vec<String>,
}

impl Faults {
    fn wrong(&mut self, place: &str, value: &Value, right: &str) {
        let shown: String = value.to_string().chars().take(SHOWN).collect();
        self.found.push(format!("{}{place} is {shown}; it must be {right}", self.key));
    }

    fn note(&mut self, place: &str, what: &str) {
        self.found.push(format!("{}{place} {what}", self.key));
    }

    /// A field: what is made of it, or nothing and a fault.
    fn field<T>(&mut self, place: &str, value: &Value, right: &str, read: Option<T>) -> Option<T> {
        if read.is_none() {
            self.wrong(place, value, right);
        }
        read
    }

    fn or<T>(self, good: T) -> Result<T, Vec<String>> {
        if self.found.is_empty() { Ok(good) } else { Err(self.found) }
    }
}

/// `task_types`, each field in its bounds.
pub(super) fn task_types(
    value: &Value,
) -> Result<BTreeMap<TaskType, TaskTypeSettings>, Vec<String>> {
    let mut faults = Faults { key: "task_types", found: Vec::new() };
    let mut good = BTreeMap::new();
    let structured = structured(value);
    let Some(types) = structured.as_ref().and_then(Value::as_object) else {
        faults.wrong(
            "",
            value,
            &format!("a map from {TASK_TYPES} to {{priority, timeout, max_attempts, retry_on}}"),
        );
        return faults.or(good);
    };
    for (name, settings) in types {
        let place = format!(".{name}");
        let kind = TaskType::parse(name);
        if kind.is_none() {
            faults.note(&place, &format!("is no task type; it must be {TASK_TYPES}"));
        }
        let Some(settings) = settings.as_object() else {
            faults.wrong(&place, settings, "a map {priority, timeout, max_attempts, retry_on}");
            continue;
        };
        let read = task_type(&place, settings, &mut faults);
        good.extend(kind.map(|kind| (kind, read)));
    }
    faults.or(good)
}

fn task_type(place: &str, settings: &Map<String, Value>, faults: &mut Faults) -> TaskTypeSettings {
    let mut read = TaskTypeSettings::default();
    for (field, value) in settings {
        let place = format!("{place}.{field}");
        match field.as_str() {
            "priority" => {
                let number = whole(value, 1, 9).and_then(|n| u8::try_from(n).ok());
                read.priority = faults.field(&place, value, "a whole number from 1 to 9", number);
            }
            "timeout" => {
                let right = "a duration over 0, such as 8, 0.5, 500ms, 8s, 5m, 2h or 7d";
                read.timeout = faults.field(&place, value, right, positive(value));
            }
            "max_attempts" => {
                let number = whole(value, 1, 100).and_then(|n| u32::try_from(n).ok());
                let right = "a whole number from 1 to 100";
                read.max_attempts = faults.field(&place, value, right, number);
            }
            "retry_on" => {
                let word = value.as_str().and_then(RetryOn::from_word);
                read.retry_on = faults.field(&place, value, "all or transient", word);
            }
            _ => faults.note(
                &place,
                "is not known; known are priority, timeout, max_attempts and retry_on",
            ),
        }
    }
    read
}

/// `schedules`: a list of `{id, cron, timezone, job}`, ids unique.
pub(super) fn schedules(value: &Value) -> Result<Vec<Schedule>, Vec<String>> {
    let mut faults = Faults { key: "schedules", found: Vec::new() };
    let mut good: Vec<Schedule> = Vec::new();
    let structured = structured(value);
    let Some(entries) = structured.as_ref().and_then(Value::as_array) else {
        faults.wrong("", value, "a list of {id, cron, timezone, job}");
        return faults.or(good);
    };
    for (number, entry) in (1..).zip(entries) {
        let Some(entry) = entry.as_object() else {
            faults.wrong(&format!("[{number}]"), entry, "a map {id, cron, timezone, job}");
            continue;
        };
        // By its name where it has one: entries are hard to count.
        let id = entry.get("id").and_then(text);
        let place = match &id {
            Some(id) => format!("[{number}] ({id})"),
            None => format!("[{number}]"),
        };
        let Some(schedule) = schedule(&place, entry, id, &mut faults) else { continue };
        if good.iter().any(|other| other.id == schedule.id) {
            faults.note(&place, "has the id of an entry before it; each needs its own");
        }
        good.push(schedule);
    }
    faults.or(good)
}

fn schedule(
    place: &str,
    entry: &Map<String, Value>,
    id: Option<String>,
    faults: &mut Faults,
) -> Option<Schedule> {
    let null = Value::Null;
    let of = |field: &str| entry.get(field).unwrap_or(&null);
    for field in entry.keys().filter(|field| !SCHEDULE_FIELDS.contains(&field.as_str())) {
        faults.note(
            &format!("{place}.{field}"),
            "is not known; known are id, cron, timezone and job",
        );
    }
    let id = faults.field(&format!("{place}.id"), of("id"), "a name of its own", id);
    let cron = cron(&format!("{place}.cron"), of("cron"), faults);
    let timezone = match of("timezone") {
        Value::Null => Some(None),
        zone => {
            let known = text(zone).filter(|zone| jiff::tz::TimeZone::get(zone).is_ok());
            let right = "the name of a time zone, such as UTC or Europe/Berlin";
            faults.field(&format!("{place}.timezone"), zone, right, known).map(Some)
        }
    };
    let job = Some(of("job")).filter(|job| job.is_object()).cloned();
    let right = "a job, as it would be pushed to the queue, such as {target: example_tool}";
    let job = faults.field(&format!("{place}.job"), of("job"), right, job);
    Some(Schedule { id: id?, cron: cron?, timezone: timezone?, job: job? })
}

fn cron(place: &str, value: &Value, faults: &mut Faults) -> Option<String> {
    let right = "a cron expression, such as 0 9 * * 1-5";
    let text = faults.field(place, value, right, text(value))?;
    match Expression::parse(&text) {
        Ok(_) => Some(text),
        Err(error) => {
            faults.wrong(place, value, &format!("{right}: {error}"));
            None
        }
    }
}
