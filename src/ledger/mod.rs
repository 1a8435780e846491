//! The ledger: the queue and the record, behind domain verbs.
//!
//! The verbs hold nothing particular to SQLite. Must not know Redis, processes or configuration.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::job::{Claim, JobId, NewJob, Refusal, Source, StartMethod, Status};
use crate::outcome::Report;
use crate::policy::Disposition;

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
    pub job: Result<NewJob, Refusal>,
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
    /// A job changed status: hash and event.
    Job,
}

/// The writing end. Cheap to clone; all clones feed one writer thread with group commit.
#[derive(Clone, Debug)]
pub struct Ledger {}

/// What an opened ledger says of its past life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Jobs found RUNNING and put back.
    pub put_back: u64,
    /// Jobs found RUNNING once too often: FAILED (`ExecutorLostError`).
    pub lost: u64,
}

impl Ledger {
    /// Opens (makes, migrates, locks) the ledger and starts its writer. Claims arrive on the
    /// receiver; their number is steered by [`Ledger::demand`]. Jobs left RUNNING are recovered
    /// before this returns.
    pub fn open(
        _options: Options,
    ) -> Result<(Self, tokio::sync::mpsc::UnboundedReceiver<Claim>, Recovered), OpenError> {
        unimplemented!()
    }

    /// The UUID written into the file when it was made.
    pub fn id(&self) -> &str {
        unimplemented!()
    }

    /// Writes arrivals down, in order, in one commit. When this returns they are on disk.
    pub async fn accept(&self, _arrivals: Vec<Arrival>) -> Result<Vec<Accepted>, LedgerError> {
        unimplemented!()
    }

    /// Asks for `free` more claims, as soon as jobs are due.
    pub fn demand(&self, _free: u32) {
        unimplemented!()
    }

    /// Takes all demand back. After this returned, every claim made is in the channel and none
    /// follows.
    pub async fn withdraw(&self) -> Result<(), LedgerError> {
        unimplemented!()
    }

    /// Notes the process of an attempt. Not awaited: goes along with the next commit.
    pub fn started(&self, _claim: &Claim, _pid: u32) {
        unimplemented!()
    }

    /// Records an attempt's end and what becomes of its job.
    pub async fn finish(&self, _finish: Finish) -> Result<(), LedgerError> {
        unimplemented!()
    }

    /// Undoes a claim whose attempt never started: QUEUED again, the start not counted.
    pub async fn unclaim(&self, _claim: Arc<Claim>) -> Result<(), LedgerError> {
        unimplemented!()
    }

    /// Cancels a waiting job, or says that its attempt must be stopped.
    pub async fn cancel(&self, _id: JobId) -> Result<Cancelled, LedgerError> {
        unimplemented!()
    }

    /// Queues a FAILED job again.
    pub async fn retry(&self, _id: JobId) -> Result<Retried, LedgerError> {
        unimplemented!()
    }

    /// Queues every FAILED job again that was a job; says how many.
    pub async fn retry_failed(&self) -> Result<u64, LedgerError> {
        unimplemented!()
    }

    /// Waits until the writer has taken a new write (health), without changing anything.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        unimplemented!()
    }

    /// Whether the last write succeeded.
    pub fn healthy(&self) -> bool {
        unimplemented!()
    }

    /// Jobs waiting in the ledger (QUEUED), roughly: room for taking ahead.
    pub fn waiting(&self) -> u64 {
        unimplemented!()
    }

    /// The oldest messages for Redis, at most `limit`.
    pub async fn outbox(&self, _limit: u32) -> Result<Vec<OutboxEntry>, LedgerError> {
        unimplemented!()
    }

    /// Resolves when the outbox may have gained entries since the last call.
    pub async fn outbox_filled(&self) {
        unimplemented!()
    }

    /// Forgets messages that Redis has acknowledged. Goes along with the next commit.
    pub fn delivered(&self, _up_to: Vec<i64>) {
        unimplemented!()
    }

    /// Removes at most `limit` finished jobs that ended before `before`; says how many.
    pub async fn prune(&self, _before: Timestamp, _limit: u32) -> Result<u64, LedgerError> {
        unimplemented!()
    }

    /// Commits what is pending, ends the writer, releases the lock.
    pub async fn close(&self) {
        unimplemented!()
    }
}
