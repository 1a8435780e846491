//! The ledger: the queue and the record, behind domain verbs.
//!
//! The verbs hold nothing particular to SQLite. Must not know Redis, processes or configuration.

mod accept;
mod claim;
mod experiment;
mod finish;
mod lock;
mod reader;
mod recover;
mod steer;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use tokio::sync::{Notify, oneshot};

use crate::clock::Timestamp;
use crate::job::{Claim, JobId, NewJob, Refusal, Source, StartMethod, Status};
use crate::outcome::Report;
use crate::policy::Disposition;

pub use reader::{JobFilter, Reader, Row, WaitsFor};
use writer::{Reply, Verb};

/// How a ledger is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; its directory is made if missing.
    pub path: PathBuf,
    /// Written to `executor_id` of what this executor touches.
    pub executor_id: String,
    /// Kept in `attempts.start_method`.
    pub start_method: StartMethod,
    /// Whether transitions are also written to the outbox for Redis.
    pub outbox: Outbox,
}

/// Whether what happens is to be told to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbox {
    /// Each transition leaves an entry to be sent.
    Kept,
    /// No Redis: none is written.
    Off,
}

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another executor holds it: exit 4.
    #[error("the ledger {path} is in use by another executor{holder}")]
    InUse {
        /// The file.
        path: PathBuf,
        /// ` (pid 123)`, or empty.
        holder: String,
    },
    /// Anything else: exit 3.
    #[error("the ledger {path} cannot be opened")]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: LedgerError,
    },
}

/// Why a verb failed. What was asked is not recorded.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database refused.
    #[error("the database refused")]
    Sqlite(#[from] rusqlite::Error),
    /// The commit failed: nothing of its batch is recorded.
    #[error("the commit failed")]
    Commit(#[source] Arc<rusqlite::Error>),
    /// No file there.
    #[error("there is no ledger at {path}")]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// A file or directory beside it.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Written by a newer executor.
    #[error("its schema version {found} is newer than {known}, the newest this executor knows")]
    Newer {
        /// In the file.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The guard did not hold: the row is no longer in the expected state.
    #[error("attempt {attempt} of job {id} is not the running one")]
    NotRunning {
        /// The job.
        id: JobId,
        /// The attempt expected.
        attempt: u32,
    },
    /// The writer has ended.
    #[error("the ledger is closed")]
    Closed,
}

/// Something that came in through a door, to be written down whatever it is.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Recognises a repeat of the same delivery: an arrival with a known receipt is passed over.
    pub receipt: Option<String>,
    /// Its door.
    pub source: Source,
    /// The bytes as they came, at most 1 MiB.
    pub payload: Arc<[u8]>,
    /// A job, or why it is none (a FAILED row).
    pub job: Result<NewJob, Box<Refusal>>,
}

/// What became of an arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The id it got.
    pub id: JobId,
    /// The status it was born with (claiming comes after).
    pub status: Status,
    /// The job it repeats, if it is a duplicate.
    pub duplicate_of: Option<JobId>,
    /// The receipt was known: nothing was written now.
    pub repeated: bool,
}

/// The record of an attempt's end.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The claim it ends.
    pub claim: Arc<Claim>,
    /// What is known of the attempt.
    pub report: Report,
    /// What becomes of the job.
    pub disposition: Disposition,
    /// Slots that become free with it: the same commit claims as many.
    pub demand: u32,
}

/// What a cancel found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited; it is FAILED (`CancelledError`) now.
    Waiting,
    /// It is running: its attempt must be stopped.
    Running,
    /// It had ended before.
    Ended(Status),
    /// No such job.
    Unknown,
}

/// What a retry found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It was FAILED; it is QUEUED now.
    Queued,
    /// Only FAILED jobs can be retried.
    NotFailed(Status),
    /// Its payload never was a job.
    NotAJob,
    /// No such job.
    Unknown,
}

/// One message for Redis, in order of `seq`.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxEntry {
    /// Its place.
    pub seq: i64,
    /// What it is about: the job's or experiment's id.
    pub subject: String,
    /// What kind of message, see [`OutboxKind`].
    pub kind: OutboxKind,
    /// JSON: for a job change the fields of SPEC 4, absent ones null, `result` as a value.
    pub body: String,
}

