//! The end of a run's tree: killed, reaped, gone. For every run, whatever it came to.
//!
//! Decides nothing about the run; says what was left and whether the slot can take another.

use std::time::{Duration, Instant};

use super::slot::{Process, Reaped, Slot};
use super::tree;
use crate::outcome::Exit;

/// How long a sweep may take before the slot is given up.
const SWEEP_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a slot can take another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing is left under it.
    Clean,
    /// It is dead, or could not be cleared.
    Spoilt,
}

/// How the loop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The run's own process is dead.
    Exited,
    /// Its grace is over.
    Kill,
    /// The slot died.
    SlotLost,
}

/// What the tree left behind.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) exit: Option<Exit>,
    pub(super) leader_peak: u64,
    pub(super) cpu: Option<Duration>,
    pub(super) survivors: u32,
}

/// Ends all that is left of the tree and reaps it.
pub(super) async fn clear(slot: &Slot, process: &Process, over: Over) -> (Remains, Health) {
    let mut killed = tree::Killed::default();
    let begun = Instant::now();
    let mut over = over;
    if over == Over::Kill {
        tree::stop_group(process.pid);
    }
    while over == Over::Kill {
        tree::freeze_and_kill(slot.pid, &mut killed);
        tokio::select! {
            ready = process.pidfd.readable() => { drop(ready); over = Over::Exited; }
            ready = slot.pidfd.readable() => { drop(ready); over = Over::SlotLost; }
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        if begun.elapsed() > SWEEP_PATIENCE {
            break;
        }
    }
    let swept =
        if over == Over::Exited { sweep(slot, process, begun, &mut killed).await } else { None };
    let survivors = killed.beside(process.pid);
    if let Some((reaped, theirs)) = swept {
        let remains = Remains {
            exit: reaped.status.map(exit_of),
            leader_peak: reaped.peak,
            cpu: Some(reaped.used + theirs),
            survivors,
        };
        let health = if reaped.left { Health::Spoilt } else { Health::Clean };
        return (remains, health);
    }
    let escaped = tokio::task::spawn_blocking(tree::end_escapees).await.unwrap_or(0);
    let survivors = survivors + escaped.saturating_sub(1);
    (Remains { survivors, ..Remains::default() }, Health::Spoilt)
}

/// The leader is dead: reaps it, then kills and reaps until nothing is left. `None`: the slot is gone.
async fn sweep(
    slot: &Slot,
    process: &Process,
    begun: Instant,
    killed: &mut tree::Killed,
) -> Option<(Reaped, Duration)> {
    // Who was left behind is known before the number of the leader is given free.
    let mut left = tree::has_children_beside(slot.pid, process.pid);
    if left {
        tree::freeze_and_kill(slot.pid, killed);
    }
    let mut leader = slot.reap(process.pid).await.ok()?;
    let mut theirs = leader.theirs;
    left |= leader.left;
    while left && begun.elapsed() < SWEEP_PATIENCE {
        tree::freeze_and_kill(slot.pid, killed);
        let more = slot.reap(0).await.ok()?;
        theirs += more.theirs;
        left = more.left;
        if left {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    leader.left = left;
    Some((leader, theirs))
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}
