//! Messages that Redis forbids (`NOPERM`): held back, in order for each subject, while those of other
//! subjects go on; tried again until they are let through.
//!
//! Pure: knows no Redis. They stay in the ledger's outbox all the time, so nothing is lost by a restart.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ledger::OutboxEntry;

/// At most so many are kept in memory; with more the outbox waits, in order, as in an outage.
const MOST: usize = 4096;

/// Between two tries while they are refused.
const AGAIN: Duration = Duration::from_millis(900);

/// What is held.
#[derive(Debug, Default)]
pub(super) struct Held {
    subjects: BTreeMap<String, VecDeque<OutboxEntry>>,
    count: usize,
    /// The subject last tried, and when.
    last: Option<String>,
    tried: Option<Instant>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= MOST
    }

    /// Whether messages of this subject must wait for others before them.
    pub(super) fn holds(&self, subject: &str) -> bool {
        self.subjects.contains_key(subject)
    }

    pub(super) fn add(&mut self, entry: OutboxEntry) {
        self.subjects.entry(entry.subject.clone()).or_default().push_back(entry);
        self.count += 1;
    }

    /// The oldest message of the next subject in turn, once it is time to try again.
    pub(super) fn next(&mut self, now: Instant) -> Option<OutboxEntry> {
        use std::ops::Bound::{Excluded, Unbounded};
        if self.tried.is_some_and(|tried| now < tried + AGAIN) {
            return None;
        }
        let after = match &self.last {
            Some(last) => (Excluded(last.clone()), Unbounded),
            None => (Unbounded, Unbounded),
        };
        let subject = self.subjects.range(after).next().or_else(|| self.subjects.iter().next());
        let (subject, entries) = subject?;
        self.last = Some(subject.clone());
        self.tried = Some(now);
        entries.front().cloned()
    }

    /// This message, the oldest of its subject, was let through.
    pub(super) fn sent(&mut self, entry: &OutboxEntry) {
        let Some(entries) = self.subjects.get_mut(&entry.subject) else { return };
        if entries.front().is_some_and(|first| first.seq == entry.seq) {
            entries.pop_front();
            self.count -= 1;
        }
        if entries.is_empty() {
            self.subjects.remove(&entry.subject);
        }
        // Others may be let through too: at once.
        self.tried = None;
    }

    /// What the outbox must keep, though it lies before what was sent; in order.
    pub(super) fn kept(&self) -> Vec<i64> {
        let mut kept: Vec<i64> = self.subjects.values().flatten().map(|entry| entry.seq).collect();
        kept.sort_unstable();
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::OutboxKind;

    fn entry(seq: i64, subject: &str) -> OutboxEntry {
        OutboxEntry { seq, subject: subject.into(), kind: OutboxKind::Job, body: "{}".into() }
    }

    #[test]
    fn the_oldest_of_each_subject_is_tried_in_turn() {
        let mut held = Held::default();
        for (seq, subject) in [(1, "a"), (2, "b"), (3, "a")] {
            held.add(entry(seq, subject));
        }
        assert_eq!(held.kept(), [1, 2, 3]);
        let (now, mut tried) = (Instant::now(), Vec::new());
        for n in 0..3 {
            tried.push(held.next(now + n * AGAIN).unwrap().seq);
            assert!(held.next(now + n * AGAIN).is_none(), "too soon");
        }
        assert_eq!(tried, [1, 2, 1]);
        held.sent(&entry(1, "a"));
        assert_eq!((held.kept(), held.holds("a")), (vec![2, 3], true));
        held.sent(&entry(3, "a"));
        held.sent(&entry(2, "b"));
        assert!(held.is_empty() && !held.holds("a"));
        assert!(held.kept().is_empty());
        assert!(held.next(now).is_none());
    }
}
