//! Slots: run one attempt in its own process tree and report how it ended.
//!
//! Knows nothing of Redis, SQL or schedules. `docs/design/slots.md` tells how a slot works.

mod asking;
mod attempt;
mod channels;
mod ending;
mod guard;
mod interpreter;
mod keeper;
mod marks;
mod output;
mod past;
mod preload;
mod proc;
mod reaped;
mod renew;
mod retire;
mod setup;
mod shim;
mod slot;
mod spawn;
mod stack;
mod tmpdir;
mod tree;
mod verdict;
mod watching;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc, watch};

pub use marks::{Lineage, Marked, age, marked, runtime_dir};
pub use spawn::{LAUNCH, harden, launch};

use crate::job::{JobId, Limits, StartMethod, Target};
use crate::log::OutputSink;
use crate::outcome::{Outcome, Report, RunEvent, Usage};
use keeper::Keeper;
use setup::Setup;

/// How slots are set up. The same for all runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary whose [`LAUNCH`] calls [`launch`]: the executor's own.
    pub launcher: PathBuf,
    /// How many attempts run at once.
    pub slots: usize,
    /// `python3`, or a path.
    pub interpreter: String,
    /// How runs are born.
    pub start_method: StartMethod,
    /// What is loaded ahead of a run.
    pub preload: crate::config::Preload,
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
        source: io::Error,
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
#[derive(Clone, Debug)]
pub struct Slots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    setup: Setup,
    keeper: Keeper,
    /// Held while a spare is being started.
    starting: Semaphore,
    output: OutputSink,
    tier: Tier,
    interpreter: Interpreter,
}

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
    /// Probes the interpreter, starts the slots and sees one of them at work. Blocking work happens
    /// off the runtime.
    ///
    /// # Errors
    /// [`SlotsError::Interpreter`] if it cannot run jobs, [`SlotsError::System`] if the runtime
    /// directory or a process cannot be made.
    pub async fn start(options: Options, output: OutputSink) -> Result<Self, SlotsError> {
        let (setup, interpreter) = tokio::task::spawn_blocking(move || Setup::make(options))
            .await
            .map_err(|error| system("prepare the slots")(io::Error::other(error)))??;
        let keeper = Keeper::new(setup.options.slots);
        let shared = Arc::new(Shared {
            setup,
            keeper,
            starting: Semaphore::new(1),
            output,
            tier: spawn::tier(),
            interpreter,
        });
        let slots = Self { shared };
        let shared = &slots.shared;
        let begin = || slot::Slot::start(&shared.setup).map_err(system("start a slot"));
        shared.keeper.put(Some(begin()?));
        let ready =
            shared.keeper.take(&shared.setup).await.map_err(|reason| SlotsError::Interpreter {
                interpreter: shared.setup.options.interpreter.clone(),
                reason,
            })?;
        let mut slot = ready.slot;
        slot.park(ready.process);
        shared.keeper.put(Some(slot));
        for _ in 1..shared.setup.options.slots {
            slots.give_back(begin()?, ending::Health::Clean, None);
        }
        if shared.setup.options.start_method == StartMethod::Forkserver {
            let shared = Arc::clone(shared);
            tokio::spawn(async move { shared.keeper.rehearse().await });
        }
        if shared.setup.preload.remember() {
            tokio::spawn(renew::renew(Arc::clone(shared)));
        }
        Ok(slots)
    }

    /// The interpreter in use.
    pub fn interpreter(&self) -> &Interpreter {
        &self.shared.interpreter
    }

    /// The isolation in force.
    pub fn tier(&self) -> &Tier {
        &self.shared.tier
    }

    /// How many slots are set aside: replaced, but not yet ended, as something under them does not die.
    pub fn set_aside(&self) -> usize {
        retire::set_aside()
    }

    /// Makes one attempt: waits for a free slot (the caller keeps to the number of slots), runs,
    /// ends the whole tree, reports. `started` is told the pid once. Never fails: what goes wrong
    /// is an outcome.
    pub async fn run(
        &self,
        run: Run,
        stop: watch::Receiver<Stop>,
        started: impl FnOnce(u32) + Send,
        events: mpsc::Sender<RunEvent>,
    ) -> Report {
        let setup = &self.shared.setup;
        let mut ready = match self.shared.keeper.take(setup).await {
            Ok(ready) => ready,
            Err(reason) => return not_started(setup, reason),
        };
        let place = Place { keeper: &self.shared.keeper };
        let made =
            attempt::make(setup, &self.shared.output, &mut ready, &run, stop, started, events)
                .await;
        let made = made.unwrap_or_else(|error| {
            let reason = format!("the system refused: {}", keeper::text(&error));
            let report = not_started(setup, reason);
            attempt::Made { report, health: ending::Health::Spoilt, born: None, imported: None }
        });
        std::mem::forget(place);
        self.give_back(ready.slot, made.health, made.born);
        if made.imported.is_some_and(|imported| setup.preload.note(imported)) {
            tokio::spawn(renew::renew(Arc::clone(&self.shared)));
        }
        made.report
    }

    /// Prepares the next process behind the caller's back, so that the report does not wait for it;
    /// in a new slot, if this one is spoilt.
    fn give_back(&self, slot: slot::Slot, health: ending::Health, born: Option<i32>) {
        let shared = Arc::clone(&self.shared);
        let mut place = match health {
            ending::Health::Clean if slot.is_worn() && shared.keeper.needs_spare() => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { renew::offer_spare(&shared).await });
                Some(slot)
            }
            ending::Health::Clean => Some(slot),
            ending::Health::Spoilt => {
                slot.retire();
                slot::Slot::start(&shared.setup).ok()
            }
        };
        tokio::spawn(async move {
            if let Some(slot) = &mut place {
                match slot.prepare(born).await {
                    Ok(()) | Err(slot::SlotError::Refused(_)) => {}
                    Err(_) => place = None,
                }
            }
            shared.keeper.put(place);
        });
    }

    /// Ends the slots with everything under them. Runs still under way are given three seconds to
    /// come back by themselves: stop them first.
    pub async fn close(&self) {
        self.shared.setup.closing.store(true, Ordering::Relaxed);
        // What is about to start is waited for, or it would be left over.
        let started = tokio::time::timeout(CLOSING, self.shared.starting.acquire()).await;
        self.shared.starting.close();
        drop(started);
        self.shared.keeper.close(CLOSING).await;
    }
}

/// How long the end waits for runs under way, and for slots that are being started.
const CLOSING: Duration = Duration::from_secs(3);

/// A place taken from the keeper: given back empty if the run is dropped half-way.
struct Place<'a> {
    keeper: &'a Keeper,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.keeper.put(None);
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> SlotsError {
    move |source| SlotsError::System { what, source }
}

fn not_started(setup: &Setup, reason: String) -> Report {
    Report {
        outcome: Outcome::NotStarted(reason),
        pid: None,
        start_method: setup.options.start_method,
        finished_at: crate::clock::now(),
        exit: None,
        usage: Usage::default(),
        survivors_killed: 0,
        log_tail: String::new(),
        log_bytes: 0,
    }
}
