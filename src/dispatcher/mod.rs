//! The dispatcher: owns the set of running attempts, starts what the ledger hands out, stops what must
//! stop, and drains at a shutdown.
//!
//! One loop. Its `select!` only builds an [`Event`]; [`State::handle`] decides, synchronously and
//! without touching anything; the loop then does what the [`Action`] says. It never runs an attempt
//! itself ([`crate::flow`] does) and never decides what becomes of one ([`crate::policy`] does).

mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use self::plan::ShutdownPlan;
use crate::flow::{self, Ended, Flow};
use crate::job::{Claim, JobId};
use crate::ledger::{Cancelled, LedgerError};
use crate::signals::Signal;
use crate::slots::Stop;

/// How often the loop shows that it is alive, whatever else happens.
const TICK: Duration = Duration::from_secs(1);

/// The most that recording and telling may take after a second signal, whatever is left of the grace.
const CLOSING_TIME_KILLED: Duration = Duration::from_secs(5);

/// How long the ledger may take for a write once the time for recording is over.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The same once it took one: what is waited for then is a process that does not die, not the ledger.
const NEXT_LOOKS: Duration = Duration::from_secs(1);

/// Attempts whose ends were not recorded by the end of the shutdown's grace, since the ledger took no
/// more writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger cannot be written: when the grace was over, {attempts} attempts were not recorded, and it may have handed out more; the next start runs again whatever is RUNNING in it"
)]
pub struct Unrecorded {
    /// How many are known; the ledger may have handed out more meanwhile.
    pub attempts: usize,
}

/// What other parts may ask of the dispatcher. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Cancel>,
}

/// A cancel on its way to the loop.
#[derive(Debug)]
struct Cancel {
    id: JobId,
    reply: oneshot::Sender<Result<Cancelled, LedgerError>>,
}

impl Handle {
    /// Cancels a job: a waiting one is FAILED at once, a running one is stopped (this does not wait
    /// for its end).
    pub async fn cancel(&self, id: JobId) -> Result<Cancelled, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Cancel { id, reply }).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }
}

/// What happened.
#[derive(Debug)]
enum Event {
    /// The ledger handed out a job.
    Claimed(Claim),
    /// An attempt is over and recorded.
    Ended(Ended),
    /// A user wants a job cancelled.
    Cancel(Cancel),
    /// The ledger answered a cancel of a job that was not running here.
    CancelAnswered(Cancel, Result<Cancelled, LedgerError>),
    /// Every claim that the ledger made has come.
    Withdrawn,
    /// A claim that came too late is given back.
    GivenBack,
    /// The service manager or a person wants us to end.
    Signal(Signal),
    /// The time for runs to finish by themselves is over.
    DrainOver,
    /// A second has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug)]
#[must_use]
enum Action {
    /// Nothing.
    None,
    /// Start an attempt.
    Start(Claim, watch::Receiver<Stop>),
    /// A claim that came too late: give it back.
    GiveBack(Claim),
    /// An attempt ended without asking for a successor: ask now.
    Demand,
    /// Stop taking; `DrainOver` is due at the instant.
    Drain(Instant, Signal),
    /// Runs are being killed.
    Killing(Signal),
    /// Ask the ledger to cancel.
    AskLedger(Cancel),
    /// Answer a cancel.
    Answer(Cancel, Result<Cancelled, LedgerError>),
}

/// Where the shutdown stands. Ordered; only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Taking and running.
    Serving,
    /// Taking nothing more; runs may finish.
    Draining,
    /// Runs are being ended, with the kill grace.
    Stopping,
    /// Runs are being killed.
    Killing,
}

/// What the loop knows. Holds no handle to anything outside.
#[derive(Debug)]
struct State {
    running: HashMap<JobId, watch::Sender<Stop>>,
    phase: Phase,
    plan: ShutdownPlan,
    /// No more claims can come.
    withdrawn: bool,
    /// Claims on their way back.
    giving_back: usize,
}

