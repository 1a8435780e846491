//! Process trees: who is under a slot, what they use, and how they are ended.
//!
//! Everything is read from `/proc`; every signal goes through a pidfd after the start time was checked
//! again, so none reaches a stranger who inherited a number. Must not wait for anything long.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// One line of `/proc/PID/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: u8,
    pub(super) parent: i32,
    /// User and system time of itself, in clock ticks.
    pub(super) own_ticks: u64,
    /// The same of children it has waited for.
    pub(super) reaped_ticks: u64,
    /// In ticks since boot: with the pid it names a process for good.
    pub(super) start: u64,
}

impl Stat {
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// Reads the text of `/proc/PID/stat`. The name in parentheses may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = text.get(text.rfind(')')? + 2..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let signed = |at: usize| fields.get(at)?.parse::<i64>().ok().map(|n| n.max(0).unsigned_abs());
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        own_ticks: number(11)? + number(12)?,
        reaped_ticks: signed(13)? + signed(14)?,
        start: number(19)?,
    })
}

/// Reads a file of `/proc` in as few calls as it takes: it has no size, and the library would ask
/// for it and then begin with 32 bytes.
pub(super) fn slurp(path: impl AsRef<std::path::Path>) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut text = vec![0; 4096];
    let mut filled = 0;
    loop {
        match io::Read::read(&mut file, &mut text[filled..])? {
            0 => break,
            read => filled += read,
        }
        // These files answer by the page: less than half of one is the end.
        if filled < 2048 {
            break;
        }
        if filled == text.len() {
            text.resize(text.len() * 2, 0);
        }
    }
    text.truncate(filled);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&slurp(format!("/proc/{pid}/stat")).ok()?)
}

/// Anonymous and shared memory of a process, and the peak of its resident set, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) anonymous: u64,
    pub(super) peak: u64,
    pub(super) data: u64,
}

fn parse_memory(text: &str) -> Memory {
    let mut memory = Memory::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let bytes = || {
            value.split_ascii_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
                * 1024
        };
        match name {
            "RssAnon" | "RssShmem" => memory.anonymous += bytes(),
            "VmHWM" => memory.peak = bytes(),
            "VmData" => memory.data = bytes(),
            _ => {}
        }
    }
    memory
}

pub(super) fn memory(pid: i32) -> Memory {
    slurp(format!("/proc/{pid}/status")).map(|text| parse_memory(&text)).unwrap_or_default()
}

/// The same of a process that waits for its request, from a file that costs a fifth: what was shared
/// between processes is not told apart from files there, and its peak is what it has.
pub(super) fn memory_at_birth(pid: i32) -> Memory {
    slurp(format!("/proc/{pid}/statm")).map(|text| parse_statm(&text)).unwrap_or_default()
}

fn parse_statm(text: &str) -> Memory {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let mut bytes = text.split_ascii_whitespace().map(|n| n.parse::<u64>().unwrap_or(0) * page);
    let (resident, shared) = (bytes.nth(1).unwrap_or(0), bytes.next().unwrap_or(0));
    let data = bytes.nth(2).unwrap_or(0);
    Memory { anonymous: resident.saturating_sub(shared), peak: resident, data }
}

/// Whether a process still has a handler for this signal.
pub(super) fn handles(pid: i32, signal: i32) -> bool {
    let Ok(text) = slurp(format!("/proc/{pid}/status")) else { return false };
    let mask = text
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Whether a process of one thread, as a slot is, has a child beside this one.
pub(super) fn has_children_beside(pid: i32, known: i32) -> bool {
    match slurp(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(text) => text.split_ascii_whitespace().any(|word| word.parse() != Ok(known)),
        Err(_) => children(pid).iter().any(|child| *child != known),
    }
}

/// Children of all threads of a process.
pub(super) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    let mut told = false;
    for thread in threads.flatten() {
        let Ok(text) = slurp(thread.path().join("children")) else { continue };
        told = true;
        found.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    if told || !fs::exists("/proc/self/stat").unwrap_or(false) {
        found
    } else {
        children_by_scan(pid)
    }
}

/// For kernels without `CONFIG_PROC_CHILDREN`.
fn children_by_scan(pid: i32) -> Vec<i32> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|other| stat(*other).is_some_and(|s| s.parent == pid))
        .collect()
}

