//! The ledger: the queue and the record, behind domain verbs.
//!
//! The verbs hold nothing particular to SQLite. Must not know Redis, processes or configuration.

mod accept;
mod backup;
mod check;
mod claim;
mod company;
mod experiment;
mod finish;
mod invariants;
mod lock;
mod reader;
mod records;
mod recover;
mod schema;
mod sound;
mod steer;
mod store;
#[cfg(test)]
mod tests;
mod trouble;
mod verbs;
mod wal;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::job::{Claim, JobId};

pub use backup::{BackupError, Copied, backup};
pub use check::{AttemptState, Looked, Serving, Shown};
pub use lock::holder;
pub use reader::{JobFilter, Reader, Row, WaitsFor};
pub use records::{
    Accepted, Acknowledged, Arrival, Cancelled, ClockRow, Finding, Finish, LedgerError, OpenError,
    Options, Outbox, OutboxEntry, OutboxKind, Recovered, Retried, RunStart,
};
use trouble::{Reach, Trouble};
use verbs::{Reply, Verb};

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
    origin: Option<String>,
    trouble: Trouble,
    waiting: AtomicU64,
    unmet: AtomicU64,
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
            origin: store.origin().map_err(failed)?,
            trouble: Trouble::default(),
            waiting: AtomicU64::new(store.count_waiting().map_err(failed)?),
            unmet: AtomicU64::new(0),
        });
        if store::file_size(&path) > store::CHECKED_AT_START {
            check_meanwhile(path.clone(), Arc::clone(&shared));
        }
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

    /// The id of the ledger it was copied from, if that mattered still when it was opened.
    pub fn origin(&self) -> Option<&str> {
        self.shared.origin.as_deref()
    }

    /// That the ledger is a copy no longer matters.
    pub async fn forget_origin(&self) -> Result<(), LedgerError> {
        self.ask(Verb::ForgetOrigin).await
    }

    /// Writes arrivals down, in order, in one commit. When this returns they are on disk.
    pub async fn accept(&self, arrivals: Vec<Arrival>) -> Result<Vec<Accepted>, LedgerError> {
        self.ask(|reply| Verb::Accept(arrivals, reply)).await
    }

    /// Asks for `free` more claims, as soon as jobs are due.
    pub fn demand(&self, free: u32) {
        self.tell(Verb::Demand(free));
    }

    /// Takes all demand back, for good. After this returned, with whatever, every claim made is in the
    /// channel and none follows, also none that an ending carries a demand for.
    pub async fn withdraw(&self) -> Result<(), LedgerError> {
        self.ask(Verb::Withdraw).await
    }

    /// Notes the process of an attempt. Not awaited: goes along with the next commit.
    pub fn started(&self, claim: &Claim, pid: u32) {
        self.tell(Verb::Started { id: claim.id.clone(), attempt: claim.attempt, pid });
    }

    /// Records an attempt's end and what becomes of its job.
    pub async fn finish(&self, finish: Finish) -> Result<(), LedgerError> {
        failpoint!("finish.before", crate::failpoint::disk_full().into());
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

    /// Waits until all claims that have come are on the disk: what begins with them is told to others.
    pub async fn settled(&self) -> Result<(), LedgerError> {
        self.ask(Verb::Settled).await
    }

    /// Why the ledger cannot be written, in a sentence; `None` while it can, as of the last write.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.why()
    }

    /// Resolves while the ledger cannot be written, or as soon as that begins.
    pub async fn lost(&self) {
        self.shared.trouble.begins().await;
    }

    /// Whether a new write is taken within this time; else why not, in a sentence.
    pub async fn writable_within(&self, time: Duration) -> Result<(), String> {
        let probed = tokio::time::timeout(time, self.probe()).await;
        let missed = || {
            format!(
                "no write was taken within {time:?}; its disk is slow, or another process holds its lock"
            )
        };
        match (self.trouble(), probed) {
            (Some(why), _) => Err(why),
            (None, Ok(probed)) => probed.map_err(|error| error.to_string()),
            (None, Err(_)) => Err(missed()),
        }
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

    /// The oldest messages for Redis after those it has acknowledged, at most `limit`. These are
    /// forgotten along with the next commit.
    pub async fn outbox(
        &self,
        acknowledged: impl Into<Acknowledged>,
        limit: u32,
    ) -> Result<Vec<OutboxEntry>, LedgerError> {
        self.ask(|reply| Verb::Outbox(acknowledged.into(), limit, reply)).await
    }

    /// As [`Ledger::outbox`], but answered only once there is a message. One at a time may wait.
    pub async fn next_outbox(
        &self,
        acknowledged: impl Into<Acknowledged>,
        limit: u32,
    ) -> Result<Vec<OutboxEntry>, LedgerError> {
        self.ask(|reply| Verb::NextOutbox(acknowledged.into(), limit, reply)).await
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

    /// From now on the disk confirms nothing.
    #[cfg(test)]
    async fn lose_log(&self) {
        assert!(self.ask(Verb::LoseLog).await.is_err());
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

/// Reads a large ledger through beside its use. Nobody waits for it: without it nothing is lacking
/// but the early word.
fn check_meanwhile(path: PathBuf, shared: Arc<Shared>) {
    let checking = move || {
        let found = Reader::beside_writer(&path).and_then(|reader| reader.whole());
        if let Err(error @ LedgerError::Damaged { .. }) = found {
            shared.trouble.note(Reach::Damaged, &error.to_string());
        }
    };
    let _ = std::thread::Builder::new().name("ledger-check".into()).spawn(checking);
}
