//! The frames between the executor and a run, as pure data: encode a request, decode what comes back.
//!
//! `docs/design/frames.md` is the protocol; `tests/fixtures/frames/` are its golden files, read by
//! the Rust and the Python tests alike. Must not touch descriptors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::job::Target;
use crate::outcome::{RunEvent, Success};

/// The longest frame taken from a run.
pub const FRAME_MAX: usize = 1 << 20;
/// The longest request sent inside the message itself.
pub const INLINE_MAX: usize = 64 << 10;

/// A request to a run, before it is encoded.
#[derive(Debug)]
pub struct Request<'a> {
    /// The job's id.
    pub job_id: &'a str,
    /// From 1.
    pub attempt: u32,
    /// The experiment's run.
    pub run_id: Option<&'a str>,
    /// The experiment.
    pub experiment_id: Option<&'a str>,
    /// `call` or `check`.
    pub action: &'static str,
    /// What to load.
    pub target: &'a Target,
    /// A JSON object.
    pub parameters: &'a RawValue,
    /// Set in the run's environment.
    pub env: BTreeMap<&'static str, String>,
    /// A memory limit is in force.
    pub memory_limited: bool,
}

#[derive(Serialize)]
struct Wire<'a> {
    job_id: &'a str,
    attempt: u32,
    run_id: Option<&'a str>,
    experiment_id: Option<&'a str>,
    action: &'static str,
    target: WireTarget<'a>,
    parameters: &'a RawValue,
    env: &'a BTreeMap<&'static str, String>,
    memory_limited: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireTarget<'a> {
    Tool { tool: &'a str },
    Callable { module: &'a str, class: Option<&'a str>, function: &'a str },
}

/// What travels: the message itself, and what goes into a sealed memfd beside it.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// For the socket.
    pub datagram: Vec<u8>,
    /// The JSON, where it is too long for the datagram.
    pub attached: Option<Vec<u8>>,
}

impl Request<'_> {
    /// The message for the run `pid`.
    ///
    /// # Errors
    /// None in practice: all keys are text. The encoder's error is passed on.
    pub fn encode(&self, pid: u32) -> Result<Message, serde_json::Error> {
        let target = match self.target {
            Target::Tool(tool) => WireTarget::Tool { tool },
            Target::Callable { module, class, function } => {
                WireTarget::Callable { module, class: class.as_deref(), function }
            }
        };
        let json = serde_json::to_vec(&Wire {
            job_id: self.job_id,
            attempt: self.attempt,
            run_id: self.run_id,
            experiment_id: self.experiment_id,
            action: self.action,
            target,
            parameters: self.parameters,
            env: &self.env,
            memory_limited: self.memory_limited,
        })?;
        let inline = json.len() <= INLINE_MAX;
        let mut datagram = vec![if inline { b'J' } else { b'M' }];
        datagram.extend_from_slice(&pid.to_le_bytes());
        if inline {
            datagram.extend_from_slice(&json);
        }
        Ok(Message { datagram, attached: (!inline).then_some(json) })
    }
}

/// Why a run's bytes are no frames.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`FRAME_MAX`].
    #[error("a frame is longer than 1 MiB")]
    TooLong,
    /// Not a frame of the protocol.
    #[error("not a frame: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// What kind of failure a run reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The callable or its module raised.
    Raised,
    /// `sys.exit` with a code other than 0.
    Exited,
    /// It could never work as asked.
    Unfit,
}

/// A run's own account of its failure.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What kind.
    pub kind: Kind,
    /// The class of the exception, or our name.
    pub error_type: String,
    /// One line.
    pub error: String,
    /// Python's traceback.
    pub traceback: String,
    /// What had been achieved.
    pub partial: Option<Box<RawValue>>,
    /// By the rule of SPEC 4.
    pub transient: bool,
}

/// What a run loaded itself that its slot could have loaded ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Modules, in the order they were loaded.
    pub names: Vec<String>,
    /// A module of the user's that was loaded ahead has changed since.
    pub stale: bool,
}

/// One decoded frame.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Told while running.
    Event(RunEvent),
    /// For slots to come.
    Imported(Imported),
    /// The end, well.
    Succeeded(Success),
    /// The end, badly.
    Failed(Failed),
}

