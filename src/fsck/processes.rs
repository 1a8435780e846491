//! No process of a run outlives its attempt, and none its executor.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Subject;
use crate::job::JobId;
use crate::ledger::{AttemptState, Finding, LedgerError, Reader};
use crate::slots::{self, Lineage, Marked};

/// How long the tree of an executor that was killed may take to go (SPEC 8).
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Looks until nothing is left over, or it has been there too long.
pub(super) async fn look(
    subject: &Subject,
    reader: &Reader,
    executor: Option<i32>,
) -> Result<Vec<Finding>, LedgerError> {
    let dir = slots::runtime_dir(&subject.ledger);
    let over = |marked: &Marked| left_over(reader, marked);
    let begun = std::time::Instant::now();
    let mut first: Option<BTreeMap<i32, Finding>> = None;
    loop {
        let mut now = BTreeMap::new();
        for marked in slots::marked(&dir, executor) {
            if let Some(finding) = over(&marked)? {
                now.insert(marked.pid, finding);
            }
        }
        // Only what has been there all the time.
        if let Some(first) = &first {
            now.retain(|pid, _| first.contains_key(pid));
        }
        if now.is_empty() || begun.elapsed() > PATIENCE {
            return Ok(now.into_values().collect());
        }
        first = Some(now);
        tokio::time::sleep(LOOK).await;
    }
}

fn left_over(reader: &Reader, marked: &Marked) -> Result<Option<Finding>, LedgerError> {
    let Marked { pid, lineage, attempt, command } = marked;
    let finding = |detail| Finding {
        check: "process",
        job_id: attempt.as_ref().map(|(job, _)| job.clone()),
        detail,
        advice: "end it (`kill -9 PID`), and report it: a run's tree ends with its attempt",
    };
    if *lineage == Lineage::Orphan {
        let detail = format!("process {pid} ({command}) is left over: its executor is gone");
        return Ok(Some(finding(detail)));
    }
    let Some((job, number)) = attempt else { return Ok(None) };
    let Some(id) = JobId::new(job) else { return Ok(None) };
    if reader.attempt_state(&id, *number)? != AttemptState::Over {
        return Ok(None);
    }
    let detail = format!("process {pid} ({command}) outlived attempt {number}, which is over");
    Ok(Some(finding(detail)))
}
