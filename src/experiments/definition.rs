//! Stored experiments as data: reading a definition without trusting it, replacing its state. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

/// The longest timeout: 30 days.
const MAX_TIMEOUT_SECONDS: f64 = 2_592_000.0;

/// The words of ours; any other state is its owner's, and is restored.
const OUR_STATES: &[&str] = &["", "ready", "running", "run", "failed"];

/// What an experiment says of itself.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The tool's name.
    pub tool: String,
    /// A JSON object.
    pub params: Box<RawValue>,
    /// For one attempt.
    pub timeout: Option<Duration>,
    /// Counted failures in all.
    pub max_attempts: Option<u32>,
}

/// An experiment as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A hash.
    Hash(BTreeMap<String, String>),
    /// A whole document as JSON text.
    Document(String),
}

impl Stored {
    /// Its state; empty where there is none.
    pub fn state(&self) -> String {
        match self {
            Self::Hash(fields) => fields.get("state").cloned().unwrap_or_default(),
            Self::Document(text) => document(text)
                .and_then(|fields| serde_json::from_str(fields.get("state")?.get()).ok())
                .unwrap_or_default(),
        }
    }

    /// Its definition, or one line about what is wrong with it.
    pub fn definition(&self) -> Result<Definition, String> {
        let fields: HashMap<Cow<'_, str>, Cow<'_, str>> = match self {
            Self::Hash(fields) => {
                fields.iter().map(|(name, text)| (name.into(), text.into())).collect()
            }
            Self::Document(text) => document(text)
                .ok_or("it is not a JSON object")?
                .into_iter()
                .map(|(name, raw)| (name, raw.get().into()))
                .collect(),
        };
        // In a document texts are quoted; in a hash they stand as they are.
        let quoted = matches!(self, Self::Document(_));
        let execution = fields.get("execution").map(|text| parse_execution(text)).transpose()?;
        let (tool, params) = match execution {
            Some((tool, params)) => (tool, params),
            None => {
                let tool = fields.get("tool").and_then(|text| plain(text, quoted));
                let params = fields.get("params").or_else(|| fields.get("parameters"));
                (tool, params.map(|text| text.to_string()))
            }
        };
        Ok(Definition {
            tool: tool.filter(|tool| !tool.is_empty()).ok_or("it names no tool")?,
            params: object(params.as_deref().unwrap_or("{}"))?,
            timeout: fields.get("timeout").map(|text| timeout(text)).transpose()?,
            max_attempts: fields.get("max_attempts").map(|text| attempts(text)).transpose()?,
        })
    }
}

fn document(text: &str) -> Option<HashMap<Cow<'_, str>, &RawValue>> {
    serde_json::from_str(text).ok()
}

/// A text as it stands, or out of its quotes.
fn plain(text: &str, quoted: bool) -> Option<String> {
    if quoted { serde_json::from_str(text).ok() } else { Some(text.to_owned()) }
}

fn parse_execution(text: &str) -> Result<(Option<String>, Option<String>), String> {
    let wrong = || "execution is not a JSON object {tool, params}".to_owned();
    let fields = document(text).ok_or_else(wrong)?;
    let tool = match fields.get("tool") {
        Some(raw) => Some(serde_json::from_str(raw.get()).map_err(|_| wrong())?),
        None => None,
    };
    Ok((tool, fields.get("params").map(|raw| raw.get().to_owned())))
}

/// A JSON object, or nothing: `null` and an empty text count as `{}`.
fn object(text: &str) -> Result<Box<RawValue>, String> {
    let text = match text.trim() {
        "" | "null" => "{}",
        text => text,
    };
    let raw = RawValue::from_string(text.to_owned());
    raw.ok()
        .filter(|raw| raw.get().starts_with('{') && serde_json::from_str::<Value>(text).is_ok())
        .ok_or_else(|| "params is not a JSON object".to_owned())
}

fn number(text: &str) -> &str {
    text.trim().trim_matches('"').trim_end_matches('s')
}

fn timeout(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = number(text).parse().ok();
    seconds
        .filter(|seconds| *seconds > 0.0 && *seconds <= MAX_TIMEOUT_SECONDS)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|timeout| !timeout.is_zero()) // less than a nanosecond
        .ok_or_else(|| format!("timeout is {text}; it must be seconds over 0, at most 30 days"))
}

fn attempts(text: &str) -> Result<u32, String> {
    let attempts: Option<u32> = number(text).parse().ok();
    attempts
        .filter(|n| (1..=100).contains(n))
        .ok_or_else(|| format!("max_attempts is {text}; it must be 1 to 100"))
}

/// The state after a run: `run` or `failed`, but a word of its owner's that stood before is restored.
pub fn state_after(before: &str, outcome: &'static str) -> String {
    if OUR_STATES.contains(&before) { outcome.to_owned() } else { before.to_owned() }
}

