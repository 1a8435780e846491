//! The end of a slot: its lifeline is cut, it ends its tree and itself; one that cannot is set aside.
//!
//! On a thread of its own, for it may last as long as a process waits for a device. Starts nothing.

use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{spawn, tree};

/// How long a slot may take to end before it is helped, and counts as set aside.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at one that ends, and at one that is set aside.
const LOOK: Duration = Duration::from_millis(2);
const LOOK_ASIDE: Duration = Duration::from_millis(200);

/// Slots that no run gets any more and that cannot be ended: something under them does not die.
static SET_ASIDE: AtomicUsize = AtomicUsize::new(0);

/// How many slots are set aside now.
pub(super) fn set_aside() -> usize {
    SET_ASIDE.load(Ordering::Relaxed)
}

/// Waits until a slot that lost its lifeline is gone, helps after two seconds, and clears up.
pub(super) fn end(child: &mut Child, pid: i32) {
    let begun = Instant::now();
    let mut killed = tree::Killed::default();
    let mut aside = false;
    while matches!(child.try_wait(), Ok(None)) {
        let late = begun.elapsed() > END_PATIENCE;
        if late && !tree::freeze_and_kill(pid, &mut killed) {
            let _ = child.kill();
        } else if late && !aside {
            aside = true;
            SET_ASIDE.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                event = "slot_set_aside",
                pid,
                "a process of a run does not die, perhaps it waits for a device; its slot is replaced and never used again"
            );
        }
        std::thread::sleep(if aside { LOOK_ASIDE } else { LOOK });
    }
    if aside {
        SET_ASIDE.fetch_sub(1, Ordering::Relaxed);
        tracing::info!(event = "slot_ended", pid, "a slot that was set aside has ended");
    }
    spawn::known().remove(&pid);
    tree::end_escapees();
}