#[derive(Deserialize)]
struct Raw {
    t: Tag,
    done: Option<f64>,
    total: Option<f64>,
    count: Option<u64>,
    name: Option<String>,
    fields: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Box<RawValue>>,
    ok: Option<bool>,
    bytes: Option<u64>,
    truncated: Option<bool>,
    kind: Option<Kind>,
    error_type: Option<String>,
    error: Option<String>,
    traceback: Option<String>,
    partial: Option<Box<RawValue>>,
    transient: Option<bool>,
    names: Option<Vec<String>>,
    stale: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tag {
    Imports,
    Progress,
    Items,
    Emit,
    Partial,
    Result,
}

/// Tells `"value": null` from no value at all.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

/// A field that its kind of frame must have.
fn need<T>(field: Option<T>, name: &'static str) -> Result<T, FrameError> {
    field.ok_or_else(|| FrameError::Malformed(serde::de::Error::missing_field(name)))
}

/// Reads one frame, without its newline.
///
/// # Errors
/// [`FrameError`] for anything that is no frame of version 1.
pub fn decode(line: &[u8]) -> Result<Frame, FrameError> {
    let raw: Raw = serde_json::from_slice(line)?;
    Ok(match raw.t {
        Tag::Progress => {
            Frame::Event(RunEvent::Progress { done: need(raw.done, "done")?, total: raw.total })
        }
        Tag::Items => Frame::Event(RunEvent::Items(need(raw.count, "count")?)),
        Tag::Emit => Frame::Event(RunEvent::Emit {
            name: need(raw.name, "name")?,
            fields: need(raw.fields, "fields")?,
        }),
        Tag::Imports => Frame::Imported(Imported {
            names: need(raw.names, "names")?,
            stale: need(raw.stale, "stale")?,
        }),
        Tag::Partial => Frame::Event(RunEvent::Partial(need(raw.value, "value")?)),
        Tag::Result if need(raw.ok, "ok")? => Frame::Succeeded(Success {
            value: need(raw.value, "value")?,
            bytes: need(raw.bytes, "bytes")?,
            truncated: need(raw.truncated, "truncated")?,
        }),
        Tag::Result => Frame::Failed(Failed {
            kind: need(raw.kind, "kind")?,
            error_type: need(raw.error_type, "error_type")?,
            error: need(raw.error, "error")?,
            traceback: need(raw.traceback, "traceback")?,
            partial: raw.partial,
            transient: raw.transient.unwrap_or(false),
        }),
    })
}

/// Cuts a stream of bytes into frames. Holds at most one unfinished frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes before this were seen to hold no newline.
    searched: usize,
}

