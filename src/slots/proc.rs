//! What `/proc` says of processes: their state, their memory, who is under whom.
//!
//! Only reads. Must not signal or wait.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

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

    /// It runs, or would if a core were free.
    pub(super) fn is_running(&self) -> bool {
        self.state == b'R'
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// Reads the text of `/proc/PID/stat`. The name in parentheses may hold anything.
pub(super) fn parse_stat(text: &str) -> Option<Stat> {
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

/// The children of a process of one thread, as a slot is, to be looked at again and again.
#[derive(Debug)]
pub(super) struct Children {
    pid: i32,
    /// Not there on kernels without `CONFIG_PROC_CHILDREN`.
    file: Option<fs::File>,
}

impl Children {
    pub(super) fn of(pid: i32) -> Self {
        Self { pid, file: fs::File::open(format!("/proc/{pid}/task/{pid}/children")).ok() }
    }

    /// Whether there is a child beside this one.
    pub(super) fn any_beside(&self, known: i32) -> bool {
        let mut text = [0; 64];
        let known = format!("{known} ");
        let read = self.file.as_ref().map(|file| file.read_at(&mut text, 0));
        match read {
            Some(Ok(n)) if n < text.len() => n > 0 && text[..n] != *known.as_bytes(),
            _ => children(self.pid).iter().any(|child| child.to_string() + " " != known),
        }
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
pub(super) fn walk(root: i32, mut meet: impl FnMut(i32, Stat)) {
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
        let stat = stat(std::process::id().cast_signed()).unwrap();
        assert!(!stat.is_dead());
    }
}
