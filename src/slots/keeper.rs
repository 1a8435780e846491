//! Keeps the slots: as many as configured, each replaced when it dies, a process ready in each.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Setup;
use super::slot::{Process, Slot, SlotError};

/// How long a run may wait for a process before it is given back as not started.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long slots may take to end at the close.
const END_PATIENCE: Duration = Duration::from_secs(1);
const END_LOOK: Duration = Duration::from_millis(2);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// All slots that no run holds. An empty place is one whose slot died: the next run fills it.
#[derive(Debug)]
pub(super) struct Keeper {
    idle: Mutex<Vec<Option<Slot>>>,
    places: Semaphore,
    slots: usize,
}

/// A slot with a process that waits for its request.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) slot: Slot,
    pub(super) process: Process,
}

impl Keeper {
    pub(super) fn new(slots: usize) -> Self {
        Self { idle: Mutex::new(Vec::new()), places: Semaphore::new(0), slots }
    }

    /// Puts a place back, with its slot if it is well.
    pub(super) fn put(&self, slot: Option<Slot>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        self.places.add_permits(1);
    }

    /// Takes a place and gets a process in it, with a new slot if need be.
    pub(super) async fn take(&self, setup: &Setup) -> Result<Ready, String> {
        match self.places.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Err("the slots are closed".to_owned()),
        }
        let place = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().flatten();
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
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let ends: Vec<_> = idle.into_iter().flatten().filter_map(Slot::retire).collect();
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