impl State {
    fn new(plan: ShutdownPlan) -> Self {
        let (phase, running) = (Phase::Serving, HashMap::new());
        Self { running, phase, plan, withdrawn: false, giving_back: 0 }
    }

    /// Decides what an event means.
    fn handle(&mut self, event: Event, now: Instant) -> Action {
        match event {
            Event::Claimed(claim) if self.phase > Phase::Serving => {
                self.giving_back += 1;
                Action::GiveBack(claim)
            }
            Event::Claimed(claim) => {
                let (stop, stopped) = watch::channel(Stop::No);
                self.running.insert(claim.id.clone(), stop);
                Action::Start(claim, stopped)
            }
            Event::Ended(ended) => {
                self.running.remove(&ended.id);
                if ended.asked_for_more || self.phase > Phase::Serving {
                    Action::None
                } else {
                    Action::Demand
                }
            }
            Event::Cancel(cancel) => match self.running.get(&cancel.id) {
                Some(stop) => {
                    raise(stop, Stop::Cancel);
                    Action::Answer(cancel, Ok(Cancelled::Running))
                }
                None => Action::AskLedger(cancel),
            },
            // Claims are looked at before answers: a job that is running for the ledger is either
            // in our set by now, or its attempt has ended since and the ledger is asked again.
            Event::CancelAnswered(cancel, Ok(Cancelled::Running)) => {
                self.handle(Event::Cancel(cancel), now)
            }
            Event::CancelAnswered(cancel, answer) => Action::Answer(cancel, answer),
            Event::Signal(signal) => self.next_phase(signal, now),
            Event::DrainOver => {
                if self.phase == Phase::Draining {
                    self.phase = Phase::Stopping;
                    self.stop_all(Stop::Shutdown(self.plan.kill_grace));
                }
                Action::None
            }
            Event::Withdrawn => {
                self.withdrawn = true;
                Action::None
            }
            Event::GivenBack => {
                self.giving_back -= 1;
                Action::None
            }
            Event::Tick => Action::None,
        }
    }

    /// The first signal drains, the second kills.
    fn next_phase(&mut self, signal: Signal, now: Instant) -> Action {
        if self.phase == Phase::Serving {
            self.phase = Phase::Draining;
            return Action::Drain(now + self.plan.drain, signal);
        }
        self.phase = Phase::Killing;
        self.stop_all(Stop::Kill);
        Action::Killing(signal)
    }

    fn stop_all(&self, reason: Stop) {
        for stop in self.running.values() {
            raise(stop, reason);
        }
    }

    fn drained(&self) -> bool {
        self.withdrawn && self.unrecorded() == 0
    }

    /// Attempts that are RUNNING for the ledger.
    fn unrecorded(&self) -> usize {
        self.running.len() + self.giving_back
    }
}

/// Reasons to stop only rise.
fn raise(stop: &watch::Sender<Stop>, reason: Stop) {
    stop.send_if_modified(|current| {
        let rises = reason > *current;
        if rises {
            *current = reason;
        }
        rises
    });
}

/// The loop with its ends.
#[derive(Debug)]
pub struct Dispatcher {
    flow: Arc<Flow>,
    claims: mpsc::UnboundedReceiver<Claim>,
    commands: mpsc::Receiver<Cancel>,
    signals: mpsc::Receiver<Signal>,
    draining: watch::Sender<bool>,
    state: State,
}