/// The kinds of message in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxKind {
    /// A job changed status: its hash and event.
    Job,
    /// An experiment's run began: state and run hash.
    RunBegan,
    /// An experiment's run ended, or (without `run_id`) never began: state, run hash, result message.
    RunEnded,
}

impl OutboxKind {
    const ALL: [Self; 3] = [Self::Job, Self::RunBegan, Self::RunEnded];

    fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::RunBegan => "run_began",
            Self::RunEnded => "run_ended",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What an experiment's run was settled to be as it began.
#[derive(Clone, Debug)]
pub struct RunStart {
    /// `{experiment}:{unix seconds}`.
    pub run_id: String,
    /// The tool; `None` where the definition names none.
    pub target: Option<crate::job::Target>,
    /// A JSON object.
    pub parameters: Box<serde_json::value::RawValue>,
    /// How long one attempt may take.
    pub timeout: std::time::Duration,
    /// Counted failures in all.
    pub max_attempts: u32,
}

/// What is remembered of a schedule that needs no Redis. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockRow {
    /// The schedule's id.
    pub id: String,
    /// As it was written.
    pub expression: String,
    /// Its zone.
    pub timezone: String,
    /// Since when it is known.
    pub seen: String,
    /// Its last due time.
    pub last: Option<String>,
}

/// What an opened ledger says of its past life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Jobs found RUNNING and put back.
    pub put_back: u64,
    /// Jobs found RUNNING once too often: FAILED (`ExecutorLostError`).
    pub lost: u64,
}

/// The writing end. Cheap to clone; all clones feed one writer thread with group commit.
#[derive(Clone, Debug)]
pub struct Ledger {
    verbs: mpsc::Sender<Verb>,
    shared: Arc<Shared>,
}

/// What the writer shows without being asked.
#[derive(Debug)]
struct Shared {
    id: String,
    healthy: AtomicBool,
    waiting: AtomicU64,
    unmet: AtomicU64,
    outbox_filled: Notify,
}

