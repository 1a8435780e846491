//! How long a commit waits for company, which costs as much for one job as for several.
//!
//! Decides, and does nothing else.

use std::time::Duration;

/// Between the beginnings of two commits: so much for each slot beyond two, which wait meanwhile…
const BREATH: Duration = Duration::from_micros(500);
/// …and never more.
const LONGEST: Duration = Duration::from_millis(3);

/// How much longer a commit waits of which `ended` runs are a part, so long `since` the last one began. `None`: not at
/// all, as half of the `slots` stand still for it, and the cores might run dry.
pub(super) fn wait(slots: u32, ended: usize, since: Duration) -> Option<Duration> {
    if 2 * ended >= slots as usize {
        return None;
    }
    (BREATH * slots.saturating_sub(2)).min(LONGEST).checked_sub(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_waits_while_most_slots_are_at_work_and_never_long() {
        let ms = Duration::from_millis;
        for (slots, ended, since, want) in [
            (1, 1, ms(0), None),
            (2, 1, ms(0), None),
            (3, 1, ms(0), Some(Duration::from_micros(500))),
            (8, 0, ms(0), Some(ms(3))),
            (8, 3, ms(0), Some(ms(3))),
            (8, 3, ms(1), Some(ms(2))),
            (8, 3, ms(4), None),
            (8, 4, ms(0), None),
            (100, 49, ms(0), Some(ms(3))),
            (100, 50, ms(0), None),
        ] {
            assert_eq!(wait(slots, ended, since), want, "{slots} slots, {ended} ended, {since:?}");
        }
    }
}
