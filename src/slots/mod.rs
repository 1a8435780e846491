//! Slots: run one attempt in its own process tree and report how it ended.
//!
//! Knows nothing of Redis, SQL or schedules. `docs/design/slots.md` tells how a slot works.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};

use crate::job::{JobId, Limits, StartMethod, Target};
use crate::log::OutputSink;
use crate::outcome::{Report, RunEvent};

/// How slots are set up. The same for all runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many attempts run at once.
    pub slots: usize,
    /// `python3`, or a path.
    pub interpreter: String,
    /// How runs are born.
    pub start_method: StartMethod,
    /// What a run sees of the environment, beside `EXECUTOR_*` and `TMPDIR`.
    pub environment: BTreeMap<String, String>,
    /// Allowed top-level packages.
    pub allowed_modules: Vec<String>,
    /// Where they are looked up first.
    pub tasks_path: PathBuf,
    /// Where tools are.
    pub tools_path: PathBuf,
    /// A private directory (mode 0700) for the shim, the runs' `TMPDIR`s, …; emptied at the start.
    pub runtime_dir: PathBuf,
    /// Bounds on each run.
    pub limits: Limits,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Largest result kept whole.
    pub result_max_bytes: usize,
    /// Kept output of each attempt.
    pub log_tail_bytes: usize,
}

/// Why slots could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// The interpreter cannot be had or is too old.
    #[error("{interpreter} cannot run jobs: {reason}")]
    Interpreter {
        /// As configured.
        interpreter: String,
        /// What is wrong, in a sentence.
        reason: String,
    },
    /// The system refused.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Call the target.
    Call,
    /// Load it and describe it: `{"callable", "signature", "doc"}`.
    Check,
}

/// One attempt to be made.
#[derive(Clone, Debug)]
pub struct Run {
    /// For the environment, log lines and frames.
    pub job_id: JobId,
    /// From 1.
    pub attempt: u32,
    /// The experiment's run, if it is one.
    pub run_id: Option<String>,
    /// The experiment, if it is one.
    pub experiment_id: Option<String>,
    /// What to run.
    pub target: Target,
    /// A JSON object.
    pub parameters: Box<RawValue>,
    /// From the start of the process to the kill.
    pub timeout: Duration,
    /// Call it or describe it.
    pub action: Action,
}

/// Why a run should stop early. Ordered; only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// It should not.
    No,
    /// Our shutdown: SIGTERM, and SIGKILL after this much grace.
    Shutdown(Duration),
    /// A user cancelled it: SIGTERM, and SIGKILL after the usual grace.
    Cancel,
    /// At once.
    Kill,
}

/// All slots. Cheap to share.
#[derive(Debug)]
pub struct Slots {}

/// The means by which runs are kept apart and ended, as `/healthz` and `doctor` name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// `landlock-scope` or `subreaper`.
    pub name: &'static str,
    /// What a better one would need.
    pub advice: Option<String>,
}

/// What a probed interpreter says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The real executable behind a launcher.
    pub executable: PathBuf,
    /// `3.11.7`.
    pub version: String,
}

impl Slots {
    /// Probes the interpreter, starts the keeper and its slots. Blocking work happens off the
    /// runtime.
    pub async fn start(_options: Options, _output: OutputSink) -> Result<Self, SlotsError> {
        unimplemented!()
    }

    /// The interpreter in use.
    pub fn interpreter(&self) -> &Interpreter {
        unimplemented!()
    }

    /// The isolation in force.
    pub fn tier(&self) -> &Tier {
        unimplemented!()
    }

    /// Makes one attempt: waits for a free slot (the caller keeps to the number of slots), runs,
    /// ends the whole tree, reports. `started` is told the pid once. Never fails: what goes wrong
    /// is an outcome.
    pub async fn run(
        &self,
        _run: Run,
        _stop: watch::Receiver<Stop>,
        _started: impl FnOnce(u32) + Send,
        _events: mpsc::Sender<RunEvent>,
    ) -> Report {
        unimplemented!()
    }

    /// Ends keeper and slots with everything under them.
    pub async fn close(&self) {
        unimplemented!()
    }
}
