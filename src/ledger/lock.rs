//! One executor per ledger: a lock on a file beside it.
//!
//! Never on the database file itself, whose POSIX locks would fall with any close.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{LedgerError, OpenError};

/// The longest that a dead holder's lock is waited for.
const A_BIRTH: Duration = Duration::from_secs(1);

/// Held as long as the ledger is open; the kernel lets go of it however its holder dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// The path of a file that stands beside the ledger.
pub(super) fn beside(ledger: &Path, suffix: &str) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The process that has the lock now. Asked of the kernel: taking the lock to see whether it is free
/// could be in the way of an executor that starts.
pub fn holder(ledger: &Path) -> Option<i32> {
    let path = beside(ledger, ".lock");
    let inode = std::fs::metadata(&path).ok()?.ino().to_string();
    // The device is not compared: some file systems name another one here.
    let is_it = |line: &str| {
        let of = line.split_ascii_whitespace().find(|word| word.matches(':').count() == 2);
        line.contains(" FLOCK ") && of.and_then(|of| of.rsplit(':').next()) == Some(&inode)
    };
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = std::fs::read_to_string(&path).ok()?.trim().parse().ok()?;
    locks.lines().any(is_it).then_some(pid)
}

/// Takes the lock, or says who has it. One that a dead holder seems to have is waited for: a process that
/// was being born as it was killed has its descriptors, until it becomes another program.
pub(super) fn take(ledger: &Path) -> Result<Lock, OpenError> {
    let failed = |path: &Path, source| OpenError::Failed {
        path: ledger.to_owned(),
        source: LedgerError::File { path: path.to_owned(), source },
    };
    if let Some(dir) = ledger.parent() {
        std::fs::create_dir_all(dir).map_err(|source| failed(dir, source))?;
    }
    let path = beside(ledger, ".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| failed(&path, source))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(failed(&path, source)),
            Err(TryLockError::WouldBlock) => {}
        }
        // The pid is a courtesy; without it the message stands all the same.
        let pid = std::fs::read_to_string(&path).unwrap_or_default();
        let pid = pid.trim();
        if pid.is_empty() || begun.elapsed() > A_BIRTH || !is_dead(pid) {
            let holder = if pid.is_empty() { String::new() } else { format!(" (pid {pid})") };
            return Err(OpenError::InUse { path: ledger.to_owned(), holder });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // A courtesy too: a full disk is no reason to refuse.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(Lock { _file: file })
}

/// Whether no such process is there any more, but perhaps its exit code.
fn is_dead(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_holder_has_is_waited_for_what_a_living_one_has_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = dir.path().join("ledger.db");
        let lock = take(&ledger).unwrap();
        let refused = take(&ledger).unwrap_err();
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
        let mut killed = std::process::Command::new("true").spawn().unwrap();
        killed.wait().unwrap();
        std::fs::write(beside(&ledger, ".lock"), killed.id().to_string()).unwrap();
        let waiting = std::thread::spawn({
            let ledger = ledger.clone();
            move || take(&ledger)
        });
        // As long as a birth may take.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        drop(lock);
        let taken = waiting.join().unwrap().unwrap();
        assert_eq!(holder(&ledger), Some(std::process::id().cast_signed()));
        drop(taken);
    }

    #[test]
    fn whoever_has_the_lock_is_named_only_as_long_as_it_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = dir.path().join("ledger.db");
        assert_eq!(holder(&ledger), None);
        let lock = take(&ledger).unwrap();
        assert_eq!(holder(&ledger), Some(std::process::id().cast_signed()));
        drop(lock);
        assert_eq!(holder(&ledger), None);
    }
}
