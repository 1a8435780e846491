//! The end of a run's tree: killed, reaped, gone. For every run, whatever it came to.
//!
//! Decides nothing about the run; says what was left and whether the slot can take another.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::reaped::Reaped;
use super::slot::{Process, Slot, Whom};
use super::{proc, tree};
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
    /// The next run of the slot, already born.
    pub(super) born: Option<i32>,
}

/// Ends all that is left of the tree and reaps it.
pub(super) async fn clear(slot: &Slot, process: &Process, over: Over) -> (Remains, Health) {
    let mut killed = tree::Killed::default();
    let begun = Instant::now();
    let mut over = over;
    if over == Over::Kill {
        tree::stop_group(process.pid);
        kill_at_once(slot, &mut killed).await;
    }
    while over == Over::Kill {
        pass(slot, &mut killed).await;
        tokio::select! {
            ready = process.pidfd.readable() => { drop(ready); over = Over::Exited; }
            ready = slot.pidfd.readable() => { drop(ready); over = Over::SlotLost; }
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        if begun.elapsed() > SWEEP_PATIENCE {
            break;
        }
    }
    if over == Over::Exited {
        if let Some((reaped, theirs)) = sweep(slot, process, begun, &mut killed).await {
            let remains = Remains {
                exit: reaped.status.map(exit_of),
                leader_peak: reaped.peak,
                cpu: Some(reaped.used + theirs),
                survivors: killed.beside(process.pid),
                born: reaped.born,
            };
            let health = if reaped.left { Health::Spoilt } else { Health::Clean };
            return (remains, health);
        }
        end_silent(slot, begun, &mut killed).await;
    }
    let escaped = tokio::task::spawn_blocking(tree::end_escapees).await.unwrap_or(0);
    let survivors = killed.beside(process.pid) + escaped.saturating_sub(1);
    (Remains { survivors, ..Remains::default() }, Health::Spoilt)
}

/// The whole tree in one call, if signals are scoped and the slot is able to. False: passes must do it.
async fn kill_at_once(slot: &Slot, killed: &mut tree::Killed) -> bool {
    if proc::stat(slot.pid).is_none_or(|stat| stat.is_dead() || stat.is_stopped()) {
        return false;
    }
    tree::count_living(slot.pid, killed);
    slot.kill_all().await.unwrap_or(false)
}

/// One pass over all under a slot, off the runtime's own thread. True if anything alive was found.
async fn pass(slot: &Slot, killed: &mut tree::Killed) -> bool {
    let (root, mut so_far) = (slot.pid, std::mem::take(killed));
    let swept = tokio::task::spawn_blocking(move || {
        let found = tree::freeze_and_kill(root, &mut so_far);
        (found, so_far)
    });
    let (found, so_far) = swept.await.unwrap_or_default();
    *killed = so_far;
    found
}

/// The leader is dead: reaps it, then kills and reaps until nothing is left. `None`: the slot is gone, or
/// does not answer.
async fn sweep(
    slot: &Slot,
    process: &Process,
    begun: Instant,
    killed: &mut tree::Killed,
) -> Option<(Reaped, Duration)> {
    // Before anything is asked of the slot, which may be held by what was left behind.
    if slot.children.any_beside(process.pid) && !kill_at_once(slot, killed).await {
        pass(slot, killed).await;
    }
    let mut leader = slot.reap(Whom::All).await.ok()?;
    // Its word is the kernel's; and once the next run is born, nothing under it may be killed any more.
    let (mut left, mut theirs) = (leader.left, leader.theirs);
    while left && begun.elapsed() < SWEEP_PATIENCE {
        pass(slot, killed).await;
        // While a process that is being killed traces the leader, it is not the slot's to reap.
        let unseen = leader.status.is_none();
        let whom = if unseen { Whom::All } else { Whom::Others };
        let more = slot.reap(whom).await.ok()?;
        theirs += more.theirs;
        (left, leader.born) = (more.left, more.born);
        if unseen {
            leader = Reaped { theirs: leader.theirs, ..more };
        }
        if left {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    leader.left = left;
    Some((leader, theirs))
}

/// A slot that does not answer is ended, once nothing under it lives: what is left of it falls to us.
async fn end_silent(slot: &Slot, begun: Instant, killed: &mut tree::Killed) {
    while proc::stat(slot.pid).is_some_and(|stat| !stat.is_dead())
        && pass(slot, killed).await
        && begun.elapsed() < SWEEP_PATIENCE
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tree::signal(slot.pidfd.get_ref(), Signal::KILL);
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}
