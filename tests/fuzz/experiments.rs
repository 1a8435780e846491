//! Stored experiments, schedules and trigger messages: read or refused in one line, a document's state
//! replaced and nothing else.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use executor::config::{self, Environment, Flags};
use executor::doors::intake::Intake;
use executor::doors::timetable::Schedule;
use executor::experiments::definition::{Stored, length, replace_state, summary};
use jiff::Timestamp;
use proptest::collection::btree_map;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::input::{json, object, spoiled, spoiled_text};
use crate::runner::fuzz;

const FIELDS: &[(&str, &[&str])] = &[
    ("tool", &["\"t\"", "\"\"", "null", "5"]),
    ("params", &["{\"a\":1}", "\"{}\"", "null", "[]", "{}"]),
    ("parameters", &["{\"b\":2}", "null"]),
    ("state", &["\"ready\"", "\"running\"", "\"paused\"", "null", "5", "\"a\\\"b\""]),
    ("execution", &["{\"tool\":\"t\",\"params\":{}}", "{\"tool\":5}", "\"x\"", "null"]),
    ("timeout", &["5", "\"5\"", "\"5s\"", "0", "1e-12", "-1", "1e400", "\"soon\""]),
    ("max_attempts", &["3", "\"3\"", "0", "101", "1.5"]),
    ("other", &["{\"state\":\"inner\"}", "1.0", "\"\\u00e9\""]),
];

const GOOD: &[&str] = &[
    r#"{"state":"ready","execution":{"tool":"t","params":{"a":1}},"timeout":5}"#,
    r#"{ "tool" : "t", "params": {"a": 1}, "state" : "ready", "max_attempts": 3 }"#,
    "{}",
    "[1]",
    "null",
    "",
    r#"{"a":{"state":"inner"}}"#,
    r#"{"state":"a","state":"b"}"#,
    r#"{"st\u0061te":"ready","tool":"t"}"#,
];

const TRIGGERS: &[&str] = &[
    r#"{"experiment_id": "exp-1"}"#,
    r#"{"experiment_id": "exp-1", "target": "t"}"#,
    r#"{"target": "t"}"#,
    r#"{"experiment_id": 5}"#,
];

const SCHEDULES: &[&str] = &[
    "0 9 * * *",
    "@daily",
    r#"{"schedule": "*/5 * * * *", "timezone": "Europe/Berlin"}"#,
    r#"{"schedule": "0 9 * * *"}"#,
    r#"{"schedule": "0 9 * * *", "timezone": "Mars"}"#,
    "{",
    " { } ",
    "null",
];

#[derive(Clone, Debug)]
enum Input {
    Stored(Stored),
    Trigger(Vec<u8>),
    Schedule(String),
    Result(String),
}

fn inputs() -> impl Strategy<Value = Input> {
    let names =
        select(&["tool", "params", "state", "execution", "timeout", "max_attempts", "x"][..]);
    let texts = prop_oneof![
            select(
                &[
                    "t",
                    "",
                    "5",
                    "5s",
                    "0",
                    "1e-12",
                    "{}",
                    "{\"a\":1}",
                    "null",
                    "ready",
                    "inf",
                    "NaN"
                ][..]
            )
            .prop_map(str::to_owned),
            spoiled_text(select(GOOD)),
            json().prop_map(|value| value.to_string()),
        ];
    let hash = btree_map(names.prop_map(str::to_owned), texts, 0..6).prop_map(Stored::Hash);
    let document =
        prop_oneof![object(FIELDS), spoiled_text(object(FIELDS)), spoiled_text(select(GOOD))];
    prop_oneof![
        2 => hash.prop_map(Input::Stored),
        3 => document.prop_map(|text| Input::Stored(Stored::Document(text))),
        1 => spoiled(select(TRIGGERS)).prop_map(Input::Trigger),
        1 => spoiled_text(select(SCHEDULES)).prop_map(Input::Schedule),
        1 => json().prop_map(|value| Input::Result(value.to_string())),
    ]
}

fn check_stored(stored: &Stored) -> Result<(), TestCaseError> {
    prop_assert_eq!(stored.state(), stored.clone().state());
    match stored.definition() {
        Ok(definition) => {
            prop_assert!(!definition.tool.is_empty());
            let params: Value = serde_json::from_str(definition.params.get()).unwrap();
            prop_assert!(params.is_object());
            let longest = Duration::from_secs(30 * 24 * 3600);
            let fits = |time: Duration| !time.is_zero() && time <= longest;
            prop_assert!(definition.timeout.is_none_or(fits), "{:?}", definition.timeout);
            prop_assert!(definition.max_attempts.is_none_or(|n| (1..=100).contains(&n)));
        }
        Err(error) => prop_assert!(!error.is_empty() && error.len() < 1000, "{error:?}"),
    }
    match stored {
        Stored::Hash(_) => Ok(()),
        Stored::Document(text) => check_document(text),
    }
}

/// Only the state is replaced, and what stands there then is read back.
fn check_document(text: &str) -> Result<(), TestCaseError> {
    let object = serde_json::from_str::<BTreeMap<String, Value>>(text).ok();
    let Some(replaced) = replace_state(text, "a \"new\" one") else {
        prop_assert!(object.is_none(), "an object whose state is not replaced");
        return Ok(());
    };
    prop_assert_eq!(Stored::Document(replaced.clone()).state(), "a \"new\" one");
    let without = |text: &str| {
        let mut fields: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
        fields.remove("state");
        fields
    };
    // Values that only the raw reader takes (numbers out of range) cannot be compared.
    if object.is_some() {
        prop_assert_eq!(without(&replaced), without(text));
    }
    let twice = replace_state(&replaced, "a \"new\" one");
    prop_assert_eq!(twice.as_deref(), Some(replaced.as_str()));
    Ok(())
}

static INTAKE: LazyLock<Intake> = LazyLock::new(|| {
    let loaded = config::load(&Flags::default(), &Environment::default()).unwrap();
    Intake::new(&loaded.settings)
});

fn check_trigger(bytes: &[u8]) -> Result<(), TestCaseError> {
    match INTAKE.read_trigger(bytes) {
        Ok(draft) => prop_assert!(draft.experiment_id.is_some() && draft.target.is_none()),
        Err(refusal) => {
            prop_assert!(!refusal.error.is_empty() && !refusal.error.contains('\n'));
        }
    }
    Ok(())
}

fn check_schedule(text: &str) -> Result<(), TestCaseError> {
    let now = Timestamp::from_second(1_780_000_000).unwrap();
    match Schedule::read(text, "UTC") {
        Ok(schedule) => prop_assert!(schedule.next_after(now).is_none_or(|next| next > now)),
        Err(error) => prop_assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

fn check_result(text: &str) -> Result<(), TestCaseError> {
    let raw = RawValue::from_string(text.to_owned()).unwrap();
    for truncated in [false, true] {
        prop_assert!(summary(&raw, truncated).is_object());
    }
    let value: Value = serde_json::from_str(text).unwrap();
    let has_length = value.is_array() || value.is_object() || value.is_string();
    prop_assert_eq!(length(&raw).is_some(), has_length);
    Ok(())
}

#[test]
fn experiments() {
    fuzz("experiments", &inputs(), |input| match input {
        Input::Stored(stored) => check_stored(&stored),
        Input::Trigger(bytes) => check_trigger(&bytes),
        Input::Schedule(text) => check_schedule(&text),
        Input::Result(text) => check_result(&text),
    });
}
