//! What goes into the ledger's verbs and comes out of them: data and errors.

use std::path::PathBuf;
use std::sync::Arc;

use super::trouble::{MEND, explain};
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

/// Why a verb failed. What was asked is not recorded, or not for sure.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database refused.
    #[error("{}", explain(.0))]
    Sqlite(#[from] rusqlite::Error),
    /// Nothing of its batch is recorded; or the disk did not confirm it, and only a restart finds out.
    #[error("the ledger cannot be written: {}", explain(.0))]
    Commit(#[source] Arc<rusqlite::Error>),
    /// No file there.
    #[error("there is no ledger at {path}")]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// A file or directory beside it.
    #[error(
        "{path} cannot be written; give this user the right to, or name another ledger with DB_URL"
    )]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Written by a newer executor.
    #[error(
        "its schema version {found} is newer than {known}, the newest this executor knows; run the executor that wrote it, or a newer one, or name another ledger with DB_URL"
    )]
    Newer {
        /// In the file.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file is damaged.
    #[error("it is damaged ({what}); {MEND}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// A database, but of somebody else.
    #[error("it is a database, but no ledger of an executor; name another file with DB_URL")]
    Foreign,
    /// A log without the file it belongs to.
    #[error(
        "it is missing or empty, but its log {wal} is not, and would be thrown away; bring the file back, or, if what it held may go, move the log away too"
    )]
    Orphaned {
        /// The log.
        wal: PathBuf,
    },
    /// A log that belongs to another file.
    #[error(
        "{wal} is the log of another file, such as the one this copy was put in the place of, and would ruin it; move it, and the -shm beside it, away"
    )]
    StrangeLog {
        /// The log.
        wal: PathBuf,
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

/// What Redis has acknowledged: all messages up to one, some left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The last one's `seq`; what follows it is asked for.
    pub up_to: i64,
    /// Those before it that are not acknowledged, and are kept; in order.
    pub but: Vec<i64>,
}

impl From<i64> for Acknowledged {
    fn from(up_to: i64) -> Self {
        Self { up_to, but: Vec::new() }
    }
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

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::RunBegan => "run_began",
            Self::RunEnded => "run_ended",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
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

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The rule that is broken, one word.
    pub check: &'static str,
    /// The job it is about, if it is about one.
    pub job_id: Option<String>,
    /// What is wrong, in a sentence.
    pub detail: String,
    /// What to do.
    pub advice: &'static str,
}
