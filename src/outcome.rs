//! The vocabulary of endings: how an attempt ended and what it used. Pure data.
//!
//! What the queue makes of an ending is [`crate::policy::Disposition`].

use std::fmt;

use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::job::StartMethod;

/// The names of errors that are ours; an exception of the callable keeps its class name.
pub mod error_type {
    /// Ran past its time.
    pub const TIMEOUT: &str = "ToolTimeoutError";
    /// No such tool or module.
    pub const NOT_FOUND: &str = "ToolNotFoundError";
    /// No callable in it, or a class that cannot be made without arguments.
    pub const TOOL: &str = "ToolError";
    /// The parameters do not fit.
    pub const PARAMETERS: &str = "InvalidParametersError";
    /// Outside the allow-list.
    pub const NOT_ALLOWED: &str = "ModuleNotAllowedError";
    /// Not a job.
    pub const PAYLOAD: &str = "InvalidPayloadError";
    /// The result has no JSON form.
    pub const NOT_SERIALIZABLE: &str = "ResultNotSerializableError";
    /// More memory than allowed.
    pub const MEMORY: &str = "MemoryLimitError";
    /// More CPU time than allowed.
    pub const CPU: &str = "CpuLimitError";
    /// More processes than allowed.
    pub const PROCESSES: &str = "ProcessLimitError";
    /// Died by a signal or left without a result.
    pub const CRASHED: &str = "CrashedError";
    /// Cancelled by a user.
    pub const CANCELLED: &str = "CancelledError";
    /// Ended by our own shutdown with `ON_SHUTDOWN=fail`.
    pub const SHUTDOWN: &str = "ShutdownError";
    /// The executor died too often under it.
    pub const EXECUTOR_LOST: &str = "ExecutorLostError";
    /// A trigger for an experiment that is not there.
    pub const EXPERIMENT_NOT_FOUND: &str = "ExperimentNotFoundError";
}

/// A limit of SPEC 8 that is watched over the whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Memory of the tree.
    Memory,
    /// CPU time of the tree.
    Cpu,
    /// Number of processes in the tree.
    Processes,
}

/// Why an attempt failed, as far as deciding needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The callable raised.
    Raised {
        /// A connection error or timeout by the rule of SPEC 4.
        transient: bool,
    },
    /// Ran past its deadline.
    TimedOut,
    /// Killed for a limit, or a `MemoryError` under one.
    Limit(Limit),
    /// Died by a signal, or left without a result.
    Crashed,
    /// It could never work as asked: not found, not allowed, no callable, wrong parameters, a result
    /// without JSON form, an experiment that is gone.
    Unfit,
    /// A user cancelled it.
    Cancelled,
    /// Our own shutdown cut it short.
    Shutdown,
}

/// What a failed attempt says about itself (SPEC 4, *Failure*).
#[derive(Clone, Debug)]
pub struct Failure {
    /// For deciding.
    pub cause: Cause,
    /// For people and queries.
    pub error_type: String,
    /// One line.
    pub error: String,
    /// Python's traceback, the stack at the kill, the crash dump, or a sentence and the last output.
    pub traceback: String,
    /// What the run had achieved, JSON.
    pub partial_results: Option<Box<RawValue>>,
}

/// What a successful attempt returned.
#[derive(Clone, Debug)]
pub struct Success {
    /// The result, or its summary where it was too large.
    pub value: Box<RawValue>,
    /// Size of the full result as JSON.
    pub bytes: u64,
    /// `value` is a summary.
    pub truncated: bool,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A valid result frame and a clean exit.
    Succeeded(Success),
    /// Anything else the run came to.
    Failed(Failure),
    /// No process could be had for it; says why. Not the job's fault, not counted.
    NotStarted(String),
}

impl Outcome {
    /// The word kept in `attempts.outcome`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::NotStarted(_) => "not_started",
            Self::Failed(failure) => match failure.cause {
                Cause::Raised { .. } | Cause::Unfit => "failed",
                Cause::TimedOut => "timed_out",
                Cause::Limit(_) => "limit_exceeded",
                Cause::Crashed => "crashed",
                Cause::Cancelled => "cancelled",
                Cause::Shutdown => "interrupted",
            },
        }
    }
}

/// How the run's own process left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a run's tree used, without what it inherited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all its processes.
    pub cpu_seconds: f64,
    /// Peak anonymous memory of the tree.
    pub max_rss_bytes: u64,
}

/// Everything known about one attempt after its tree is gone.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The run's process, if one was had.
    pub pid: Option<u32>,
    /// How that process was born.
    pub start_method: StartMethod,
    /// When the tree was gone.
    pub finished_at: Timestamp,
    /// How the process left.
    pub exit: Option<Exit>,
    /// What the tree used.
    pub usage: Usage,
    /// Processes that had to be killed beside the run's own.
    pub survivors_killed: u32,
    /// The last output, both streams as they came.
    pub log_tail: String,
    /// All output, in bytes.
    pub log_bytes: u64,
}

/// What a run tells while it runs.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// `progress(done, total)`.
    Progress {
        /// Steps done.
        done: f64,
        /// Steps in all, if known.
        total: Option<f64>,
    },
    /// The total of items so far.
    Items(u64),
    /// `emit(name, **fields)`.
    Emit {
        /// The event's name.
        name: String,
        /// A JSON object.
        fields: Box<RawValue>,
    },
    /// `partial(value)`: also kept by the slot for a later failure.
    Partial(Box<RawValue>),
}
