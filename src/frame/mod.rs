//! The frames between the executor and a run, as pure data: encode a request, decode what comes back.
//!
//! `docs/design/frames.md` is the protocol; `tests/fixtures/frames/` are its golden files, read by
//! the Rust and the Python tests alike. Must not touch descriptors.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::job::Target;
use crate::outcome::{RunEvent, Success};

/// The longest frame taken from a run.
pub const FRAME_MAX: usize = 1 << 20;
/// The longest request sent as the message itself: a run has room for so much, and pays for it.
pub const INLINE_MAX: usize = 4 << 10;

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
    /// Where its temporary files go.
    pub tmp: &'a str,
    /// Describe the target instead of calling it.
    pub check: bool,
    /// What to load.
    pub target: &'a Target,
    /// A JSON object.
    pub parameters: &'a RawValue,
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
        let (name, class, function) = match self.target {
            Target::Tool(tool) => (tool, None, None),
            Target::Callable { module, class, function } => {
                (module, class.as_deref(), Some(function))
            }
        };
        let json = serde_json::to_vec(&(
            pid,
            self.job_id,
            self.attempt,
            self.run_id,
            self.experiment_id,
            self.tmp,
            self.check,
            name,
            class,
            function,
            self.parameters,
        ))?;
        if json.len() <= INLINE_MAX {
            return Ok(Message { datagram: json, attached: None });
        }
        let mut datagram = vec![b'M'];
        datagram.extend_from_slice(&pid.to_le_bytes());
        Ok(Message { datagram, attached: Some(json) })
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
/// [`FrameError`] for anything that is no frame.
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
mod tests;
