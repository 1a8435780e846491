//! `executor job logs`: what a job wrote.

use super::{CliError, exit, local, out, table};
use crate::config::Settings;
use crate::job::JobId;
use crate::ledger::Reader;

/// Looks after so many quiet times whether the job has ended.
const QUIET: u32 = 2;

pub(super) fn logs(settings: &Settings, text: &str, follow: bool) -> Result<u8, CliError> {
    let reader = local::reader(settings)?;
    let id = local::find(&reader, text)?;
    // Before the history, so that nothing falls between.
    let following = match local::client(settings) {
        Some(client) if follow => Some(client.follow(id.as_str())?),
        _ => None,
    };
    let mut shown = history(&reader, &id, 0)?;
    let Some(mut following) = following else {
        if follow && !ended(&reader, &id)? {
            return Err(CliError::Failed(
                "no executor is running over this ledger: nothing to follow".to_owned(),
            ));
        }
        return Ok(exit::OK);
    };
    let mut quiet = 0;
    loop {
        match following.line() {
            Ok(Some(line)) => {
                quiet = 0;
                // Older attempts are in the history.
                if line.attempt > shown {
                    out::line(&line.line);
                }
            }
            Ok(None) => {
                quiet += 1;
                if quiet >= QUIET && ended(&reader, &id)? {
                    return Ok(exit::OK);
                }
            }
            // The executor has gone: what it recorded is in the history.
            Err(_) => {
                shown = history(&reader, &id, shown)?;
                let _ = shown;
                return Ok(exit::OK);
            }
        }
    }
}

/// Prints the output of ended attempts after a number; the last one printed.
fn history(reader: &Reader, id: &JobId, after: u32) -> Result<u32, CliError> {
    let mut last = after;
    for row in reader.attempts(id)? {
        let attempt = row.get("attempt").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
        let over = row.get("finished_at").is_some_and(|at| !at.is_null());
        if attempt <= after || !over {
            continue;
        }
        last = attempt;
        let tail = table::text(&row, "log_tail");
        let bytes = row.get("log_bytes").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let missing = bytes.saturating_sub(u64::try_from(tail.len()).unwrap_or(u64::MAX));
        if missing > 0 {
            out::note(&format!("… {missing} bytes before are not kept (LOG_TAIL_BYTES)"));
        }
        if !tail.is_empty() {
            out::line(tail.trim_end_matches('\n'));
        }
    }
    Ok(last)
}

fn ended(reader: &Reader, id: &JobId) -> Result<bool, CliError> {
    let row = reader.job(id)?.unwrap_or_default();
    Ok(["COMPLETED", "FAILED"].contains(&table::text(&row, "status").as_str()))
}
