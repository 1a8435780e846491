//! Process trees under a slot, and how they are ended.
//!
//! Every signal goes through a pidfd after the start time was checked again, so none reaches a stranger
//! who inherited a number. Must not wait for anything long.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::proc::{self, Stat, children, descendants, slurp, walk};

/// A descriptor of the process that bore this pid at this start time; `None` if it is gone.
pub(super) fn open(pid: i32, start: u64) -> Option<OwnedFd> {
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    (proc::stat(pid)?.start == start).then_some(fd)
}

/// Sends a signal through a pidfd. A process that is gone is no error.
pub(super) fn signal(pidfd: &OwnedFd, number: Signal) {
    let _ = pidfd_send_signal(pidfd, number);
}

/// A real-time signal, which rustix does not name.
#[expect(unsafe_code, reason = "the private signal has no name in rustix")]
pub(super) fn signal_numbered(pidfd: &OwnedFd, number: i32) -> io::Result<()> {
    // SAFETY: the number is a valid real-time signal that the C library does not use itself.
    let number = unsafe { Signal::from_raw_unchecked(number) };
    Ok(pidfd_send_signal(pidfd, number)?)
}

/// Asks all under `root` to end: SIGTERM, and SIGCONT so that a stopped one can.
pub(super) fn ask_to_end(root: i32) {
    for (pid, stat) in descendants(root) {
        if stat.is_dead() {
            continue;
        }
        if let Some(fd) = open(pid, stat.start) {
            signal(&fd, Signal::TERM);
            signal(&fd, Signal::CONT);
        }
    }
}

/// Stops the process group of a run's own process, which leads it and must not have been reaped yet: one
/// call that a storm of processes cannot slow down as it can the scan that follows.
pub(super) fn stop_group(leader: i32) {
    if let Some(group) = Pid::from_raw(leader) {
        // Where there is no such group there is nobody to stop.
        let _ = kill_process_group(group, Signal::STOP);
    }
}

/// Processes already killed in a sweep, so that each counts once.
#[derive(Debug, Default)]
pub(super) struct Killed(BTreeSet<(i32, u64)>);

impl Killed {
    /// How many, without this one.
    pub(super) fn beside(&self, leader: i32) -> u32 {
        u32::try_from(self.0.iter().filter(|(pid, _)| *pid != leader).count()).unwrap_or(u32::MAX)
    }
}

/// Counts all who live under `root`, and who are about to be killed. In a storm one look may meet nobody.
pub(super) fn count_living(root: i32, killed: &mut Killed) {
    for _ in 0..3 {
        walk(root, |pid, stat| {
            if !stat.is_dead() {
                killed.0.insert((pid, stat.start));
            }
        });
        if !killed.0.is_empty() {
            return;
        }
    }
}

/// Scans of one pass: a tree that forks faster is met again in the next one.
const SCANS: usize = 50;
/// How long escapees may take to die before it is said.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors held at once in a sweep; more would take them from the rest of the executor.
const HELD: usize = 256;

/// Processes that were stopped in a pass, to be killed together.
#[derive(Debug, Default)]
struct Frozen(BTreeMap<(i32, u64), Option<OwnedFd>>);

impl Frozen {
    /// Stops one, unless it is dead or was stopped before.
    fn stop(&mut self, pid: i32, stat: Stat) {
        let key = (pid, stat.start);
        if stat.is_dead() || self.0.contains_key(&key) {
            return;
        }
        if let Some(fd) = open(pid, stat.start) {
            signal(&fd, Signal::STOP);
            let held = (self.0.len() < HELD).then_some(fd);
            self.0.insert(key, held);
        }
    }

    /// Scans until a scan stops no new one, then kills all. True if there was any.
    fn work(mut self, killed: &mut Killed, mut scan: impl FnMut(&mut Self)) -> bool {
        for _ in 0..SCANS {
            let before = self.0.len();
            scan(&mut self);
            if self.0.len() == before {
                break;
            }
        }
        for ((pid, start), held) in &self.0 {
            let opened = if held.is_none() { open(*pid, *start) } else { None };
            if let Some(fd) = held.as_ref().or(opened.as_ref()) {
                signal(fd, Signal::KILL);
            }
            killed.0.insert((*pid, *start));
        }
        !self.0.is_empty()
    }
}

/// One pass of the sweep: stops all under `root` until a scan finds no new one, then kills them. True if
/// anything alive was found. A storm of processes takes its time: not for a thread that others wait for.
pub(super) fn freeze_and_kill(root: i32, killed: &mut Killed) -> bool {
    Frozen::default().work(killed, |frozen| walk(root, |pid, stat| frozen.stop(pid, stat)))
}

/// Ends what fell to this process from a slot that died: children that are in no table. Only those
/// with `no_new_privs`, which every run bears and cannot shed, unless this process bears it too.
pub(super) fn end_escapees() -> u32 {
    let mut killed = Killed::default();
    let until = Instant::now() + PATIENCE;
    while Frozen::default().work(&mut killed, stop_escapees) {
        if Instant::now() > until {
            tracing::error!(
                event = "escapees_left",
                "processes of a run that killed its slot do not die; they are killed again when a slot next ends"
            );
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.beside(0)
}

/// One scan of this process's own children: the escapees alive are stopped with all under them, the dead
/// ones reaped.
fn stop_escapees(frozen: &mut Frozen) {
    let known = super::spawn::known();
    let mut dead = Vec::new();
    for pid in children(std::process::id().cast_signed()).into_iter().rev() {
        let Some(stat) = proc::stat(pid).filter(|_| !known.contains(&pid)) else { continue };
        if stat.is_dead() {
            dead.push(pid);
        } else if bears_mark(pid) {
            frozen.stop(pid, stat);
            walk(pid, |pid, stat| frozen.stop(pid, stat));
        }
    }
    for pid in dead.into_iter().filter(|pid| bears_mark(*pid)) {
        let _ = nix::sys::wait::waitpid(
            nix::unistd::Pid::from_raw(pid),
            Some(nix::sys::wait::WaitPidFlag::WNOHANG),
        );
    }
}

/// `no_new_privs`, as `/proc` tells it of zombies, too.
fn bears_mark(pid: i32) -> bool {
    slurp(format!("/proc/{pid}/status")).is_ok_and(|text| {
        text.lines().any(|line| line.strip_prefix("NoNewPrivs:").is_some_and(|v| v.trim() == "1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_its_start_time_names_nobody() {
        let me = std::process::id().cast_signed();
        let stat = proc::stat(me).unwrap();
        assert!(open(me, stat.start).is_some());
        assert!(open(me, stat.start + 1).is_none());
    }
}
