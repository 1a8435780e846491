//! `executor submit`: enqueue, and perhaps wait for the end.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::args::SubmitArgs;
use super::{CliError, exit, local, out, run, runtime, table};
use crate::config::{RedisUrl, Settings};
use crate::control::{Reply, Request};
use crate::doors::intake::Intake;
use crate::job::JobId;
use crate::ledger::Row;
use crate::link::{self, Follow};
use crate::outcome::error_type;

/// Between two looks at the ledger while waiting without Redis.
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn submit(args: &SubmitArgs, settings: &Settings) -> Result<u8, CliError> {
    let id = JobId::fresh();
    let payload = payload(args, &id)?;
    if let Err(refusal) = Intake::new(settings).read(payload.as_bytes()) {
        if refusal.error_type == error_type::PAYLOAD {
            return Err(CliError::Usage(refusal.error));
        }
        out::note(&format!("refused: {}: {}", refusal.error_type, refusal.error));
        return Ok(exit::of_failure(&refusal.error_type, ""));
    }
    match &settings.redis {
        Some(url) => runtime()?.block_on(through_redis(args, settings, url, &id, &payload)),
        None => into_the_ledger(args, settings, payload),
    }
}

fn payload(args: &SubmitArgs, id: &JobId) -> Result<String, CliError> {
    let parameters: Value = serde_json::from_str(run::object(&args.params)?.get())
        .map_err(|error| CliError::Usage(format!("--params: {error}")))?;
    let all = [
        ("job_id", Some(json!(id.as_str()))),
        ("task_type", Some(json!(args.task_type))),
        ("target", Some(json!(args.target))),
        ("parameters", Some(parameters)),
        ("priority", args.priority.map(Value::from)),
        ("timeout_seconds", args.timeout.map(|timeout| timeout.as_secs_f64().into())),
        ("max_attempts", args.max_attempts.map(Value::from)),
        ("idempotency_key", args.idempotency_key.clone().map(Value::from)),
        ("run_at", args.run_at.clone().map(Value::from)),
    ];
    let fields = all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Ok(Value::Object(fields.collect::<Map<_, _>>()).to_string())
}

async fn through_redis(
    args: &SubmitArgs,
    settings: &Settings,
    url: &RedisUrl,
    id: &JobId,
    payload: &str,
) -> Result<u8, CliError> {
    if !args.wait {
        link::push(url, &settings.job_queue, payload).await?;
        out::line(id.as_str());
        return Ok(exit::OK);
    }
    let mut follow = Follow::begin(url, id).await?;
    link::push(url, &settings.job_queue, payload).await?;
    out::note(id.as_str());
    let (begun, mut live) = (Instant::now(), out::Live::default());
    loop {
        let change = follow.next().await?;
        let field = |name: &str| change.get(name).map(String::as_str).unwrap_or_default();
        match field("status") {
            "COMPLETED" => {
                live.clear();
                out::line(if field("result").is_empty() { "null" } else { field("result") });
                return Ok(exit::OK);
            }
            "FAILED" => {
                live.clear();
                return Ok(failed(field("error_type"), field("error"), id.as_str()));
            }
            status => {
                let status = if status.is_empty() { "pushed" } else { status };
                live.show(&state(status, field("attempts"), field("progress"), begun.elapsed()));
            }
        }
    }
}

fn failed(error_type: &str, error: &str, id: &str) -> u8 {
    out::note(&format!("FAILED {error_type}: {error} (executor job show {id})"));
    exit::of_failure(error_type, error)
}

/// The live line: state, attempt, progress, time.
fn state(status: &str, attempts: &str, progress: &str, elapsed: Duration) -> String {
    let attempt = match attempts {
        "" | "0" => String::new(),
        n => format!(" · attempt {n}"),
    };
    format!("{status}{attempt}{} · {}", bar(progress), table::span(elapsed))
}

/// A progress bar of twenty places, where progress is known.
fn bar(progress: &str) -> String {
    let Ok(progress) = serde_json::from_str::<Value>(progress) else { return String::new() };
    let Some(done) = progress["done"].as_f64() else { return String::new() };
    match progress["total"].as_f64().filter(|total| *total > 0.0) {
        None => format!(" · {done} done"),
        Some(total) => {
            let share = (done / total).clamp(0.0, 1.0);
            let full = (share * 20.0).round() as usize;
            let bar: String = (0..20).map(|n| if n < full { '█' } else { '░' }).collect();
            format!(" {bar} {:3.0} %", share * 100.0)
        }
    }
}

/// Without Redis: to a running `serve`, or straight into the ledger.
fn into_the_ledger(
    args: &SubmitArgs,
    settings: &Settings,
    payload: String,
) -> Result<u8, CliError> {
    let running = local::client(settings).is_some();
    let Reply::Submitted(submitted) = local::ask(settings, &Request::Submit { payload })? else {
        return Err(CliError::Failed("the job was not written down".to_owned()));
    };
    if !args.wait {
        out::line(&submitted.id);
        return Ok(exit::OK);
    }
    out::note(&submitted.id);
    if !running {
        return Err(CliError::Failed(format!(
            "job {} is queued, but nothing runs it until `executor serve` is started",
            submitted.id
        )));
    }
    wait_in_ledger(settings, &submitted.id)
}

fn wait_in_ledger(settings: &Settings, id: &str) -> Result<u8, CliError> {
    let reader = local::reader(settings)?;
    let job = JobId::new(id).ok_or_else(|| CliError::Failed(format!("no job {id}")))?;
    let (begun, mut live) = (Instant::now(), out::Live::default());
    loop {
        let row: Row = reader.job(&job)?.unwrap_or_default();
        match table::text(&row, "status").as_str() {
            "COMPLETED" => {
                live.clear();
                out::line(&row.get("result").unwrap_or(&Value::Null).to_string());
                return Ok(exit::OK);
            }
            "FAILED" => {
                live.clear();
                return Ok(failed(
                    &table::text(&row, "error_type"),
                    &table::text(&row, "error"),
                    id,
                ));
            }
            status => {
                live.show(&state(status, &table::text(&row, "attempts"), "", begun.elapsed()))
            }
        }
        std::thread::sleep(LOOK);
    }
}
