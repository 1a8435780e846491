//! The slots of a past life over the same runtime directory, and the interpreter it asked: nothing new runs
//! before they are gone.
//!
//! A slot whose executor died ends its run's tree and then itself (its lifeline). Until then an old
//! attempt could still be at work while the same job is started again.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{proc, tree};

/// How long they may take to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ends the line of an interpreter.
const ASKED: &str = " asked";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

fn list(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("slots")
}

/// What a process was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A slot: it ends its run's tree before itself.
    Slot,
    /// An interpreter that was asked a question: nobody is left to hear the answer.
    Asked,
}

/// Remembers a process by its pid and the time of its start, which name it for good.
pub(super) fn remember(runtime_dir: &Path, pid: i32, kind: Kind) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(list(runtime_dir))?;
    let word = if kind == Kind::Asked { ASKED } else { "" };
    writeln!(file, "{}{word}", line_of(pid))
}

/// A process as a line without its end: its pid and its start time.
pub(super) fn line_of(pid: i32) -> String {
    let start = proc::stat(pid).map_or(0, |stat| stat.start);
    format!("{pid} {start}")
}

/// Waits until every slot remembered is gone, and forgets them. One that does not end is killed; an
/// interpreter is, at once.
pub(super) fn wait(runtime_dir: &Path) -> io::Result<()> {
    let path = list(runtime_dir);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let until = Instant::now() + PATIENCE;
    for line in text.lines() {
        let (slot, asked) = line.strip_suffix(ASKED).map_or((line, false), |line| (line, true));
        let Some((pid, start)) = read_line(slot) else { continue };
        if asked {
            end(pid, start);
            continue;
        }
        while is_alive(pid, start) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        if is_alive(pid, start) {
            tracing::warn!(event = "old_slot_killed", pid, "a slot of a past life did not end");
            end(pid, start);
        }
    }
    fs::remove_file(path)
}

pub(super) fn read_line(line: &str) -> Option<(i32, u64)> {
    let (pid, start) = line.split_once(' ')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

pub(super) fn is_alive(pid: i32, start: u64) -> bool {
    proc::stat(pid).is_some_and(|stat| stat.start == start && !stat.is_dead())
}

/// Stops it, so that it starts nothing more, kills all under it, then itself: its orphans would be nobody's.
pub(super) fn end(pid: i32, start: u64) {
    let Some(fd) = tree::open(pid, start) else { return };
    tree::signal(&fd, Signal::STOP);
    let mut killed = tree::Killed::default();
    let until = Instant::now() + PATIENCE;
    while is_alive(pid, start) && tree::freeze_and_kill(pid, &mut killed) && Instant::now() < until
    {
        std::thread::sleep(LOOK);
    }
    tree::signal(&fd, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_still_lives_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("0.3").spawn().unwrap();
        remember(dir.path(), i32::try_from(child.id()).unwrap(), Kind::Slot).unwrap();
        let begun = Instant::now();
        wait(dir.path()).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
        assert!(!list(dir.path()).exists());
        child.wait().unwrap();
    }

    #[test]
    fn an_interpreter_that_was_asked_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        remember(dir.path(), i32::try_from(child.id()).unwrap(), Kind::Asked).unwrap();
        let begun = Instant::now();
        wait(dir.path()).unwrap();
        assert!(begun.elapsed() < PATIENCE);
        child.wait().unwrap();
    }

    #[test]
    fn one_that_starts_others_all_the_time_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("alive");
        let script = format!(
            "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(600) if os.path.exists({mark:?}) else os._exit(0)\n    time.sleep(0.0005)\n"
        );
        fs::write(&mark, "").unwrap();
        for _ in 0..20 {
            let mut child =
                std::process::Command::new("python3").args(["-c", &script]).spawn().unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let until = Instant::now() + PATIENCE;
            while proc::children(pid).is_empty() && Instant::now() < until {
                std::thread::sleep(LOOK);
            }
            end(pid, proc::stat(pid).unwrap().start);
            child.wait().unwrap();
        }
        let word = mark.to_str().unwrap();
        let left = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        });
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn another_process_with_an_old_number_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id();
        fs::write(list(dir.path()), format!("{me} 1\nnonsense\n")).unwrap();
        let begun = Instant::now();
        wait(dir.path()).unwrap();
        assert!(begun.elapsed() < PATIENCE);
    }
}
