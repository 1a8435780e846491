//! Settings: flags, environment, file, defaults, read once and checked whole.
//!
//! The only reader of the environment. Must not act on a setting.

mod check;
mod entries;
mod read;
mod source;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::job::{Limits, RetryOn, StartMethod, TaskType};

pub use read::{ConfigError, ConfigErrors, SettingLine};
pub use source::{Environment, Flag, Flags};

/// Where Redis is. Its text is a secret: `Debug` hides a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Takes a URL as it is; [`load`] checks the configured one.
    pub fn new(url: String) -> Self {
        Self(url)
    }

    /// The URL with its password, for the client alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisUrl(…)")
    }
}

/// What to do with a run that a shutdown cuts short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnShutdown {
    /// Put the job back: it runs again, nothing is counted.
    Requeue,
    /// Mark it FAILED (`ShutdownError`).
    Fail,
}

/// What is loaded ahead of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preload {
    /// Standard-library modules that runs were seen to import.
    Stdlib,
    /// Third-party ones too.
    Auto,
    /// These, and `Stdlib`.
    Names(Vec<String>),
    /// Nothing.
    None,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One flat JSON object a line.
    Json,
    /// For a terminal.
    Pretty,
}

/// Which experiments start by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// None: only triggers.
    Trigger,
    /// By their schedules.
    Cron,
    /// Continuously.
    Speedrun,
}

/// Overrides of one task type's built-in defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskTypeSettings {
    /// 1–9.
    pub priority: Option<u8>,
    /// For one attempt.
    pub timeout: Option<Duration>,
    /// Counted failures in all.
    pub max_attempts: Option<u32>,
    /// What is retried.
    pub retry_on: Option<RetryOn>,
}

/// One entry of `schedules`: a job on a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its name, unique.
    pub id: String,
    /// The cron expression as written.
    pub cron: String,
    /// Its zone; `None`: the general one.
    pub timezone: Option<String>,
    /// The job, as it would be pushed to the queue.
    pub job: serde_json::Value,
}

/// Everything about Python.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    /// `python3`, or a path.
    pub interpreter: String,
    /// Top-level packages whose callables may run.
    pub allowed_modules: Vec<String>,
    /// The directory that holds the package `tasks`; absolute.
    pub tasks_path: PathBuf,
    /// The directory of the tools; absolute.
    pub tools_path: PathBuf,
    /// How runs are born.
    pub start_method: StartMethod,
    /// What is loaded ahead.
    pub preload: Preload,
    /// What a run sees of the executor's environment: the basic variables and those of `PASS_ENV`,
    /// already picked.
    pub run_environment: BTreeMap<String, String>,
}

/// Retries in general.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Set anywhere by the user; default 3.
    pub max_attempts: Option<u32>,
    /// The first delay.
    pub backoff_min: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
}

/// All settings of SPEC 3, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `None`: work without Redis.
    pub redis: Option<RedisUrl>,
    /// The ledger's file; absolute.
    pub ledger_path: PathBuf,
    /// This executor's name.
    pub executor_id: String,
    /// Number of slots.
    pub concurrency: usize,
    /// For the whole exit.
    pub shutdown_grace: Duration,
    /// What becomes of runs cut short.
    pub on_shutdown: OnShutdown,
    /// Between two heartbeats.
    pub heartbeat_interval: Duration,
    /// `None`: no listener.
    pub http_addr: Option<SocketAddr>,
    /// The Redis list jobs are pushed to.
    pub job_queue: String,
    /// How long `executor:job:{id}` stays after the end.
    pub status_ttl: Duration,
    /// Everything about Python.
    pub python: Python,
    /// `TOOL_TIMEOUT` where the user set it; default 300 s.
    pub tool_timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Retries in general.
    pub retry: Retry,
    /// Largest result kept whole.
    pub result_max_bytes: usize,
    /// Kept output of each attempt.
    pub log_tail_bytes: usize,
    /// Finished jobs older than this are removed; `None` keeps all.
    pub ledger_keep: Option<Duration>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// A `tracing` filter: a level, or directives.
    pub log_level: String,
    /// Bounds on each run.
    pub limits: Limits,
    /// Which experiments start by themselves.
    pub mode: Mode,
    /// Channels on which triggers arrive.
    pub trigger_channels: Vec<String>,
    /// How often schedules are re-read.
    pub cron_check_interval: Duration,
    /// How late a missed time may still fire.
    pub cron_catch_up_window: Duration,
    /// The general zone of schedules.
    pub timezone: String,
    /// Narrows which states start by themselves.
    pub eligible_states: Option<Vec<String>>,
    /// Between two cycles of the speedrun.
    pub speedrun_interval: Duration,
    /// Most experiments started in one cycle.
    pub speedrun_max_per_cycle: usize,
    /// Overrides by task type.
    pub task_types: BTreeMap<TaskType, TaskTypeSettings>,
    /// Jobs on a schedule.
    pub schedules: Vec<Schedule>,
}

/// A duration as settings write it: seconds, or a number with `ms`, `s`, `m`, `h` or `d`.
pub fn duration(text: &str) -> Option<Duration> {
    values::duration(&text.into())
}

/// Settings with where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// One line each, secrets hidden, for `doctor --settings`.
    pub report: Vec<SettingLine>,
}

/// Reads the settings: defaults, then the file, then the environment, then flags.
///
/// # Errors
/// Every fault there is, together.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, ConfigErrors> {
    let sources = source::Sources::gather(flags, environment);
    check::check(sources, environment)
}
