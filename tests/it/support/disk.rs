//! A disk that can be filled: a small one of its own where mounting is allowed, else a limit on the
//! size of the executor's files, which refuses its writes just the same.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::Executor;

/// Room for a few thousand jobs.
const SIZE: &str = "size=24m";

pub(crate) struct Disk {
    dir: TempDir,
    mounted: bool,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        Self { mounted: mount.is_ok_and(|status| status.success()), dir }
    }

    /// Where a ledger on it is.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger.db")
    }

    /// Leaves room for nothing more.
    pub(crate) fn fill(&self, executor: &Executor) {
        if !self.mounted {
            return executor.limit_file_size(Some(0));
        }
        let mut file = File::create(self.dir.path().join("filler")).unwrap();
        for size in [65536, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Gives the room back.
    pub(crate) fn free(&self, executor: &Executor) {
        if !self.mounted {
            return executor.limit_file_size(None);
        }
        std::fs::remove_file(self.dir.path().join("filler")).unwrap();
    }

    /// As [`Disk::fill`], for an executor that has not been started.
    pub(crate) fn fill_early(&self, executor: &mut Executor) {
        match self.mounted {
            true => self.fill(executor),
            false => executor.begin_limited(true),
        }
    }

    /// As [`Disk::free`], for an executor that does not run.
    pub(crate) fn free_early(&self, executor: &mut Executor) {
        match self.mounted {
            true => self.free(executor),
            false => executor.begin_limited(false),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a failed test's executor may still hold it.
            let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        }
    }
}
