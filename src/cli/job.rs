//! `executor job`: look at jobs and steer them.

use std::time::Duration;

use serde_json::{Value, json};

use super::args::JobCommand;
use super::{CliError, exit, local, logs, out, runtime, table};
use crate::clock::{self, Timestamp};
use crate::config::Settings;
use crate::control::{CancelReply, Reply, Request, RetryReply};
use crate::job::Status;
use crate::ledger::{JobFilter, LedgerError, Reader, Row, WaitsFor};
use crate::link;

/// How long Redis may take to say how many wait there.
const REDIS: Duration = Duration::from_secs(1);

pub(super) fn job(command: &JobCommand, settings: &Settings) -> Result<u8, CliError> {
    match command {
        JobCommand::List { status, limit, json } => {
            list(settings, status.as_deref(), *limit, Format::of(*json))
        }
        JobCommand::Show { id, json } => show(settings, id, Format::of(*json)),
        JobCommand::Logs { id, follow } => logs::logs(settings, id, *follow),
        JobCommand::Retry { id, failed: _ } => retry(settings, id.as_deref()),
        JobCommand::Cancel { id } => cancel(settings, id),
    }
}

/// For whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    People,
    Programs,
}

impl Format {
    pub(super) fn of(json: bool) -> Self {
        if json { Self::Programs } else { Self::People }
    }
}

