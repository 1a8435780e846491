//! `executor fsck`: whether what was promised holds, without touching anything.

use super::args::FsckArgs;
use super::{CliError, exit, local, out, runtime};
use crate::config::Settings;
use crate::control::{Reply, Request};
use crate::fsck::{self, Examined, Subject};
use crate::ledger::{Finding, OpenError};

pub(super) fn fsck(args: &FsckArgs, settings: &Settings) -> Result<u8, CliError> {
    let subject = Subject {
        ledger: settings.ledger_path.clone(),
        redis: settings.redis.clone(),
        executor_id: at_work(settings)?,
        heartbeat: settings.heartbeat_interval,
    };
    let examined = runtime()?.block_on(fsck::examine(&subject)).map_err(|source| {
        CliError::Open(OpenError::Failed { path: settings.ledger_path.clone(), source })
    })?;
    if args.json {
        out::json(&serde_json::to_value(&examined.findings).unwrap_or_default());
    } else {
        tell(&examined, &subject);
    }
    Ok(if examined.findings.is_empty() { exit::OK } else { exit::FAILED })
}

/// The name of the executor that serves the ledger now.
fn at_work(settings: &Settings) -> Result<Option<String>, CliError> {
    let Some(client) = local::client(settings) else { return Ok(None) };
    let Reply::Settings(lines) = client.ask(&Request::Settings)? else { return Ok(None) };
    let name = lines.into_iter().find(|line| line.key == "executor.id");
    Ok(name.map(|line| match line.value {
        serde_json::Value::String(name) => name,
        other => other.to_string(),
    }))
}

fn tell(examined: &Examined, subject: &Subject) {
    for Finding { check, job_id, detail, advice } in &examined.findings {
        let about = job_id.as_ref().map_or_else(String::new, |id| format!("job {id}: "));
        out::line(&format!("!!  {check:12} {about}{detail} — {advice}"));
    }
    let looked = examined.looked;
    let redis = if subject.redis.is_some() { ", Redis" } else { "" };
    let served = subject.executor_id.as_ref().map_or_else(
        || "no executor at work".to_owned(),
        |name| format!("executor {name} at work"),
    );
    out::note(&format!(
        "{}: {} jobs, {} attempts{redis} and processes looked over ({served}): {}",
        subject.ledger.display(),
        looked.jobs,
        looked.attempts,
        match examined.findings.len() {
            0 => "all is well".to_owned(),
            1 => "1 fault".to_owned(),
            n => format!("{n} faults"),
        }
    ));
}