/// A document with only its state replaced, every other byte as it was; `None` if it is no object.
pub fn replace_state(text: &str, state: &str) -> Option<String> {
    let fields = document(text)?;
    let quoted = Value::from(state).to_string();
    let Some(raw) = fields.get("state") else {
        let open = text.find('{')?;
        let comma = if fields.is_empty() { "" } else { "," };
        let (head, tail) = (&text[..=open], &text[open + 1..]);
        return Some(format!("{head}\"state\":{quoted}{comma}{tail}"));
    };
    // The value is a slice of the text itself.
    let at = raw.get().as_ptr().addr() - text.as_ptr().addr();
    Some(format!("{}{quoted}{}", &text[..at], &text[at + raw.get().len()..]))
}

/// `result_summary` of a run (SPEC 4): a list as its length, what is no dict as `value`.
pub fn summary(result: &RawValue, truncated: bool) -> Value {
    match serde_json::from_str(result.get()) {
        Ok(Value::Array(items)) => serde_json::json!({"count": items.len()}),
        Ok(map @ Value::Object(_)) => map,
        // A list that was too long comes as its length.
        Ok(Value::Number(count)) if truncated => serde_json::json!({"count": count}),
        Ok(value) => serde_json::json!({"value": value}),
        Err(_) => Value::Null,
    }
}

/// How many items partial results hold; `None`: they have no length.
pub fn length(partial: &RawValue) -> Option<u64> {
    match serde_json::from_str(partial.get()).ok()? {
        Value::Array(items) => u64::try_from(items.len()).ok(),
        Value::Object(map) => u64::try_from(map.len()).ok(),
        Value::String(text) => u64::try_from(text.chars().count()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fields: &[(&str, &str)]) -> Stored {
        Stored::Hash(fields.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect())
    }

    #[test]
    fn every_form_of_the_contract_is_read() {
        let flat =
            hash(&[("tool", "t"), ("params", r#"{"a":1}"#), ("state", "ready"), ("timeout", "5")]);
        let nested = hash(&[("execution", r#"{"tool":"t","params":{"a":1}}"#), ("timeout", "5")]);
        let document = r#"{"state":"ready","execution":{"tool":"t","params":{"a":1}},"timeout":5}"#;
        let simple = r#"{"tool":"t","params":{"a":1},"timeout":"5"}"#;
        for stored in
            [flat, nested, Stored::Document(document.into()), Stored::Document(simple.into())]
        {
            let definition = stored.definition().unwrap();
            assert_eq!((definition.tool.as_str(), definition.params.get()), ("t", r#"{"a":1}"#));
            assert_eq!(definition.timeout, Some(Duration::from_secs(5)));
        }
        assert_eq!(hash(&[("tool", "t"), ("params", "")]).definition().unwrap().params.get(), "{}");
        assert_eq!(Stored::Document(document.into()).state(), "ready");
    }

    #[test]
    fn nonsense_is_told_in_one_line() {
        for (stored, says) in [
            (hash(&[]), "names no tool"),
            (hash(&[("tool", "")]), "names no tool"),
            (hash(&[("tool", "t"), ("params", "[1]")]), "params is not a JSON object"),
            (hash(&[("tool", "t"), ("params", "{")]), "params is not"),
            (hash(&[("tool", "t"), ("timeout", "soon")]), "timeout is soon"),
            (hash(&[("tool", "t"), ("timeout", "1e-12")]), "timeout is 1e-12"),
            (hash(&[("tool", "t"), ("max_attempts", "0")]), "max_attempts is 0"),
            (hash(&[("execution", "tool")]), "execution is not"),
            (hash(&[("execution", r#"{"tool":5}"#)]), "execution is not"),
            (Stored::Document("[]".into()), "not a JSON object"),
            (Stored::Document(r#"{"tool":["t"]}"#.into()), "names no tool"),
        ] {
            assert!(stored.definition().unwrap_err().contains(says), "{stored:?}");
        }
    }

    #[test]
    fn only_the_state_of_a_document_is_replaced() {
        for (text, want) in [
            (
                r#"{ "a": [], "state" : "ready", "n": 1.0 }"#,
                r#"{ "a": [], "state" : "x", "n": 1.0 }"#,
            ),
            (r#"{"a":{"state":"inner"}}"#, r#"{"state":"x","a":{"state":"inner"}}"#),
            ("{}", r#"{"state":"x"}"#),
        ] {
            assert_eq!(replace_state(text, "x").as_deref(), Some(want));
        }
        assert_eq!(replace_state("[1]", "x"), None);
    }

    #[test]
    fn an_owners_word_is_restored() {
        assert_eq!(state_after("ready", "run"), "run");
        assert_eq!(state_after("paused", "failed"), "paused");
    }

    #[test]
    fn results_are_summed_up() {
        let of = |text: &str, truncated| {
            summary(&RawValue::from_string(text.into()).unwrap(), truncated).to_string()
        };
        assert_eq!(of("[1,2]", false), r#"{"count":2}"#);
        assert_eq!(of(r#"{"a":1}"#, false), r#"{"a":1}"#);
        assert_eq!(of("5", false), r#"{"value":5}"#);
        assert_eq!(of("5000", true), r#"{"count":5000}"#);
        assert_eq!(of("null", false), r#"{"value":null}"#);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            let document = Stored::Document(text.clone());
            let _ = (document.state(), document.definition(), replace_state(&text, "x"));
            let _ = hash(&[("execution", &text), ("params", &text), ("timeout", &text)]).definition();
        }
    }
}