fn list(
    settings: &Settings,
    status: Option<&str>,
    limit: u32,
    format: Format,
) -> Result<u8, CliError> {
    let status = match status {
        None => None,
        Some(word) => Some(Status::from_word(&word.to_ascii_uppercase()).ok_or_else(|| {
            CliError::Usage(format!(
                "--status {word}: it must be QUEUED, RUNNING, COMPLETED or FAILED"
            ))
        })?),
    };
    let rows = match Reader::open(&settings.ledger_path) {
        Ok(reader) => reader.jobs(&JobFilter { status, limit })?,
        // No ledger yet: no jobs.
        Err(LedgerError::Missing { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    match format {
        Format::Programs => out::json(&rows.into_iter().map(Value::Object).collect()),
        Format::People if rows.is_empty() => out::note("no jobs"),
        Format::People => out::line(&table::jobs(&rows, clock::now())),
    }
    tell_waiting_in_redis(settings)?;
    Ok(exit::OK)
}

/// How many more wait in Redis; silent where it does not answer at once.
fn tell_waiting_in_redis(settings: &Settings) -> Result<(), CliError> {
    let Some(url) = &settings.redis else { return Ok(()) };
    let asked = link::waiting(url, &settings.job_queue);
    let waiting = runtime()?.block_on(async { tokio::time::timeout(REDIS, asked).await });
    match waiting {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => out::note(&format!("{count} more wait in Redis ({})", settings.job_queue)),
        _ => out::note("Redis does not answer: how many more wait there is not known"),
    }
    Ok(())
}

fn show(settings: &Settings, text: &str, format: Format) -> Result<u8, CliError> {
    let reader = local::reader(settings)?;
    let id = local::find(&reader, text)?;
    let mut row = reader.job(&id)?.unwrap_or_default();
    let attempts = reader.attempts(&id)?;
    let now = clock::now();
    let waits = reader.waits_for(&id, now)?;
    if format == Format::Programs {
        row.insert("attempts_made".into(), row.get("attempts").cloned().unwrap_or_default());
        row.insert("attempts".into(), attempts.into_iter().map(Value::Object).collect());
        if let Some(waits) = &waits {
            row.insert("waits_for".into(), waits_json(waits));
        }
        out::json(&Value::Object(row));
        return Ok(exit::OK);
    }
    for (column, value) in &row {
        let hidden = ["payload", "traceback", "result", "error", "error_type", "partial_results"];
        if !value.is_null() && !hidden.contains(&column.as_str()) && !quiet(column, value) {
            out::line(&format!("{column:18} {}", table::text(&row, column)));
        }
    }
    if let Some(waits) = &waits {
        out::line(&format!("{:18} {}", "waits", waits_words(waits, &row, now)));
    }
    for column in ["result", "partial_results"] {
        if row.get(column).is_some_and(|value| !value.is_null()) {
            out::line(&format!("{column:18} {}", table::text(&row, column)));
        }
    }
    show_attempts(&attempts, now);
    if !table::text(&row, "error_type").is_empty() {
        let (kind, error) = (table::text(&row, "error_type"), table::text(&row, "error"));
        out::line(&format!("\n{}\n{kind}: {error}", table::text(&row, "traceback").trim_end()));
    }
    Ok(exit::OK)
}

/// Columns that say nothing while they are 0.
fn quiet(column: &str, value: &Value) -> bool {
    let zero = value.as_i64() == Some(0);
    zero && ["failures", "interruptions", "duplicate", "result_truncated"].contains(&column)
}

fn show_attempts(attempts: &[Row], now: Timestamp) {
    if attempts.is_empty() {
        return;
    }
    let line = |row: &Row| {
        let exit = match (table::text(row, "exit_code"), table::text(row, "signal")) {
            (code, signal) if signal.is_empty() => code,
            (_, signal) => format!("signal {signal}"),
        };
        let outcome = table::text(row, "outcome");
        vec![
            table::text(row, "attempt"),
            if outcome.is_empty() { "running".to_owned() } else { outcome },
            table::text(row, "started_at"),
            table::between(row, "started_at", "finished_at", now),
            table::text(row, "pid"),
            exit,
            row.get("cpu_seconds")
                .and_then(Value::as_f64)
                .map_or_else(String::new, |s| format!("{s:.2} s")),
            row.get("max_rss_bytes")
                .and_then(Value::as_u64)
                .map_or_else(String::new, |b| format!("{} MB", b / 1_000_000)),
            table::text(row, "survivors_killed"),
            table::short(&table::text(row, "error"), 50),
        ]
    };
    let head = [
        "ATTEMPT",
        "OUTCOME",
        "STARTED",
        "TOOK",
        "PID",
        "EXIT",
        "CPU",
        "MEMORY",
        "SURVIVORS",
        "ERROR",
    ];
    out::line(&format!(
        "\n{}",
        table::table(&head, &attempts.iter().map(line).collect::<Vec<_>>())
    ));
}

fn waits_words(waits: &WaitsFor, row: &Row, now: Timestamp) -> String {
    match waits {
        WaitsFor::Slot { ahead: 0 } => "for a free slot; it is the next".to_owned(),
        WaitsFor::Slot { ahead } => format!("for a free slot; {ahead} go before it"),
        WaitsFor::RunAt { at, failures } => {
            let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            let when = format!("{} (in {})", clock::text(*at), table::span(left));
            match failures {
                0 => format!("for its time, {when}"),
                n => format!(
                    "for its next try, {when}, after failure {n} of {}",
                    table::text(row, "max_attempts")
                ),
            }
        }
        WaitsFor::Leader { id, status } => {
            format!("for job {id} ({status}), which has the same idempotency key")
        }
        WaitsFor::Experiment { id } => format!("for job {id}, which runs the same experiment"),
    }
}

fn waits_json(waits: &WaitsFor) -> Value {
    match waits {
        WaitsFor::Slot { ahead } => json!({"kind": "slot", "ahead": ahead}),
        WaitsFor::RunAt { at, failures } => {
            json!({"kind": "run_at", "at": clock::text(*at), "failures": failures})
        }
        WaitsFor::Leader { id, status } => {
            json!({"kind": "job", "id": id.as_str(), "status": status.as_str()})
        }
        WaitsFor::Experiment { id } => json!({"kind": "experiment", "id": id.as_str()}),
    }
}

fn retry(settings: &Settings, id: Option<&str>) -> Result<u8, CliError> {
    let reader = local::reader(settings)?;
    let Some(text) = id else {
        if let Reply::Retried(count) = local::ask(settings, &Request::RetryFailed)? {
            out::line(&format!("{count} queued again"));
        }
        return Ok(exit::OK);
    };
    let id = local::find(&reader, text)?;
    match local::ask(settings, &Request::Retry { id: id.to_string() })? {
        Reply::Retry(RetryReply::Queued) => out::line(&format!("{id} is queued again")),
        Reply::Retry(RetryReply::NotAJob) => {
            return Err(CliError::Failed(format!("{id} never was a job: its payload was refused")));
        }
        _ => {
            return Err(CliError::Failed(format!(
                "{id} is not FAILED; only FAILED jobs are retried"
            )));
        }
    }
    Ok(exit::OK)
}

fn cancel(settings: &Settings, text: &str) -> Result<u8, CliError> {
    let reader = local::reader(settings)?;
    let id = local::find(&reader, text)?;
    match local::ask(settings, &Request::Cancel { id: id.to_string() })? {
        Reply::Cancel(CancelReply::Cancelled) => out::line(&format!("{id} is cancelled")),
        Reply::Cancel(CancelReply::Stopping) => out::line(&format!("{id} is being stopped")),
        Reply::Cancel(CancelReply::Ended) => {
            return Err(CliError::Failed(format!("{id} has ended before")));
        }
        _ => return Err(CliError::Failed(format!("no job {id}"))),
    }
    Ok(exit::OK)
}
