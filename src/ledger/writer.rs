//! The writer thread: takes what is waiting into one commit, claims for free slots in the same commit,
//! hands the claims out, has the disk take it, answers.
//!
//! Knows no SQL ([`super::store`] and its neighbours do).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc as tokio_mpsc;

use super::company;
use super::lock::Lock;
use super::store::{Batch, Effects, Store};
use super::trouble::{Reach, explain, reach};
use super::verbs::{Answer, Reply, Verb, act, refuse};
use super::{Acknowledged, LedgerError, OutboxEntry, Shared};
use crate::clock::{self, Timestamp};
use crate::job::Claim;

/// Most verbs in one commit: bounds how long the first of them waits.
const BATCH: usize = 256;
/// How long what Redis has acknowledged waits to be forgotten.
const LAZY: Duration = Duration::from_millis(250);
/// Looks for due jobs at least so often, whatever the clock does.
const LOOK: Duration = Duration::from_secs(5);
/// While the ledger cannot be written, it is tried again so often.
const AGAIN: Duration = Duration::from_millis(200);

/// What a transaction came to.
struct Written {
    outcome: Result<(), Arc<rusqlite::Error>>,
    /// In force only if it was committed. Its claims are among what was started.
    effects: Effects,
    fault: Option<(Reach, String)>,
    /// Demand that came with the records of endings, and counts with them.
    carried: u32,
    answers: Vec<Answer>,
}

