//! Log lines: one flat JSON object each on standard output (SPEC 7), or pretty on a terminal.
//!
//! Two ways in: `tracing` events of the executor ([`layer`]), and lines that runs write ([`sink`]),
//! which may come as a flood and therefore wait, or are dropped and counted once standard output has
//! been stuck for a second. One way out: a thread that owns the stream ([`writer`]). Nothing else
//! writes to standard output while the daemon runs.

mod layer;
mod line;
mod live;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;
use crate::job::JobId;

pub use sink::{OutputSink, Tap};

/// Which stream of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The word in log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Whose line it is. Shared by all lines of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputLine {
    /// Whose.
    pub origin: Arc<Origin>,
    /// Which stream.
    pub stream: Stream,
    /// The text.
    pub line: String,
}

/// How lines look and which there are.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// JSON, or pretty for people.
    pub format: LogFormat,
    /// A level for our own lines, or `tracing` directives.
    pub level: String,
    /// Written into every line.
    pub executor_id: String,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a list of directives.
    #[error("log level {level:?} is not understood")]
    Level {
        /// As configured.
        level: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// No thread could be had.
    #[error("the log's thread")]
    Thread(#[source] std::io::Error),
    /// Logging has begun already in this process.
    #[error("logging has begun already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Logging under way.
#[derive(Debug)]
pub struct Log {
    shared: Arc<writer::Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Log {
    /// Begins to log on standard output.
    pub fn start(options: LogOptions) -> Result<Self, LogError> {
        let filter = filter(&options.level)?;
        let log = Self::with_output(options, std::io::stdout())?;
        tracing_subscriber::registry()
            .with(filter)
            .with(layer::Events::new(Arc::clone(&log.shared)))
            .try_init()
            .map_err(LogError::Twice)?;
        Ok(log)
    }

    /// Begins to log on any stream, without taking `tracing`'s events.
    fn with_output(
        options: LogOptions,
        output: impl Write + Send + 'static,
    ) -> Result<Self, LogError> {
        let (shared, queue) = writer::Shared::new();
        let look = line::Look::new(options.format, &options.executor_id);
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer::run(queue, &for_thread, &look, output))
            .map_err(LogError::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Where lines of runs go.
    pub fn output(&self) -> OutputSink {
        OutputSink::to_log(Arc::clone(&self.shared))
    }

    /// Where lines of one run can be followed live.
    pub fn tap(&self) -> Tap {
        Tap::new(Arc::clone(&self.shared))
    }

    /// Writes what is waiting, but for a stuck stream no longer than a second.
    pub fn finish(mut self) {
        self.shared.finish();
        let Some(thread) = self.thread.take() else { return };
        let begun = std::time::Instant::now();
        while !thread.is_finished() && begun.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A bare level is for our own lines; of others' we want warnings.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let bare = !level.contains(['=', ',']);
    let directives = if bare { format!("warn,executor={level}") } else { level.to_owned() };
    EnvFilter::try_new(directives)
        .map_err(|source| LogError::Level { level: level.to_owned(), source })
}
