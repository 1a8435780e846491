//! What is said over the socket. Pure.

use serde::{Deserialize, Serialize};

use crate::config::SettingLine;

/// The longest request, in bytes.
pub(super) const MAX_REQUEST_BYTES: u64 = 2 * 1024 * 1024;

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Write a job down.
    Submit {
        /// As it would be pushed to the queue.
        payload: String,
    },
    /// Cancel a job.
    Cancel {
        /// Which.
        id: String,
    },
    /// Queue a FAILED job again.
    Retry {
        /// Which.
        id: String,
    },
    /// Queue every FAILED job again.
    RetryFailed,
    /// The output of a job from now on.
    Follow {
        /// Which.
        id: String,
    },
    /// The settings in force.
    Settings,
}

/// What became of a submitted job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubmitReply {
    /// Its id.
    pub id: String,
    /// The status it was born with.
    pub status: String,
}

/// What a cancel found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReply {
    /// It waited; it is FAILED now.
    Cancelled,
    /// It is being stopped.
    Stopping,
    /// It had ended before.
    Ended,
    /// No such job.
    Unknown,
}

/// What a retry found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryReply {
    /// It is QUEUED now.
    Queued,
    /// It is not FAILED.
    NotFailed,
    /// Its payload never was a job.
    NotAJob,
    /// No such job.
    Unknown,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To a submit.
    Submitted(SubmitReply),
    /// To a cancel.
    Cancel(CancelReply),
    /// To a retry.
    Retry(RetryReply),
    /// To a retry of all: how many.
    Retried(u64),
    /// To a question for the settings.
    Settings(Vec<SettingLine>),
    /// To a follow, once for each line.
    Line(Line),
    /// It could not be done.
    Failed(String),
}

/// A line of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The attempt that wrote it.
    pub attempt: u32,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The text.
    pub line: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_flat_object() {
        let text = serde_json::to_string(&Request::Cancel { id: "x".into() }).unwrap();
        assert_eq!(text, r#"{"verb":"cancel","id":"x"}"#);
        let reply: Reply = serde_json::from_str(r#"{"retried":3}"#).unwrap();
        assert_eq!(reply, Reply::Retried(3));
    }
}
