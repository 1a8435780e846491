//! The guard: one process of our own binary beside the executor, out of reach of its runs. When the executor
//! dies, it ends the trees of slots that cannot do so themselves: a run may have stopped its slot, or hold it
//! with a debugger.
//!
//! Knows slots by what it is told over its standard input, whose end is the executor's end. Must do nothing
//! before that.

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::{Child, ChildStdin};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{past, spawn, tree};

/// The launcher's word for the guard.
pub(super) const GUARD: &str = "guard";
/// How long slots may take to end by themselves before they are helped.
const HELP_AFTER: Duration = Duration::from_millis(200);
/// How long before a slot with nothing alive under it is killed itself.
const KILL_AFTER: Duration = Duration::from_secs(1);
/// How long the guard goes on.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// Our side of it. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Guard {
    told: Mutex<Option<ChildStdin>>,
    child: Option<Child>,
}

impl Guard {
    /// Starts it from the executor's own binary.
    pub(super) fn start(launcher: &Path) -> io::Result<Self> {
        let mut child = spawn::guard(launcher)?;
        Ok(Self { told: Mutex::new(child.stdin.take()), child: Some(child) })
    }

    /// Tells it of a slot.
    pub(super) fn tell(&self, pid: i32) {
        let line = format!("{}\n", past::line_of(pid));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let wrote = told.as_mut().map(|pipe| pipe.write_all(line.as_bytes()));
        if let Some(Err(error)) = wrote {
            *told = None;
            tracing::warn!(event = "guard_gone", %error, "the guard is gone; a slot that its run has stopped would outlive a killed executor");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(mut child) = self.child.take() {
            // It ends as soon as no slot is alive; nobody has to wait for that.
            let _ = std::thread::Builder::new().name("guard-end".to_owned()).spawn(move || {
                let _ = child.wait();
                spawn::known().remove(&spawn::pid_of(&child));
            });
        }
    }
}

/// The guard's life: listens until the executor is gone, then sees to it that every slot goes, too.
pub(super) fn watch() -> io::Result<()> {
    let mut slots = Vec::new();
    for line in io::stdin().lock().lines() {
        slots.extend(past::read_line(&line?));
        slots.retain(|(pid, start)| past::is_alive(*pid, *start));
    }
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        slots.retain(|(pid, start)| past::is_alive(*pid, *start));
        if slots.is_empty() {
            break;
        }
        let waited = begun.elapsed();
        for (pid, start) in slots.iter().filter(|_| waited > HELP_AFTER) {
            help(*pid, *start, waited);
        }
        std::thread::sleep(if waited > KILL_AFTER { LONG_PAUSE } else { PAUSE });
    }
    Ok(())
}

/// Kills what is under a slot and wakes it, so that it can reap and leave.
fn help(pid: i32, start: u64, waited: Duration) {
    let alive = tree::freeze_and_kill(pid, &mut tree::Killed::default());
    let Some(slot) = tree::open(pid, start) else { return };
    tree::signal(&slot, Signal::CONT);
    if !alive && waited > KILL_AFTER {
        tree::signal(&slot, Signal::KILL);
    }
}