/// All processes under `root`, nearest first, with what `/proc` says of each.
pub(super) fn descendants(root: i32) -> Vec<(i32, Stat)> {
    let (mut found, mut seen, mut todo) = (Vec::new(), BTreeSet::from([root]), vec![root]);
    while let Some(parent) = todo.pop() {
        for pid in children(parent) {
            if let (true, Some(stat)) = (seen.insert(pid), stat(pid)) {
                found.push((pid, stat));
                todo.push(pid);
            }
        }
    }
    found
}

/// A descriptor of the process that bore this pid at this start time; `None` if it is gone.
pub(super) fn open(pid: i32, start: u64) -> Option<OwnedFd> {
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    (stat(pid)?.start == start).then_some(fd)
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

/// One pass of the sweep: stops all under `root` until a scan finds no new one, then kills them. True if
/// anything alive was found. Bounded: a tree that forks faster is met again in the next pass.
pub(super) fn freeze_and_kill(root: i32, killed: &mut Killed) -> bool {
    let mut frozen: BTreeMap<(i32, u64), OwnedFd> = BTreeMap::new();
    for _ in 0..50 {
        let mut fresh = false;
        for (pid, stat) in descendants(root) {
            if stat.is_dead() || frozen.contains_key(&(pid, stat.start)) {
                continue;
            }
            if let Some(fd) = open(pid, stat.start) {
                signal(&fd, Signal::STOP);
                frozen.insert((pid, stat.start), fd);
                fresh = true;
            }
        }
        if !fresh {
            break;
        }
    }
    for (key, fd) in &frozen {
        signal(fd, Signal::KILL);
        killed.0.insert(*key);
    }
    !frozen.is_empty()
}

/// Ends what fell to this process from a slot that died: children that are in no table. Only those
/// with `no_new_privs`, which every run bears and cannot shed, unless this process bears it too.
pub(super) fn end_escapees() -> u32 {
    let mut killed = Killed::default();
    for _ in 0..400 {
        let known = super::spawn::known();
        let me = std::process::id().cast_signed();
        let escapees: Vec<i32> = children(me)
            .into_iter()
            .filter(|pid| !known.contains(pid) && (bears_mark(*pid) || is_zombie(*pid)))
            .collect();
        let mut alive = false;
        for pid in escapees {
            alive |= freeze_and_kill(pid, &mut killed);
            if let Some(stat) = stat(pid)
                && bears_mark(pid)
            {
                if let Some(fd) = (!stat.is_dead()).then(|| open(pid, stat.start)).flatten() {
                    signal(&fd, Signal::KILL);
                    killed.0.insert((pid, stat.start));
                    alive = true;
                }
                let _ = nix::sys::wait::waitpid(
                    nix::unistd::Pid::from_raw(pid),
                    Some(nix::sys::wait::WaitPidFlag::WNOHANG),
                );
            }
        }
        drop(known);
        if !alive {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    killed.beside(0)
}

fn is_zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.is_dead())
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
    fn a_name_may_hold_parentheses_and_spaces() {
        let line = "7 (a) b) c) T 3 7 7 0 -1 4 0 0 0 0 5 6 1 2 20 0 1 0 99 0 0";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            stat,
            Stat { state: b'T', parent: 3, own_ticks: 11, reaped_ticks: 3, start: 99 }
        );
        assert!(stat.is_stopped() && !stat.is_dead());
    }

    #[test]
    fn memory_is_what_is_anonymous_or_shared() {
        let text = "VmHWM:\t 900 kB\nVmData:\t5 kB\nRssAnon:\t 10 kB\nRssFile:\t 99 kB\nRssShmem:\t 2 kB\n";
        assert_eq!(
            parse_memory(text),
            Memory { anonymous: 12 * 1024, peak: 900 * 1024, data: 5 * 1024 }
        );
    }

    #[test]
    fn this_process_finds_itself() {
        let me = std::process::id().cast_signed();
        let stat = stat(me).unwrap();
        assert!(!stat.is_dead());
        assert!(open(me, stat.start).is_some());
        assert!(open(me, stat.start + 1).is_none());
    }
}
