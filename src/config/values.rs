//! The kinds of values settings have: reading them from text or YAML, showing them again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::job::TaskType;

use super::{Schedule, TaskTypeSettings};

/// How a value is shown in `doctor --settings`.
pub(super) trait Shown {
    fn shown(&self) -> Value;
}

impl Shown for String {
    fn shown(&self) -> Value {
        self.as_str().into()
    }
}

impl Shown for u64 {
    fn shown(&self) -> Value {
        (*self).into()
    }
}

impl Shown for Duration {
    /// Seconds; whole ones without fraction.
    fn shown(&self) -> Value {
        if self.subsec_nanos() == 0 { self.as_secs().into() } else { self.as_secs_f64().into() }
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> Value {
        self.display().to_string().into()
    }
}

impl Shown for Vec<String> {
    fn shown(&self) -> Value {
        self.clone().into()
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Value {
        self.as_ref().map_or_else(|| "none".into(), Shown::shown)
    }
}

/// A word of a closed set with its spelling.
#[derive(Clone, Copy)]
pub(super) struct Word<T>(pub(super) T, pub(super) &'static str);

impl<T> Shown for Word<T> {
    fn shown(&self) -> Value {
        self.1.into()
    }
}

impl Shown for BTreeMap<TaskType, TaskTypeSettings> {
    fn shown(&self) -> Value {
        let one = |settings: &TaskTypeSettings| {
            let mut map = serde_json::Map::new();
            let mut put = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    map.insert(name.to_owned(), value);
                }
            };
            put("priority", settings.priority.map(Into::into));
            put("timeout", settings.timeout.map(|timeout| timeout.shown()));
            put("max_attempts", settings.max_attempts.map(Into::into));
            put("retry_on", settings.retry_on.map(|on| on.as_str().into()));
            Value::Object(map)
        };
        Value::Object(
            self.iter().map(|(kind, settings)| (kind.as_str().to_owned(), one(settings))).collect(),
        )
    }
}

impl Shown for Vec<Schedule> {
    fn shown(&self) -> Value {
        let one = |schedule: &Schedule| {
            serde_json::json!({"id": schedule.id, "cron": schedule.cron,
                "timezone": schedule.timezone, "job": schedule.job})
        };
        self.iter().map(one).collect()
    }
}

/// A text, or a number written as one.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
    .filter(|text| !text.is_empty())
}

/// A whole number in bounds.
pub(super) fn whole(value: &Value, low: u64, high: u64) -> Option<u64> {
    let number: u64 = text(value)?.parse().ok()?;
    (low..=high).contains(&number).then_some(number)
}

/// `none`, or what `parse` makes of it.
pub(super) fn optional<T>(
    value: &Value,
    parse: impl FnOnce(&Value) -> Option<T>,
) -> Option<Option<T>> {
    if is_none(value) { Some(None) } else { parse(value).map(Some) }
}

/// The word `none`.
pub(super) fn is_none(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.trim().eq_ignore_ascii_case("none"))
}

/// Seconds, or a number with `ms`, `s`, `m`, `h` or `d`.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    let text = text(value)?;
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    // To whole milliseconds: 0.1 s is 100 ms.
    let millis = (number * seconds * 1000.0).round();
    (0.0..=1e14).contains(&millis).then(|| Duration::from_millis(millis as u64))
}

/// A duration over zero.
pub(super) fn positive(value: &Value) -> Option<Duration> {
    duration(value).filter(|duration| !duration.is_zero())
}

/// A list, or text with commas.
pub(super) fn list(value: &Value) -> Option<Vec<String>> {
    let items: Vec<String> = match value {
        Value::String(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
        Value::Array(items) => items.iter().map(text).collect::<Option<_>>()?,
        _ => return None,
    };
    items.iter().all(|item| !item.is_empty()).then_some(items)
}

/// A value, or the JSON in a text.
pub(super) fn structured(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}
