//! An executor whose log is read and thrown away, for tests that look at its memory.

use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Bench;

pub(crate) struct Drained {
    child: Child,
    taken: Arc<AtomicU64>,
}

impl Drained {
    /// Serves; jobs may be pushed at once.
    pub(crate) fn serve(bench: &Bench) -> Self {
        let mut command = bench.executor.command(&["serve"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let taken = Arc::new(AtomicU64::new(0));
        let bytes = Arc::clone(&taken);
        std::thread::spawn(move || {
            let mut piece = vec![0; 1 << 16];
            while let Ok(n @ 1..) = stdout.read(&mut piece) {
                bytes.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        Self { child, taken }
    }

    pub(crate) fn pid(&self) -> i64 {
        i64::from(self.child.id())
    }

    /// Bytes of log so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number of `/proc/PID/status`; 0 if the process is gone.
pub(crate) fn status(pid: i64, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}
