//! Whether all that was promised holds: the ledger by itself, what Redis shows of it, the processes.
//!
//! Only looks; mends nothing, and stands in nobody's way. What may be on its way while an executor
//! works is looked at again before it is called a fault.

mod processes;
mod redis;

use std::path::PathBuf;
use std::time::Duration;

use crate::clock;
use crate::config::RedisUrl;
use crate::ledger::{self, Finding, LedgerError, Looked, Reader, Serving};
use crate::slots;

/// What is looked over.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The ledger's file.
    pub ledger: PathBuf,
    /// Redis, where one is configured.
    pub redis: Option<RedisUrl>,
    /// The executor at work, by name; `None`: none answers.
    pub executor_id: Option<String>,
    /// How often an executor looks for what was left noted in Redis.
    pub heartbeat: Duration,
}

/// What was found.
#[derive(Debug)]
pub struct Examined {
    /// What is wrong; empty: nothing.
    pub findings: Vec<Finding>,
    /// How much there was to look at.
    pub looked: Looked,
}

/// Looks everything over.
///
/// # Errors
/// If the ledger cannot be read at all.
pub async fn examine(subject: &Subject) -> Result<Examined, LedgerError> {
    let reader = Reader::open(&subject.ledger)?;
    // One that does not answer may be at work all the same.
    let pid = ledger::holder(&subject.ledger);
    let serving = pid.and_then(|pid| serving(subject, pid));
    let (mut findings, looked) = reader.check(serving.as_ref())?;
    if findings.iter().any(|finding| finding.check == "file") {
        // What a damaged file says of others is worth nothing.
        return Ok(Examined { findings, looked });
    }
    findings.extend(processes::look(subject, &reader, pid).await?);
    if let Some(url) = &subject.redis {
        findings.extend(redis::look(url, subject, &reader).await?);
    }
    Ok(Examined { findings, looked })
}

/// The executor at work, and since when it is.
fn serving(subject: &Subject, pid: i32) -> Option<Serving> {
    let executor_id = subject.executor_id.clone()?;
    // A second more, for the clock of processes ticks coarsely.
    let since = clock::now() - (slots::age(pid)? + Duration::from_secs(1));
    Some(Serving { executor_id, since })
}
