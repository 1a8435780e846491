//! The Python stack of a run that is to end: asked for by the private signal, waited for until it is whole.
//!
//! The run writes it itself, piece by piece, and on a loaded machine it is held up between two pieces. Nothing else
//! waits on it: it must not take longer than [`PATIENCE`].

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::slot::Process;
use super::{interpreter, proc, tree};

/// How long a run has to write its stack, on a loaded machine. Part of the grace, not added to it.
const PATIENCE: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(3);
/// What a process that waits for something has not added to for so long is whole…
const STILL: Duration = Duration::from_millis(3);
/// …and of one that runs, or only wants to.
const STILL_WHILE_BUSY: Duration = Duration::from_millis(30);

/// Has the run's own process write its stack, if it still has the handler, and waits for it.
pub(super) async fn ask(process: &Process, dump: &OwnedFd) {
    let pid = process.pid;
    if !proc::handles(pid, interpreter::STACK_SIGNAL)
        || tree::signal_numbered(process.pidfd.get_ref(), interpreter::STACK_SIGNAL).is_err()
    {
        return;
    }
    if proc::stat(pid).is_some_and(|stat| stat.is_stopped()) {
        // It can say where it is only if it runs.
        tree::signal(process.pidfd.get_ref(), Signal::CONT);
    }
    let asked = Instant::now();
    let (mut size, mut since) = (0, asked);
    while asked.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK).await;
        let now = rustix::fs::fstat(dump).map_or(0, |stat| stat.st_size);
        if now != size {
            (size, since) = (now, Instant::now());
        } else if is_whole(last_byte(dump, size), since.elapsed(), proc::stat(pid)) {
            return;
        }
    }
}

fn last_byte(dump: &OwnedFd, size: i64) -> Option<u8> {
    let mut last = [0];
    let at = u64::try_from(size.checked_sub(1)?).ok()?;
    (rustix::io::pread(dump, &mut last, at) == Ok(1)).then_some(last[0])
}

/// Whether what ends with this byte, and has not grown for so long, is all there is to come.
fn is_whole(last: Option<u8>, still: Duration, writer: Option<proc::Stat>) -> bool {
    let waits = writer.is_some_and(|stat| !stat.is_running() && !stat.is_dead());
    last == Some(b'\n') && still >= if waits { STILL } else { STILL_WHILE_BUSY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_whole_once_its_writer_is_done_with_it() {
        let stat = |state| {
            let line = format!("7 (a) {state} 3 7 7 0 -1 4 0 0 0 0 5 6 1 2 20 0 1 0 99 0 0");
            proc::parse_stat(&line)
        };
        let (little, long) = (Duration::from_millis(3), Duration::from_millis(30));
        let cases = [
            (None, long, 'S', false),
            (Some(b'x'), long, 'S', false),
            (Some(b'\n'), Duration::from_millis(2), 'S', false),
            (Some(b'\n'), little, 'S', true),
            (Some(b'\n'), little, 'T', true),
            (Some(b'\n'), little, 'R', false),
            (Some(b'\n'), long, 'R', true),
            // Its main thread has ended; others may be at it.
            (Some(b'\n'), little, 'Z', false),
        ];
        for (last, still, state, whole) in cases {
            assert_eq!(is_whole(last, still, stat(state)), whole, "{last:?} {still:?} {state}");
        }
        assert!(!is_whole(Some(b'\n'), little, None));
    }
}