impl Dispatcher {
    /// A dispatcher and the handle by which others reach it. `draining` is set once it stops
    /// taking; the doors watch it.
    pub fn new(
        flow: Arc<Flow>,
        claims: mpsc::UnboundedReceiver<Claim>,
        signals: mpsc::Receiver<Signal>,
        draining: watch::Sender<bool>,
        plan: ShutdownPlan,
    ) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(64);
        let state = State::new(plan);
        (Self { flow, claims, commands, signals, draining, state }, Handle { commands: sender })
    }

    /// Serves until a signal came and every attempt is over and recorded. `slots` claims are asked
    /// for at first; each ending asks for its successor.
    ///
    /// # Errors
    /// The ledger took no more writes by the end of the shutdown's grace.
    pub async fn run(mut self, slots: usize) -> Result<(), Unrecorded> {
        // What was begun here comes back there.
        let (back, mut later) = mpsc::unbounded_channel();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let (mut drain_over, mut give_up): (Option<Instant>, Option<Instant>) = (None, None);
        let mut look = LAST_LOOK;
        self.flow.ledger.demand(slots.try_into().unwrap_or(u32::MAX));
        while !self.state.drained() {
            let event = tokio::select! {
                biased;
                Some(claim) = self.claims.recv() => Event::Claimed(claim),
                Some(signal) = self.signals.recv() => Event::Signal(signal),
                Some(event) = later.recv() => event,
                Some(cancel) = self.commands.recv() => Event::Cancel(cancel),
                () = at(drain_over) => { drain_over = None; Event::DrainOver }
                () = at(give_up) => {
                    if self.flow.ledger.writable_within(look).await.is_err() {
                        return Err(Unrecorded { attempts: self.state.unrecorded() });
                    }
                    look = NEXT_LOOKS;
                    give_up = Some(Instant::now() + LAST_LOOK);
                    continue;
                }
                _ = tick.tick() => Event::Tick,
            };
            let action = self.state.handle(event, Instant::now());
            self.flow.health.loop_tick();
            self.flow.health.set_running(self.state.running.len());
            self.flow.health.set_slots_aside(self.flow.slots.set_aside());
            match action {
                Action::Drain(until, _) => {
                    drain_over = Some(until);
                    give_up = Some(until + self.state.plan.until_record());
                }
                Action::Killing(_) => {
                    let soon = Instant::now() + CLOSING_TIME_KILLED;
                    give_up = give_up.map(|until| until.min(soon));
                }
                _ => {}
            }
            self.carry_out(action, &back);
        }
        Ok(())
    }

    /// Does what needs no waiting for; its end comes back as an event. The loop takes them in as
    /// long as anything is under way.
    fn carry_out(&self, action: Action, back: &UnboundedSender<Event>) {
        let (flow, back) = (Arc::clone(&self.flow), back.clone());
        match action {
            Action::None => {}
            Action::Start(claim, stop) => {
                failpoint!("start.claimed");
                tokio::spawn(async move {
                    let _ = back.send(Event::Ended(flow::attempt(&flow, claim, stop).await));
                });
            }
            Action::GiveBack(claim) => {
                tokio::spawn(async move {
                    flow::give_back(&flow, claim, None).await;
                    let _ = back.send(Event::GivenBack);
                });
            }
            Action::Demand => self.flow.ledger.demand(1),
            Action::Drain(_, signal) => self.drain(signal, back),
            Action::Killing(signal) => {
                tracing::warn!(event = "killing", ?signal, "asked again: runs are killed now");
            }
            Action::AskLedger(cancel) => {
                tokio::spawn(async move {
                    let answer = flow.ledger.cancel(cancel.id.clone()).await;
                    let _ = back.send(Event::CancelAnswered(cancel, answer));
                });
            }
            Action::Answer(cancel, answer) => {
                // Whoever asked may have gone; the job is cancelled all the same.
                let _ = cancel.reply.send(answer);
            }
        }
    }

    /// Stops every door and takes back what was asked of the ledger.
    fn drain(&self, signal: Signal, back: UnboundedSender<Event>) {
        self.draining.send_replace(true);
        self.flow.health.set_draining();
        failpoint!("shutdown.begun");
        tracing::info!(
            event = "draining",
            ?signal,
            running = self.state.running.len(),
            "stopping: taking nothing more, letting runs finish for {:?}",
            self.state.plan.drain
        );
        // A slow ledger must not hold up the loop.
        let ledger = self.flow.ledger.clone();
        tokio::spawn(async move {
            // Refused or not: it claims nothing more.
            let _ = ledger.withdraw().await;
            let _ = back.send(Event::Withdrawn);
        });
    }
}

/// Resolves at the instant, or never.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
