//! The vocabulary of jobs: pure data, no input or output.
//!
//! A *job* is one request to run a *target*; it has one or more *attempts*. Rules about jobs live in
//! [`crate::policy`], reading them from bytes in [`crate::payload`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::clock::Timestamp;

/// A job's id for life: 1–200 printable ASCII characters (SPEC 4). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// The id, if it keeps the rule.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=200).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b));
        fits.then(|| Self(text.into()))
    }

    /// A fresh UUIDv7: sorts by time of arrival.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Declares a closed set of words with their one spelling.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every value, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in SQL, JSON, logs and documents.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value that bears this exact word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// The door a job came through (SPEC 1).
    Source {
        /// The Redis list.
        Queue = "queue",
        /// A message on a trigger channel.
        Trigger = "trigger",
        /// A schedule whose time has come.
        Cron = "cron",
        /// The continuous loop over ready experiments.
        Speedrun = "speedrun",
        /// `executor submit` without Redis.
        Cli = "cli",
    }
}

words! {
    /// Where a job stands (SPEC 4).
    Status {
        /// Waiting: for a slot, for its `run_at`, or for the job it duplicates.
        Queued = "QUEUED",
        /// An attempt is under way.
        Running = "RUNNING",
        /// Ended well.
        Completed = "COMPLETED",
        /// Ended badly, for good.
        Failed = "FAILED",
    }
}

words! {
    /// The kind of work, which brings defaults (SPEC 4).
    TaskType {
        /// Small operations kicked off by application events.
        Event = "event",
        /// Triggered by a user; what a job without a type is taken for.
        OnDemand = "on_demand",
        /// Nightly refreshes, reports.
        ScheduledBatch = "scheduled_batch",
        /// Extract, transform, load.
        Etl = "etl",
        /// Clean-ups and health checks.
        Maintenance = "maintenance",
    }
}

impl TaskType {
    /// Reads a type in any accepted spelling: case and hyphens do not matter, other names are known.
    pub fn parse(text: &str) -> Option<Self> {
        let word = text.trim().to_ascii_lowercase().replace('-', "_");
        Self::from_word(&word).or(match word.as_str() {
            "ad_hoc" => Some(Self::OnDemand),
            "event_driven" => Some(Self::Event),
            "batch" => Some(Self::ScheduledBatch),
            "data_pipeline" => Some(Self::Etl),
            "housekeeping" => Some(Self::Maintenance),
            _ => None,
        })
    }
}

words! {
    /// Which failures of the callable are retried (SPEC 4).
    RetryOn {
        /// Every failure of the callable, timeouts and crashes included.
        All = "all",
        /// Only connection errors and timeouts raised by the callable.
        Transient = "transient",
    }
}

words! {
    /// How a run's process is born.
    StartMethod {
        /// Forked from a prepared interpreter.
        Forkserver = "forkserver",
        /// A newly executed interpreter.
        Spawn = "spawn",
    }
}

/// What a job runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `TOOLS_PATH/NAME.py`.
    Tool(String),
    /// A callable in an allowed module.
    Callable {
        /// Dotted path of the module.
        module: String,
        /// The class that holds the method, if any.
        class: Option<String>,
        /// The function or method.
        function: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tool(name) => f.write_str(name),
            Self::Callable { module, class: Some(class), function } => {
                write!(f, "{module}:{class}.{function}")
            }
            Self::Callable { module, class: None, function } => write!(f, "{module}:{function}"),
        }
    }
}

/// Bounds on what one run may use; `None` is unlimited (SPEC 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Anonymous memory of the whole tree, in bytes, without what a forked run inherits.
    pub memory_bytes: Option<u64>,
    /// CPU time of the whole tree.
    pub cpu: Option<Duration>,
    /// Open files of each process (rlimit).
    pub open_files: Option<u64>,
    /// Size of each written file in bytes (rlimit).
    pub file_size_bytes: Option<u64>,
    /// Processes in the tree at one time.
    pub processes: Option<u64>,
}

/// A job as a door hands it in: read, checked, every default settled.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The id its sender gave; `None` asks the ledger for a fresh one.
    pub id: Option<JobId>,
    /// What to run; `None` for an experiment, whose tool is read as it starts.
    pub target: Option<Target>,
    /// Keyword arguments: a JSON object.
    pub parameters: Box<RawValue>,
    /// `None` for experiments.
    pub task_type: Option<TaskType>,
    /// The experiment this job runs, if it is one.
    pub experiment_id: Option<String>,
    /// 1 (low) to 9 (high).
    pub priority: u8,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Counted failures in all before the job is FAILED.
    pub max_attempts: u32,
    /// Which failures are retried.
    pub retry_on: RetryOn,
    /// Jobs with the same key run once (SPEC 4).
    pub idempotency_key: Option<String>,
    /// Not before this instant.
    pub run_at: Option<Timestamp>,
    /// What its reader should know, such as an assumed `task_type`.
    pub warning: Option<String>,
}

/// A payload that cannot be run, kept as a FAILED row.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Its own id, where one could be read.
    pub id: Option<JobId>,
    /// `InvalidPayloadError`, `ModuleNotAllowedError`, …
    pub error_type: String,
    /// One line: what is wrong with which field, and what would be right.
    pub error: String,
    /// Where readable: the experiment named.
    pub experiment_id: Option<String>,
    /// Where readable: the type named.
    pub task_type: Option<TaskType>,
    /// Where readable: what was to run.
    pub target: Option<Target>,
}

/// A job taken from the ledger for its next attempt: already RUNNING there.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The ledger's row number: arrival order, cheap key.
    pub seq: i64,
    /// The job's id.
    pub id: JobId,
    /// Its door.
    pub source: Source,
    /// What to run.
    pub target: Option<Target>,
    /// Keyword arguments: a JSON object.
    pub parameters: Box<RawValue>,
    /// `None` for experiments.
    pub task_type: Option<TaskType>,
    /// The experiment this job runs, if it is one.
    pub experiment_id: Option<String>,
    /// The run of the experiment, once assigned.
    pub run_id: Option<String>,
    /// This attempt's number, from 1.
    pub attempt: u32,
    /// Counted failures so far.
    pub failures: u32,
    /// Counted failures in all before the job is FAILED.
    pub max_attempts: u32,
    /// Which failures are retried.
    pub retry_on: RetryOn,
    /// How long this attempt may take.
    pub timeout: Duration,
    /// When the job arrived.
    pub created_at: Timestamp,
    /// When this attempt was claimed: its `started_at`.
    pub claimed_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_rule() {
        assert!(JobId::new("a b~").is_some());
        assert!(JobId::new("").is_none());
        assert!(JobId::new(&"x".repeat(201)).is_none());
        assert!(JobId::new("tab\t").is_none());
        assert!(JobId::new("ü").is_none());
    }

    #[test]
    fn task_types_read_in_every_accepted_spelling() {
        for (text, want) in [
            ("etl", TaskType::Etl),
            ("Scheduled-Batch", TaskType::ScheduledBatch),
            ("AD-HOC", TaskType::OnDemand),
            ("event_driven", TaskType::Event),
            ("data-pipeline", TaskType::Etl),
            ("housekeeping", TaskType::Maintenance),
            ("batch", TaskType::ScheduledBatch),
        ] {
            assert_eq!(TaskType::parse(text), Some(want), "{text}");
        }
        assert_eq!(TaskType::parse("urgent"), None);
    }
}
