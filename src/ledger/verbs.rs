//! What the writer is asked to do, how each of it is done within a batch, and how it is answered.
//!
//! Decides nothing about when: that is the writer's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::store::Batch;
use super::{
    Accepted, Acknowledged, Arrival, Cancelled, ClockRow, Finish, LedgerError, OutboxEntry,
    Retried, RunStart,
};
use crate::clock::Timestamp;
use crate::job::{Claim, JobId};

/// How long a note that people may look for waits for a commit to go along with.
const SOON: Duration = Duration::from_millis(20);

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Verb {
    Accept(Vec<Arrival>, Reply<Vec<Accepted>>),
    Demand(u32),
    Withdraw(Reply<()>),
    Started {
        id: JobId,
        attempt: u32,
        pid: u32,
    },
    Finish(Box<Finish>, Reply<()>),
    BeginRun(Arc<Claim>, Box<RunStart>, Reply<()>),
    Unclaim(Arc<Claim>, Option<Timestamp>, Reply<()>),
    Cancel(JobId, Reply<Cancelled>),
    Retry(JobId, Reply<Retried>),
    RetryFailed(Reply<u64>),
    Probe(Reply<()>),
    Outbox(Acknowledged, u32, Reply<Vec<OutboxEntry>>),
    NextOutbox(Acknowledged, u32, Reply<Vec<OutboxEntry>>),
    Settled(Reply<()>),
    Prune(Timestamp, u32, Reply<u64>),
    Clock(Reply<Vec<ClockRow>>),
    NoteClock(ClockRow, Reply<()>),
    ForgetOrigin(Reply<()>),
    Close(Reply<()>),
    #[cfg(test)]
    LimitPages(Option<u32>, Reply<()>),
    #[cfg(test)]
    LoseLog(Reply<()>),
}

impl Verb {
    /// How long it may wait for company; `None`: somebody waits for it.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self {
            Self::Started { .. } => Some(SOON),
            _ => None,
        }
    }
}

/// An answer held back until its commit is on disk, or has failed.
pub(super) type Answer = Box<dyn FnOnce(&Result<(), Arc<rusqlite::Error>>)>;

/// Does one verb in a savepoint of its own; its answer waits for the commit.
pub(super) fn act(
    verb: Verb,
    batch: &mut Batch<'_>,
    carried: &mut u32,
    answers: &mut Vec<Answer>,
    closing: &mut Vec<Reply<()>>,
) {
    match verb {
        Verb::Accept(arrivals, reply) => {
            let done = batch.guarded(|batch| batch.accept(&arrivals));
            answers.push(answer(reply, done));
        }
        // Looked after before the transaction begins.
        Verb::Demand(_) | Verb::Outbox(..) | Verb::NextOutbox(..) | Verb::Settled(_) => {}
        Verb::Withdraw(reply) => answers.push(answer(reply, Ok(()))),
        Verb::Started { id, attempt, pid } => {
            // A courtesy to readers: the record of the end has the pid as well.
            let _ = batch.guarded(|batch| batch.started(&id, attempt, pid));
        }
        Verb::Finish(finish, reply) => {
            let done = batch.guarded(|batch| batch.finish(&finish));
            if done.is_ok() {
                *carried = carried.saturating_add(finish.demand);
            }
            answers.push(answer(reply, done));
        }
        Verb::BeginRun(claim, run, reply) => {
            let done = batch.guarded(|batch| batch.begin_run(&claim, &run));
            answers.push(answer(reply, done));
        }
        Verb::Unclaim(claim, until, reply) => {
            let done = batch.guarded(|batch| batch.unclaim(&claim, until));
            answers.push(answer(reply, done));
        }
        Verb::Cancel(id, reply) => {
            let done = batch.guarded(|batch| batch.cancel(&id));
            answers.push(answer(reply, done));
        }
        Verb::Retry(id, reply) => {
            let done = batch.guarded(|batch| batch.retry(&id));
            answers.push(answer(reply, done));
        }
        Verb::RetryFailed(reply) => {
            let done = batch.guarded(Batch::retry_failed);
            answers.push(answer(reply, done));
        }
        Verb::Probe(reply) => {
            let done = batch.guarded(|batch| batch.probe());
            answers.push(answer(reply, done));
        }
        Verb::Prune(before, limit, reply) => {
            let done = batch.guarded(|batch| batch.prune(before, limit));
            answers.push(answer(reply, done));
        }
        Verb::Clock(reply) => {
            let done = batch.guarded(|batch| batch.clock());
            answers.push(answer(reply, done));
        }
        Verb::NoteClock(row, reply) => {
            let done = batch.guarded(|batch| batch.note_clock(&row));
            answers.push(answer(reply, done));
        }
        Verb::ForgetOrigin(reply) => {
            let done = batch.guarded(Batch::forget_origin);
            answers.push(answer(reply, done));
        }
        Verb::Close(reply) => closing.push(reply),
        #[cfg(test)]
        Verb::LimitPages(_, reply) | Verb::LoseLog(reply) => answers.push(answer(reply, Ok(()))),
    }
}

fn answer<T: 'static>(reply: Reply<T>, done: Result<T, LedgerError>) -> Answer {
    Box::new(move |outcome| {
        let done = match outcome {
            Ok(()) => done,
            Err(error) => Err(LedgerError::Commit(Arc::clone(error))),
        };
        // Whoever asked may have gone.
        let _ = reply.send(done);
    })
}

/// Answers a verb whose transaction could not even begin; why, is told by [`answer`].
pub(super) fn refuse(verb: Verb, answers: &mut Vec<Answer>, closing: &mut Vec<Reply<()>>) {
    match verb {
        Verb::Accept(_, reply) => answers.push(refusal(reply)),
        Verb::Withdraw(reply)
        | Verb::Finish(_, reply)
        | Verb::BeginRun(_, _, reply)
        | Verb::Unclaim(_, _, reply)
        | Verb::NoteClock(_, reply)
        | Verb::ForgetOrigin(reply)
        | Verb::Probe(reply) => answers.push(refusal(reply)),
        Verb::Cancel(_, reply) => answers.push(refusal(reply)),
        Verb::Retry(_, reply) => answers.push(refusal(reply)),
        Verb::RetryFailed(reply) | Verb::Prune(_, _, reply) => answers.push(refusal(reply)),
        Verb::Clock(reply) => answers.push(refusal(reply)),
        Verb::Close(reply) => closing.push(reply),
        #[cfg(test)]
        Verb::LimitPages(_, reply) | Verb::LoseLog(reply) => answers.push(refusal(reply)),
        Verb::Demand(_)
        | Verb::Outbox(..)
        | Verb::NextOutbox(..)
        | Verb::Settled(_)
        | Verb::Started { .. } => {}
    }
}

fn refusal<T: 'static>(reply: Reply<T>) -> Answer {
    answer(reply, Err(LedgerError::Closed))
}