impl Ledger {
    /// Opens (makes, migrates, locks) the ledger and starts its writer. Claims arrive on the
    /// receiver; their number is steered by [`Ledger::demand`]. Jobs left RUNNING are recovered
    /// before this returns.
    pub fn open(
        options: Options,
    ) -> Result<(Self, tokio::sync::mpsc::UnboundedReceiver<Claim>, Recovered), OpenError> {
        let path = options.path.clone();
        let lock = lock::take(&path)?;
        let failed = |source| OpenError::Failed { path: path.clone(), source };
        let mut store = store::Store::open(options).map_err(failed)?;
        let recovered = store.recover().map_err(failed)?;
        let shared = Arc::new(Shared {
            id: store.ledger_id().map_err(failed)?,
            healthy: AtomicBool::new(true),
            waiting: AtomicU64::new(store.count_waiting().map_err(failed)?),
            unmet: AtomicU64::new(0),
            outbox_filled: Notify::new(),
        });
        // What a past life left to be told.
        shared.outbox_filled.notify_one();
        let (verbs, inbox) = mpsc::channel();
        let (claims, claimed) = tokio::sync::mpsc::unbounded_channel();
        let writer = writer::Writer::new(store, inbox, claims, Arc::clone(&shared), lock);
        std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run())
            .map_err(|source| failed(LedgerError::File { path: path.clone(), source }))?;
        Ok((Self { verbs, shared }, claimed, recovered))
    }

    /// The UUID written into the file when it was made.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Writes arrivals down, in order, in one commit. When this returns they are on disk.
    pub async fn accept(&self, arrivals: Vec<Arrival>) -> Result<Vec<Accepted>, LedgerError> {
        self.ask(|reply| Verb::Accept(arrivals, reply)).await
    }

    /// Asks for `free` more claims, as soon as jobs are due.
    pub fn demand(&self, free: u32) {
        self.tell(Verb::Demand(free));
    }

    /// Takes all demand back. After this returned, every claim made is in the channel and none
    /// follows.
    pub async fn withdraw(&self) -> Result<(), LedgerError> {
        self.ask(Verb::Withdraw).await
    }

    /// Notes the process of an attempt. Not awaited: goes along with the next commit.
    pub fn started(&self, claim: &Claim, pid: u32) {
        self.tell(Verb::Started { id: claim.id.clone(), attempt: claim.attempt, pid });
    }

    /// Records an attempt's end and what becomes of its job.
    pub async fn finish(&self, finish: Finish) -> Result<(), LedgerError> {
        self.ask(|reply| Verb::Finish(Box::new(finish), reply)).await
    }

    /// Writes down what an experiment's job runs, as its run begins. Repeating it for the same run
    /// changes nothing.
    pub async fn begin_run(&self, claim: Arc<Claim>, run: RunStart) -> Result<(), LedgerError> {
        self.ask(|reply| Verb::BeginRun(claim, Box::new(run), reply)).await
    }

    /// Undoes a claim whose attempt never started: QUEUED again, at once or not before `until`;
    /// the start is not counted.
    pub async fn unclaim(
        &self,
        claim: Arc<Claim>,
        until: Option<Timestamp>,
    ) -> Result<(), LedgerError> {
        self.ask(|reply| Verb::Unclaim(claim, until, reply)).await
    }

    /// Cancels a waiting job, or says that its attempt must be stopped.
    pub async fn cancel(&self, id: JobId) -> Result<Cancelled, LedgerError> {
        self.ask(|reply| Verb::Cancel(id, reply)).await
    }

    /// Queues a FAILED job again.
    pub async fn retry(&self, id: JobId) -> Result<Retried, LedgerError> {
        self.ask(|reply| Verb::Retry(id, reply)).await
    }

    /// Queues every FAILED job again that was a job; says how many.
    pub async fn retry_failed(&self) -> Result<u64, LedgerError> {
        self.ask(Verb::RetryFailed).await
    }

    /// Waits until the writer has taken a new write (health). Changes nothing that matters.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        self.ask(Verb::Probe).await
    }

    /// Whether the last write succeeded.
    pub fn healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Relaxed)
    }

    /// Jobs waiting in the ledger (QUEUED), for whatever reason.
    pub fn waiting(&self) -> u64 {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Claims asked for that no job was there for: while there are any, whatever waits cannot begin
    /// yet (its time, a leader, a running experiment), so there is room for more.
    pub fn unmet_demand(&self) -> u64 {
        self.shared.unmet.load(Ordering::Relaxed)
    }

    /// The oldest messages for Redis after the one with this `seq`, at most `limit`. Redis has
    /// acknowledged those up to it: they are forgotten along with the next commit.
    pub async fn outbox(&self, after: i64, limit: u32) -> Result<Vec<OutboxEntry>, LedgerError> {
        self.ask(|reply| Verb::Outbox(after, limit, reply)).await
    }

    /// Resolves when the outbox may have gained entries since the last call.
    pub async fn outbox_filled(&self) {
        self.shared.outbox_filled.notified().await;
    }

    /// All that is remembered of schedules.
    pub async fn clock(&self) -> Result<Vec<ClockRow>, LedgerError> {
        self.ask(Verb::Clock).await
    }

    /// Remembers this of a schedule.
    pub async fn note_clock(&self, row: ClockRow) -> Result<(), LedgerError> {
        self.ask(|reply| Verb::NoteClock(row, reply)).await
    }

    /// Removes at most `limit` finished jobs that ended before `before`; says how many.
    pub async fn prune(&self, before: Timestamp, limit: u32) -> Result<u64, LedgerError> {
        self.ask(|reply| Verb::Prune(before, limit, reply)).await
    }

    /// Limits the file's pages, as a full disk would; `None`: no limit.
    #[cfg(test)]
    async fn set_page_limit(&self, pages: Option<u32>) -> Result<(), LedgerError> {
        self.ask(|reply| Verb::LimitPages(pages, reply)).await
    }

    /// Commits what is pending, ends the writer, releases the lock.
    pub async fn close(&self) {
        // A writer that has ended already has done all that.
        let _ = self.ask(Verb::Close).await;
    }

    async fn ask<T>(&self, verb: impl FnOnce(Reply<T>) -> Verb) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.verbs.send(verb(reply)).map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// For verbs without an answer: once the writer has ended there is nobody to miss them.
    fn tell(&self, verb: Verb) {
        let _ = self.verbs.send(verb);
    }
}