/// The thread's state.
pub(super) struct Writer {
    store: Store,
    inbox: Receiver<Verb>,
    claims: tokio_mpsc::UnboundedSender<Claim>,
    shared: Arc<Shared>,
    demand: u32,
    /// From now on nothing is claimed, whoever asks.
    withdrawn: bool,
    /// The most that was ever demanded at once: how many slots there are.
    slots: u32,
    /// The last message that Redis has acknowledged, and the last that is forgotten.
    acknowledged: i64,
    forgotten: i64,
    /// Messages before that which are to be kept.
    kept: Vec<i64>,
    /// Who waits for the next message.
    asks_next: Option<(i64, u32, Reply<Vec<OutboxEntry>>)>,
    pending: Vec<Verb>,
    /// When the last commit began.
    begun: Instant,
    closing: Vec<Reply<()>>,
    /// Why the disk did not confirm a commit: after that nothing is written or answered well.
    unsynced: Option<Arc<rusqlite::Error>>,
    lock: Lock,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        inbox: Receiver<Verb>,
        claims: tokio_mpsc::UnboundedSender<Claim>,
        shared: Arc<Shared>,
        lock: Lock,
    ) -> Self {
        Self {
            store,
            inbox,
            claims,
            shared,
            demand: 0,
            withdrawn: false,
            slots: 0,
            acknowledged: 0,
            forgotten: 0,
            kept: Vec::new(),
            asks_next: None,
            pending: Vec::new(),
            begun: Instant::now(),
            closing: Vec::new(),
            unsynced: None,
            lock,
        }
    }

    /// Serves until closed, or until every [`super::Ledger`] is dropped.
    pub(super) fn run(mut self) {
        let mut wake = Duration::ZERO;
        loop {
            let open = self.gather(wake);
            let committed = self.commit();
            if !open || !self.closing.is_empty() {
                break;
            }
            let trouble = &self.shared.trouble;
            let again = (!committed || trouble.stands()) && !trouble.lasts();
            wake = match again {
                true => AGAIN,
                false if trouble.stands() => LOOK,
                false => self.next_look(),
            };
        }
        if self.unsynced.is_some() {
            self.store.abandon_log();
        }
        let Self { store, lock, closing, .. } = self;
        // The file is closed before the lock is let go, and both before anyone is told.
        drop(store);
        drop(lock);
        for reply in closing {
            let _ = reply.send(Ok(()));
        }
    }

    /// Waits for verbs, at most `wake`; lazy ones alone wait a little for company. `false`: nobody
    /// can send any more.
    fn gather(&mut self, wake: Duration) -> bool {
        let mut until = Instant::now() + wake;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left) {
                // A read, which costs no commit and keeps nobody waiting for company.
                Ok(verb @ (Verb::Outbox(..) | Verb::NextOutbox(..) | Verb::Settled(_))) => {
                    self.read(verb);
                    if self.acknowledged > self.forgotten {
                        until = until.min(Instant::now() + LAZY);
                    }
                }
                Ok(verb) => {
                    let patience = verb.patience();
                    self.pending.push(verb);
                    match patience.or_else(|| self.breath()) {
                        None => break,
                        Some(patience) => until = until.min(Instant::now() + patience),
                    }
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while self.pending.len() < BATCH {
            match self.inbox.try_recv() {
                Ok(verb @ (Verb::Outbox(..) | Verb::NextOutbox(..) | Verb::Settled(_))) => {
                    self.read(verb)
                }
                Ok(verb) => self.pending.push(verb),
                Err(_) => break,
            }
        }
        true
    }

    /// How long what is pending waits for company under a backlog: all slots at work, jobs waiting.
    fn breath(&self) -> Option<Duration> {
        let backlog = self.demand == 0 && self.shared.waiting.load(Ordering::Relaxed) > 0;
        let ended = self.pending.iter().filter(|verb| matches!(verb, Verb::Finish(..))).count();
        backlog.then(|| company::wait(self.slots, ended, self.begun.elapsed())).flatten()
    }

    /// All commits so far are on the disk, or the last of them never was confirmed.
    fn settled(&self) -> Result<(), LedgerError> {
        self.unsynced.as_ref().map_or(Ok(()), |error| Err(LedgerError::Commit(Arc::clone(error))))
    }

    /// A question that needs no commit. One for messages is answered at once, or once there is one.
    fn read(&mut self, verb: Verb) {
        match verb {
            Verb::Outbox(_, _, reply) | Verb::NextOutbox(_, _, reply)
                if self.unsynced.is_some() =>
            {
                // What the disk did not confirm is told to nobody.
                let _ = reply.send(self.settled().map(|()| Vec::new()));
            }
            Verb::Settled(reply) => drop(reply.send(self.settled())),
            Verb::Outbox(acknowledged, limit, reply) => {
                let after = self.acknowledge(acknowledged);
                // Whoever asked may have gone.
                let _ = reply.send(self.store.outbox(after, limit));
            }
            Verb::NextOutbox(acknowledged, limit, reply) => {
                let after = self.acknowledge(acknowledged);
                self.asks_next = Some((after, limit, reply));
                self.answer_next();
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self, acknowledged: Acknowledged) -> i64 {
        self.acknowledged = self.acknowledged.max(acknowledged.up_to);
        if self.kept != acknowledged.but {
            // Some that were kept may be forgotten now.
            let first = self.kept.first().map_or(self.forgotten, |seq| seq - 1);
            self.forgotten = self.forgotten.min(first);
            self.kept = acknowledged.but;
        }
        acknowledged.up_to
    }

    /// Answers who waits for the next message, if there is one.
    fn answer_next(&mut self) {
        let Some((after, limit, reply)) = self.asks_next.take() else { return };
        match self.store.outbox(after, limit) {
            Ok(entries) if entries.is_empty() => self.asks_next = Some((after, limit, reply)),
            // Whoever asked may have gone.
            answer => drop(reply.send(answer)),
        }
    }

    /// One transaction for all that is pending and for the claims it makes possible. After one that
    /// failed nothing is claimed until one has succeeded that needed some room.
    fn commit(&mut self) -> bool {
        let verbs = std::mem::take(&mut self.pending);
        let troubled = self.shared.trouble.stands();
        let probing = troubled && !self.shared.trouble.lasts();
        let demand = if troubled { 0 } else { self.demand };
        let idle = verbs.is_empty() && demand == 0 && self.acknowledged <= self.forgotten;
        if idle && !probing {
            return true;
        }
        verbs.iter().for_each(|verb| self.hear(verb));
        self.begun = Instant::now();
        let before = self.store.changes();
        let acknowledged = self.acknowledged;
        let mut written = self.write(verbs, troubled, probing);
        if written.outcome.is_ok() {
            self.hand_out(&mut written);
            if self.store.changes() != before {
                written.outcome = self.sync();
            }
        }
        let committed = written.outcome.is_ok();
        self.judge(&written.outcome, written.fault.as_ref(), probing);
        if committed {
            self.forgotten = acknowledged;
        }
        for answer in written.answers {
            answer(&written.outcome);
        }
        if committed && written.effects.told {
            self.answer_next();
        }
        committed
    }

    /// The transaction itself.
    fn write(&mut self, verbs: Vec<Verb>, troubled: bool, probing: bool) -> Written {
        let (mut answers, mut carried) = (Vec::with_capacity(verbs.len()), 0);
        let begun = match &self.unsynced {
            Some(error) => Err(Arc::clone(error)),
            None => self.store.begin(clock::now()).map_err(Arc::new),
        };
        let mut batch = match begun {
            Ok(batch) => batch,
            Err(error) => {
                for verb in verbs {
                    refuse(verb, &mut answers, &mut self.closing);
                }
                let (effects, fault) = (Effects::default(), None);
                return Written { outcome: Err(error), effects, fault, carried, answers };
            }
        };
        batch.free = if troubled { 0 } else { self.demand };
        if probing {
            // Refused, it ends the batch, and with it all that follows.
            let _ = batch.guarded(Batch::probe_room);
        }
        if self.acknowledged > self.forgotten {
            // Undone, they are sent again: each message can be told twice.
            let acknowledged = self.acknowledged;
            let _ = batch.guarded(|batch| batch.forget_up_to(acknowledged, &self.kept));
        }
        for verb in verbs {
            act(verb, &mut batch, &mut carried, &mut answers, &mut self.closing);
        }
        if self.withdrawn {
            carried = 0;
        }
        let started = u32::try_from(batch.effects.started.len()).unwrap_or(u32::MAX);
        let demand = self.demand.saturating_add(carried).saturating_sub(started);
        let demand = if troubled { 0 } else { demand };
        // Refused, they are made again with the next commit.
        let claims = batch.guarded(|batch| batch.claim(demand)).unwrap_or_default();
        let outcome = batch.commit();
        let (mut effects, fault) = batch.effects();
        effects.started.extend(claims);
        Written { outcome, effects, fault, carried, answers }
    }

    /// What a commit changed is in force: the numbers, and its claims, which may begin. What is in the log
    /// outlives this process, though not yet the machine.
    fn hand_out(&mut self, written: &mut Written) {
        let Written { effects, carried, .. } = written;
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        let waiting = waiting.saturating_add_signed(effects.waiting);
        self.shared.waiting.store(waiting, Ordering::Relaxed);
        let claims = std::mem::take(&mut effects.started);
        let claimed = u32::try_from(claims.len()).unwrap_or(u32::MAX);
        self.demand = self.demand.saturating_add(*carried).saturating_sub(claimed);
        self.shared.unmet.store(self.demand.into(), Ordering::Relaxed);
        for claim in claims {
            // Without a dispatcher (a command at work on the ledger) there is no demand.
            let _ = self.claims.send(claim);
        }
        if claimed > 0 && self.demand > 0 {
            // Slots are free still, so little goes on: whoever begins the claims may share this core.
            std::thread::yield_now();
        }
    }

    /// Has the disk take the commit. A failure is for good: what the kernel let go of is not told a second time.
    fn sync(&mut self) -> Result<(), Arc<rusqlite::Error>> {
        self.store.sync().map_err(|error| {
            self.shared.trouble.note(Reach::Unsure, &explain(&error));
            Arc::clone(self.unsynced.insert(Arc::new(error)))
        })
    }

    /// What a verb says to the writer itself.
    fn hear(&mut self, verb: &Verb) {
        match verb {
            Verb::Demand(free) if !self.withdrawn => {
                self.demand = self.demand.saturating_add(*free);
                self.slots = self.slots.max(self.demand);
            }
            Verb::Withdraw(_) => {
                self.demand = 0;
                self.withdrawn = true;
            }
            #[cfg(test)]
            Verb::LimitPages(pages, _) => self.store.limit_pages(*pages),
            #[cfg(test)]
            Verb::LoseLog(_) => self.store.lose_log(),
            _ => {}
        }
    }

    /// Notes whether the ledger can be written.
    fn judge(
        &self,
        outcome: &Result<(), Arc<rusqlite::Error>>,
        fault: Option<&(Reach, String)>,
        probed: bool,
    ) {
        let trouble = &self.shared.trouble;
        if let Some((reach, why)) = fault {
            trouble.note(*reach, why);
        } else if let Err(error) = outcome {
            // Whatever it is, nothing was recorded for sure.
            trouble.note(reach(error).max(Reach::Passing), &explain(error));
        } else if probed {
            trouble.over();
            self.store.clear_room();
        }
    }

    /// How long there is nothing to do unless somebody asks.
    fn next_look(&self) -> Duration {
        if self.demand == 0 {
            return LOOK;
        }
        let due = self.store.next_due().unwrap_or_default();
        due.map_or(LOOK, |due| {
            let left = due.duration_since(Timestamp::now());
            Duration::try_from(left).unwrap_or(Duration::ZERO).min(LOOK) + Duration::from_millis(1)
        })
    }
}
