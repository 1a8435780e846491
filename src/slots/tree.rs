//! Process trees: who is under a slot, what they use, and how they are ended.
//!
//! Everything is read from `/proc`; every signal goes through a pidfd after the start time was checked
//! again, so none reaches a stranger who inherited a number. Must not wait for anything long.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// One line of `/proc/PID/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: u8,
    pub(super) parent: i32,
    /// Threads that have not ended.
    pub(super) threads: u64,
    /// User and system time of itself, in clock ticks.
    pub(super) own_ticks: u64,
    /// The same of children it has waited for.
    pub(super) reaped_ticks: u64,
    /// In ticks since boot: with the pid it names a process for good.
    pub(super) start: u64,
}

impl Stat {
    /// A process whose main thread alone has ended looks like a zombie and is none.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
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
        threads: number(17)?,
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

/// Anonymous and shared memory of a process in which every page counts once, divided among those that share
/// it, as forked processes do. Dearer than [`memory`]. `None` if the kernel does not tell.
pub(super) fn shared_out(pid: i32) -> Option<u64> {
    parse_shared_out(&slurp(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_shared_out(text: &str) -> Option<u64> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Some((of("Pss_Anon:")? + of("Pss_Shmem:")?) * 1024)
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

/// Meets every process under `root` with what `/proc` says of it, before its children are asked for. The
/// newest child comes first: one that is about to fork and die is met before a heap of zombies.
fn walk(root: i32, mut meet: impl FnMut(i32, Stat)) {
    let (mut seen, mut todo) = (BTreeSet::from([root]), vec![root]);
    while let Some(parent) = todo.pop() {
        for pid in children(parent).into_iter().rev() {
            if let (true, Some(stat)) = (seen.insert(pid), stat(pid)) {
                meet(pid, stat);
                if !stat.is_dead() {
                    todo.push(pid);
                }
            }
        }
    }
}

/// All processes under `root`, with what `/proc` says of each.
pub(super) fn descendants(root: i32) -> Vec<(i32, Stat)> {
    let mut found = Vec::new();
    walk(root, |pid, stat| found.push((pid, stat)));
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
        let Some(stat) = stat(pid).filter(|_| !known.contains(&pid)) else { continue };
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
    fn a_name_may_hold_parentheses_and_spaces() {
        let line = "7 (a) b) c) T 3 7 7 0 -1 4 0 0 0 0 5 6 1 2 20 0 1 0 99 0 0";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            stat,
            Stat { state: b'T', parent: 3, threads: 1, own_ticks: 11, reaped_ticks: 3, start: 99 }
        );
        assert!(stat.is_stopped() && !stat.is_dead());
        assert!(Stat { state: b'Z', ..stat }.is_dead());
        assert!(!Stat { state: b'Z', threads: 2, ..stat }.is_dead());
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
    fn shared_memory_is_told_or_it_is_not() {
        let text = "Rss: 9 kB\nPss: 7 kB\nPss_Anon:   5 kB\nPss_File: 1 kB\nPss_Shmem: 1 kB\n";
        assert_eq!(parse_shared_out(text), Some(6 * 1024));
        assert_eq!(parse_shared_out("Rss: 9 kB\nPss: 7 kB\n"), None);
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
