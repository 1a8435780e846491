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
use crate::ledger::{Finding, LedgerError, Looked, Reader, Serving, last_holder};
use crate::slots;

/// What is looked over.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The ledger's file.
    pub ledger: PathBuf,
    /// Redis, where one is configured.
    pub redis: Option<RedisUrl>,
    /// The executor at work, by name; `None`: none is.
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
    let (pid, serving) = at_work(subject);
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

/// The process of the executor at work, and since when it is.
fn at_work(subject: &Subject) -> (Option<i32>, Option<Serving>) {
    let Some(executor_id) = &subject.executor_id else { return (None, None) };
    let pid = last_holder(&subject.ledger);
    let age = pid.and_then(slots::age);
    // A second more, for the clock of processes ticks coarsely.
    let since = age.map(|age| clock::now() - (age + Duration::from_secs(1)));
    (pid, since.map(|since| Serving { executor_id: executor_id.clone(), since }))
}
