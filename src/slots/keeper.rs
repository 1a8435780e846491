//! Keeps the slots: as many as configured, each replaced when it dies, a process ready in each.
//!
//! One that is out of date or worn out is exchanged for a spare, started beside it, while no run holds it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use super::Setup;
use super::slot::{Process, Slot, SlotError};

/// How long a run may wait for a process before it is given back as not started.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long slots may take to end at the close.
const END_PATIENCE: Duration = Duration::from_secs(1);
const END_LOOK: Duration = Duration::from_millis(2);
/// Without a move for so long, the machine has nothing better to do.
const QUIET: Duration = Duration::from_millis(8);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// All slots that no run holds.
#[derive(Debug)]
pub(super) struct Keeper {
    held: Mutex<Held>,
    places: Semaphore,
    slots: usize,
    /// Counts what is taken and put back.
    moves: AtomicU64,
    put_back: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// An empty place is one whose slot died: the next run fills it.
    idle: Vec<Option<Slot>>,
    /// Wait for a place to come back whose slot should go.
    spares: Vec<Slot>,
}

impl Held {
    /// What belongs in a place that had `slot`, and what is to go.
    fn exchange(&mut self, slot: Option<Slot>) -> (Option<Slot>, Option<Slot>) {
        let Some(spare) = self.spares.pop() else { return (slot, None) };
        if slot.as_ref().is_none_or(|slot| slot.should_go(&spare)) {
            (Some(spare), slot)
        } else {
            self.spares.push(spare);
            (slot, None)
        }
    }
}

/// A slot with a process that waits for its request.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) slot: Slot,
    pub(super) process: Process,
}

impl Keeper {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            held: Mutex::default(),
            places: Semaphore::new(0),
            slots,
            moves: AtomicU64::new(0),
            put_back: Notify::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a place back, with its slot if it is well.
    pub(super) fn put(&self, slot: Option<Slot>) {
        let mut held = self.held();
        let (slot, old) = held.exchange(slot);
        held.idle.push(slot);
        drop(held);
        self.places.add_permits(1);
        self.moved();
        old.map(Slot::retire);
    }

    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        self.put_back.notify_one();
    }

    /// Has parked runs rehearse whenever no run has begun or ended for a moment: it makes the first line of the next one
    /// sooner, and costs as much time of a core as a short run. Returns once the slots are closed.
    pub(super) async fn rehearse(&self) {
        while !self.places.is_closed() {
            self.put_back.notified().await;
            let mut before = None;
            while before != Some(self.moves.load(Ordering::Relaxed)) {
                before = Some(self.moves.load(Ordering::Relaxed));
                tokio::time::sleep(QUIET).await;
            }
            self.held().idle.iter_mut().flatten().for_each(Slot::rehearse);
        }
    }

    /// Whether a slot that should go has nobody to take its place.
    pub(super) fn needs_spare(&self) -> bool {
        self.held().spares.is_empty()
    }

    /// Takes a slot that waits for a place; older spares are not needed any more.
    pub(super) fn offer(&self, spare: Slot) {
        if self.places.is_closed() {
            spare.retire();
            return;
        }
        let mut held = self.held();
        let (keep, mut gone): (Vec<_>, Vec<_>) = std::mem::take(&mut held.spares)
            .into_iter()
            .partition(|waiting| waiting.generation >= spare.generation);
        held.spares = keep;
        held.spares.push(spare);
        for at in 0..held.idle.len() {
            let place = held.idle[at].take();
            let (slot, old) = held.exchange(place);
            held.idle[at] = slot;
            gone.extend(old);
        }
        drop(held);
        gone.into_iter().for_each(|slot| drop(slot.retire()));
    }

    /// Takes a place and gets a process in it, with a new slot if need be.
    pub(super) async fn take(&self, setup: &Setup) -> Result<Ready, String> {
        match self.places.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err("the slots are closed".to_owned()),
        }
        self.moved();
        let place = self.held().idle.pop().flatten();
        let ready = obtain(setup, place).await;
        if ready.is_err() {
            self.put(None);
        }
        ready
    }

    /// Ends every slot, waiting up to `patience` for those that runs still hold.
    pub(super) async fn close(&self, patience: Duration) {
        let all = u32::try_from(self.slots).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(patience, async {
            if let Ok(permits) = self.places.acquire_many(all).await {
                permits.forget();
            }
        })
        .await;
        self.places.close();
        self.moved();
        let Held { idle, spares } = std::mem::take(&mut *self.held());
        let ends: Vec<_> =
            idle.into_iter().flatten().chain(spares).filter_map(Slot::retire).collect();
        // A slot under which something does not die is not waited for: it ends itself when it can.
        let until = Instant::now() + END_PATIENCE;
        while ends.iter().any(|end| !end.is_finished()) && Instant::now() < until {
            tokio::time::sleep(END_LOOK).await;
        }
    }
}

/// A process in this slot or, failing that, in new ones, with growing pauses.
async fn obtain(setup: &Setup, mut place: Option<Slot>) -> Result<Ready, String> {
    let begun = Instant::now();
    let mut pause = BACKOFF_MIN;
    loop {
        let error = match place.take().map_or_else(|| Slot::start(setup), Ok) {
            Ok(mut slot) => match slot.process().await {
                Ok(process) => return Ok(Ready { slot, process }),
                Err(error) => error,
            },
            Err(error) => SlotError::System(error),
        };
        let fresh_try = matches!(error, SlotError::Gone) && begun.elapsed() < BACKOFF_MIN;
        tracing::warn!(event = "slot_replaced", error = %text(&error), "a slot could not give a process");
        if fresh_try {
            continue;
        }
        if begun.elapsed() + pause > PATIENCE {
            return Err(format!("no process could be had: {}", text(&error)));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// An error with its sources.
pub(super) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
