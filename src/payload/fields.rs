//! The fields of a payload, one by one: type, range, and a sentence where one is wrong.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::clock::{self, Timestamp};
use crate::job::{JobId, RetryOn, TaskType};

/// How much of a wrong value an error shows.
const SHOWN: usize = 60;

/// What is wrong: one line for its sender.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// It is no job.
    Payload(String),
    /// It asks for what may not run.
    NotAllowed(String),
}

impl Fault {
    pub(super) fn payload(error: &str) -> Self {
        Self::Payload(error.to_owned())
    }
}

/// A JSON object, its values unread. Of a repeated name the last one counts.
pub(super) struct Fields<'a>(HashMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Fault::Payload(format!("it is not UTF-8: byte {} is wrong", error.valid_up_to()))
        })?;
        serde_json::from_str(text).map(Self).map_err(|error| {
            let text = text.trim_start();
            let object = text.starts_with('{');
            if object || serde_json::from_str::<&RawValue>(text).is_err() {
                Fault::Payload(format!("it is not JSON: {error}"))
            } else {
                Fault::Payload(format!("it is not a JSON object: {}", short(text)))
            }
        })
    }

    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied().filter(|raw| raw.get() != "null")
    }

    /// A field with two names; both may be there only if they say the same.
    fn either(&self, name: &str, other: &str) -> Result<Option<&'a RawValue>, Fault> {
        match (self.get(name), self.get(other)) {
            (Some(a), Some(b)) if a.get() != b.get() => Err(Fault::Payload(format!(
                "{name} and {other} are the same field, but differ: {} and {}; leave one out",
                short(a.get()),
                short(b.get())
            ))),
            (a, b) => Ok(a.or(b)),
        }
    }

    fn typed<T: Deserialize<'a>>(name: &str, raw: &'a RawValue, right: &str) -> Result<T, Fault> {
        serde_json::from_str(raw.get()).map_err(|_| wrong(name, raw, right))
    }

    /// A non-empty text of at most so many bytes, without control characters.
    pub(super) fn text(&self, name: &str, most: usize) -> Result<Option<String>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let right = format!("a text of 1 to {most} bytes");
        let text: String = Self::typed(name, raw, &right)?;
        let fits = (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(Some(text)) } else { Err(wrong(name, raw, &right)) }
    }

    /// A text that may be empty: then it counts as missing.
    pub(super) fn name(&self, name: &str) -> Result<Option<String>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let text: String = Self::typed(name, raw, "a name")?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    pub(super) fn id(&self) -> Result<Option<JobId>, Fault> {
        let Some(raw) = self.either("job_id", "id")? else { return Ok(None) };
        let right = "1 to 200 printable ASCII characters";
        let text: String = Self::typed("job_id", raw, right)?;
        JobId::new(&text).map(Some).ok_or_else(|| wrong("job_id", raw, right))
    }

    pub(super) fn integer(&self, name: &str, low: u32, high: u32) -> Result<Option<u32>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        let right = format!("a whole number from {low} to {high}");
        let number: u32 = Self::typed(name, raw, &right)?;
        if (low..=high).contains(&number) {
            Ok(Some(number))
        } else {
            Err(wrong(name, raw, &right))
        }
    }

    pub(super) fn timeout(&self, most: f64) -> Result<Option<Duration>, Fault> {
        let Some(raw) = self.get("timeout_seconds") else { return Ok(None) };
        let right = "a number of seconds over 0, at most 2592000 (30 days)";
        let seconds: f64 = Self::typed("timeout_seconds", raw, right)?;
        let timeout = Duration::try_from_secs_f64(seconds).ok();
        timeout
            .filter(|timeout| !timeout.is_zero() && seconds <= most)
            .map(Some)
            .ok_or_else(|| wrong("timeout_seconds", raw, right))
    }

    pub(super) fn task_type(&self) -> Result<Option<TaskType>, Fault> {
        let Some(raw) = self.get("task_type") else { return Ok(None) };
        let right = "one of event, on_demand, scheduled_batch, etl, maintenance";
        let text: String = Self::typed("task_type", raw, right)?;
        TaskType::parse(&text).map(Some).ok_or_else(|| wrong("task_type", raw, right))
    }

    pub(super) fn retry_on(&self) -> Result<Option<RetryOn>, Fault> {
        let Some(raw) = self.get("retry_on") else { return Ok(None) };
        let right = "\"all\" or \"transient\"";
        let text: String = Self::typed("retry_on", raw, right)?;
        RetryOn::from_word(&text).map(Some).ok_or_else(|| wrong("retry_on", raw, right))
    }

    pub(super) fn run_at(&self) -> Result<Option<Timestamp>, Fault> {
        let Some(raw) = self.get("run_at") else { return Ok(None) };
        let right = "a time with its zone, such as \"2026-03-08T10:00:00Z\"";
        let text: String = Self::typed("run_at", raw, right)?;
        clock::parse(&text).map(Some).ok_or_else(|| wrong("run_at", raw, right))
    }

    /// The parameters as they were written; missing ones are `{}`.
    pub(super) fn parameters(&self, deepest: usize) -> Result<Box<RawValue>, Fault> {
        let Some(raw) = self.either("parameters", "params")? else {
            return Ok(empty_object());
        };
        if !raw.get().starts_with('{') {
            return Err(wrong("parameters", raw, "a JSON object of keyword arguments"));
        }
        if depth(raw.get()) > deepest {
            return Err(wrong("parameters", raw, &format!("nested at most {deepest} deep")));
        }
        Ok(raw.to_owned())
    }
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn wrong(name: &str, raw: &RawValue, right: &str) -> Fault {
    Fault::Payload(format!("{name} is {}; it must be {right}", short(raw.get())))
}

/// A value on one line, cut where it is long.
pub(super) fn short(text: &str) -> String {
    let mut line: String =
        text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

/// How deep the brackets of a valid JSON text are nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
