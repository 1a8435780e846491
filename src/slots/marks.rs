//! Processes that bear the marks of slots and runs, found from outside: for whoever looks things over.
//!
//! Only looks. A slot, and a run born in it, is known by the shim it was started with; what a run
//! started, by the `EXECUTOR_*` variables it inherited.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::proc;

/// A process with a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Its pid.
    pub pid: i32,
    /// Whether the executor is among its ancestors.
    pub lineage: Lineage,
    /// The job and the attempt that started it, if it says so.
    pub attempt: Option<(String, u32)>,
    /// Its command line, for people.
    pub command: String,
}

/// Where a process comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// The executor at work.
    Ours,
    /// Nobody who is still there.
    Orphan,
}

/// Where slots and runs of a ledger's executor have their files.
pub fn runtime_dir(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".run");
    name.into()
}

/// How long the process with this pid has been there; `None`: there is none.
pub fn age(pid: i32) -> Option<Duration> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten()?;
    let start = proc::stat(pid)?.start / u64::try_from(ticks).ok()?.max(1);
    let up = proc::slurp("/proc/uptime").ok()?;
    let up: f64 = up.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(up - start as f64).ok()
}

/// All processes of slots and runs under this directory, other than this one.
pub fn marked(runtime_dir: &Path, executor: Option<i32>) -> Vec<Marked> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| read(pid, runtime_dir, executor))
        .collect()
}

fn read(pid: i32, runtime_dir: &Path, executor: Option<i32>) -> Option<Marked> {
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let shim = runtime_dir.join("shim/executor_shim");
    let is_slot = words(&command).any(|word| Path::new(&word).starts_with(&shim));
    let tmp = runtime_dir.join("tmp");
    let is_run = words(&environment)
        .filter_map(|word| word.strip_prefix("TMPDIR=").map(PathBuf::from))
        .any(|dir| dir.starts_with(&tmp));
    // One that has ended meanwhile bears nothing.
    if !(is_slot || is_run) || proc::stat(pid)?.is_dead() {
        return None;
    }
    Some(Marked {
        pid,
        lineage: lineage(pid, executor),
        attempt: attempt(&environment),
        command: words(&command).take(3).collect::<Vec<_>>().join(" "),
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
}

fn attempt(environment: &[u8]) -> Option<(String, u32)> {
    let value =
        |name: &str| words(environment).find_map(|w| Some(w.strip_prefix(name)?.to_owned()));
    Some((value("EXECUTOR_JOB_ID=")?, value("EXECUTOR_ATTEMPT=")?.parse().ok()?))
}

fn lineage(pid: i32, executor: Option<i32>) -> Lineage {
    let mut at = pid;
    // Deeper than any tree that is meant.
    for _ in 0..1000 {
        match proc::stat(at) {
            Some(stat) if Some(stat.parent) == executor => return Lineage::Ours,
            Some(stat) if stat.parent > 1 => at = stat.parent,
            _ => return Lineage::Orphan,
        }
    }
    Lineage::Orphan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_started_is_known_by_its_environment() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env("TMPDIR", dir.path().join("tmp/7"))
            .env("EXECUTOR_JOB_ID", "a job")
            .env("EXECUTOR_ATTEMPT", "3")
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let me = std::process::id().cast_signed();
        // For a moment after its birth a process has no environment yet.
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while fs::read(format!("/proc/{pid}/environ")).unwrap().is_empty() {
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
        let found = marked(dir.path(), Some(me));
        let orphans = marked(dir.path(), None);
        let elsewhere = marked(&dir.path().join("other"), Some(me));
        child.kill().unwrap();
        child.wait().unwrap();
        let attempt = Some(("a job".to_owned(), 3));
        let want = Marked { pid, lineage: Lineage::Ours, attempt, command: "sleep 60".to_owned() };
        assert_eq!(found, [want]);
        assert_eq!(orphans[0].lineage, Lineage::Orphan);
        assert_eq!(elsewhere, []);
        assert_eq!(marked(dir.path(), Some(me)), []);
    }

    #[test]
    fn the_age_of_a_process_is_told() {
        let me = std::process::id().cast_signed();
        assert!(age(me).is_some_and(|age| age < Duration::from_secs(3600)));
    }
}