impl Decoder {
    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one. After an error the stream is to be given up.
    pub fn next_frame(&mut self) -> Option<Result<Frame, FrameError>> {
        let Some(at) = self.buffer.iter().skip(self.searched).position(|b| *b == b'\n') else {
            self.searched = self.buffer.len();
            return (self.buffer.len() > FRAME_MAX).then_some(Err(FrameError::TooLong));
        };
        let rest = self.buffer.split_off(self.searched + at + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        line.pop();
        Some(if line.len() > FRAME_MAX { Err(FrameError::TooLong) } else { decode(&line) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_request_names_its_pid_and_carries_the_object() {
        let target =
            Target::Callable { module: "tasks.a".into(), class: None, function: "run".into() };
        let parameters = raw(r#"{"x":1}"#);
        let request = Request {
            job_id: "j",
            attempt: 2,
            run_id: None,
            experiment_id: None,
            action: "call",
            target: &target,
            parameters: &parameters,
            env: BTreeMap::new(),
            memory_limited: false,
        };
        let message = request.encode(0x0102_0304).unwrap();
        assert_eq!(&message.datagram[..5], b"J\x04\x03\x02\x01");
        let json: serde_json::Value = serde_json::from_slice(&message.datagram[5..]).unwrap();
        assert_eq!(
            json["target"],
            serde_json::json!({"module": "tasks.a", "class": null, "function": "run"})
        );
        assert_eq!(json["parameters"]["x"], 1);
        assert!(message.attached.is_none());
    }

    #[test]
    fn a_long_request_is_attached() {
        let target = Target::Tool("t".into());
        let parameters = raw(&format!(r#"{{"x":"{}"}}"#, "a".repeat(INLINE_MAX)));
        let request = Request {
            job_id: "j",
            attempt: 1,
            run_id: None,
            experiment_id: None,
            action: "call",
            target: &target,
            parameters: &parameters,
            env: BTreeMap::new(),
            memory_limited: true,
        };
        let message = request.encode(7).unwrap();
        assert_eq!(message.datagram, b"M\x07\x00\x00\x00");
        assert!(message.attached.unwrap().len() > INLINE_MAX);
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let mut decoder = Decoder::default();
        let stream = concat!(
            "{\"t\":\"progress\",\"done\":3,\"total\":null}\n{\"t\":\"items\",\"count\":2}\n",
            "{\"t\":\"emit\",\"name\":\"a\",\"fields\":{}}\n{\"t\":\"partial\",\"value\":null}\n",
            "{\"t\":\"result\",\"ok\":true,\"value\":null,\"bytes\":4,\"truncated\":false}\n"
        );
        let mut seen = Vec::new();
        for byte in stream.bytes() {
            decoder.feed(&[byte]);
            while let Some(frame) = decoder.next_frame() {
                seen.push(frame.unwrap());
            }
        }
        assert_eq!(seen.len(), 5);
        assert!(matches!(&seen[3], Frame::Event(RunEvent::Partial(v)) if v.get() == "null"));
        assert!(matches!(&seen[4], Frame::Succeeded(s) if s.value.get() == "null" && s.bytes == 4));
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for line in
            ["", "x", "{}", r#"{"t":"result","ok":true}"#, r#"{"t":"items"}"#, r#"{"t":"what"}"#]
        {
            assert!(decode(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn an_endless_frame_is_given_up() {
        let mut decoder = Decoder::default();
        decoder.feed(&vec![b'x'; FRAME_MAX + 1]);
        assert!(matches!(decoder.next_frame(), Some(Err(FrameError::TooLong))));
    }

    /// The golden files whose names start so, with their one line each.
    fn golden(prefix: &str) -> Vec<(String, String)> {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/frames");
        let mut found: Vec<_> = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().to_string_lossy().into_owned(), text.trim_end().to_owned())
            })
            .collect();
        found.sort();
        assert!(!found.is_empty());
        found
    }

    #[test]
    fn golden_frames_are_understood() {
        for (name, line) in golden("frame-") {
            let kind = match decode(line.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}")) {
                Frame::Event(RunEvent::Progress { .. }) => "progress",
                Frame::Event(RunEvent::Items(_)) => "items",
                Frame::Event(RunEvent::Emit { .. }) => "emit",
                Frame::Event(RunEvent::Partial(_)) => "partial",
                Frame::Imported(_) => "imports",
                Frame::Succeeded(_) | Frame::Failed(_) => "result",
            };
            assert!(name.starts_with(&format!("frame-{kind}")), "{name}");
        }
    }

    #[test]
    fn golden_requests_are_what_we_send() {
        for (name, line) in golden("request-") {
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            let text = |key: &str| json[key].as_str();
            let of_target = |key: &str| json["target"][key].as_str().map(str::to_owned);
            let target = match of_target("tool") {
                Some(tool) => Target::Tool(tool),
                None => Target::Callable {
                    module: of_target("module").unwrap(),
                    class: of_target("class"),
                    function: of_target("function").unwrap(),
                },
            };
            let parameters = raw(&json["parameters"].to_string());
            let known = [
                "EXECUTOR_ATTEMPT",
                "EXECUTOR_EXPERIMENT_ID",
                "EXECUTOR_JOB_ID",
                "EXECUTOR_RUN_ID",
                "TMPDIR",
            ];
            let env = known
                .into_iter()
                .filter_map(|k| Some((k, json["env"][k].as_str()?.to_owned())))
                .collect();
            let request = Request {
                job_id: text("job_id").unwrap(),
                attempt: json["attempt"].as_u64().unwrap().try_into().unwrap(),
                run_id: text("run_id"),
                experiment_id: text("experiment_id"),
                action: if text("action") == Some("call") { "call" } else { "check" },
                target: &target,
                parameters: &parameters,
                env,
                memory_limited: json["memory_limited"].as_bool().unwrap(),
            };
            let sent = request.encode(1).unwrap().datagram;
            let sent: serde_json::Value = serde_json::from_slice(&sent[5..]).unwrap();
            assert_eq!(sent, json, "{name}");
        }
    }
}
