//! What a line looks like: pure text building.

use std::fmt::Write as _;

use super::OutputLine;
use crate::clock;
use crate::config::LogFormat;

/// An event of the executor, fields rendered as JSON values in the order they came.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) at: clock::Timestamp,
    pub(super) level: tracing::Level,
    pub(super) event: String,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, String)>,
}

/// How lines are written.
#[derive(Clone, Debug)]
pub(super) struct Look {
    format: LogFormat,
    executor_id: String,
}

impl Look {
    pub(super) fn new(format: LogFormat, executor_id: &str) -> Self {
        Self { format, executor_id: json(executor_id) }
    }

    pub(super) fn event(&self, event: &Event, into: &mut String) {
        match self.format {
            LogFormat::Json => self.event_json(event, into),
            LogFormat::Pretty => event_pretty(event, into),
        }
        into.push('\n');
    }

    pub(super) fn output(&self, line: &OutputLine, into: &mut String) {
        match self.format {
            LogFormat::Json => self.output_json(line, into),
            LogFormat::Pretty => {
                let (id, attempt) = (&line.origin.job_id, line.origin.attempt);
                let _ = write!(into, "\x1b[2m{id}#{attempt} |\x1b[0m {}", tame(&line.line));
            }
        }
        into.push('\n');
    }

    fn event_json(&self, event: &Event, into: &mut String) {
        let level = event.level.as_str().to_ascii_lowercase();
        // Writing into a String cannot fail.
        let _ = write!(
            into,
            r#"{{"timestamp":"{}","level":"{level}","event":{},"message":{},"executor_id":{}"#,
            clock::text(event.at),
            json(&event.event),
            json(&event.message),
            self.executor_id,
        );
        for (name, value) in &event.fields {
            let _ = write!(into, ",{}:{value}", json(name));
        }
        into.push('}');
    }

    fn output_json(&self, line: &OutputLine, into: &mut String) {
        let origin = &line.origin;
        let _ = write!(
            into,
            r#"{{"timestamp":"{}","level":"info","event":"output","message":"output","executor_id":{},"job_id":{},"attempt":{},"#,
            clock::text(clock::now()),
            self.executor_id,
            json(origin.job_id.as_str()),
            origin.attempt,
        );
        for (name, value) in [("run_id", &origin.run_id), ("experiment_id", &origin.experiment_id)]
        {
            if let Some(value) = value {
                let _ = write!(into, r#""{name}":{},"#, json(value));
            }
        }
        let _ = write!(into, r#""stream":"{}","line":"#, line.stream.as_str());
        push_json(&line.line, into);
        into.push('}');
    }
}

fn event_pretty(event: &Event, into: &mut String) {
    let colour = match event.level {
        tracing::Level::ERROR => "31",
        tracing::Level::WARN => "33",
        tracing::Level::INFO => "32",
        _ => "2",
    };
    let time = event.at.strftime("%H:%M:%S%.3f");
    let _ = write!(
        into,
        "\x1b[2m{time}\x1b[0m \x1b[{colour}m{:5}\x1b[0m \x1b[1m{}\x1b[0m {}",
        event.level.as_str(),
        event.event,
        event.message
    );
    let mut traceback = None;
    for (name, value) in &event.fields {
        if *name == "traceback" {
            traceback = serde_json::from_str::<String>(value).ok();
        } else {
            let _ = write!(into, " \x1b[2m{name}=\x1b[0m{}", value.trim_matches('"'));
        }
    }
    for line in traceback.iter().flat_map(|text| text.lines()) {
        let _ = write!(into, "\n    {}", tame(line));
    }
}

/// A text that cannot command a terminal: control characters but tabs are shown as `·`.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '·' } else { c }).collect()
}

/// A text as JSON.
pub(super) fn json(text: &str) -> String {
    let mut into = String::with_capacity(text.len() + 2);
    push_json(text, &mut into);
    into
}

/// Appends a text as JSON: stretches without anything to escape are copied whole. Looks at bytes: all
/// that is escaped is ASCII, and a flood goes through here.
fn push_json(text: &str, into: &mut String) {
    into.push('"');
    let (bytes, mut copied, mut at) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        let byte = bytes[at];
        if byte < b' ' || byte == b'"' || byte == b'\\' || byte == 0x7f {
            into.push_str(&text[copied..at]);
            match byte {
                b'"' => into.push_str("\\\""),
                b'\\' => into.push_str("\\\\"),
                b'\n' => into.push_str("\\n"),
                b'\r' => into.push_str("\\r"),
                b'\t' => into.push_str("\\t"),
                other => {
                    let _ = write!(into, "\\u{other:04x}");
                }
            }
            copied = at + 1;
        }
        at += 1;
    }
    into.push_str(&text[copied..]);
    into.push('"');
}
