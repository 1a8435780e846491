//! `executor run`: one run here and now.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::args::RunArgs;
use super::local::Scratch;
use super::{CliError, exit, out, runtime, table};
use crate::clock;
use crate::config::Settings;
use crate::doors::intake::Intake;
use crate::job::{JobId, Target};
use crate::log::OutputSink;
use crate::outcome::{Outcome, Report, error_type};
use crate::serve::options_in;
use crate::slots::{Action, Run, Slots, Stop};

/// Without TOOL_TIMEOUT and --timeout.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Lines on their way to the terminal.
const LINES: usize = 256;
/// By Ctrl-C, and by SIGTERM.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

pub(super) fn run(args: &RunArgs, settings: &Settings) -> Result<u8, CliError> {
    let parameters = object(&args.params)?;
    let target = match target(&args.target, settings) {
        Ok(target) => target,
        Err((code, says)) => {
            out::note(&format!("FAILED {says}"));
            return Ok(code);
        }
    };
    let timeout = args.timeout.or(settings.tool_timeout).unwrap_or(TIMEOUT);
    let runtime = runtime()?;
    let (report, interrupted) =
        runtime.block_on(once(settings, target, parameters, timeout, Action::Call))?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(interrupted.unwrap_or_else(|| tell(&report.0, report.1)))
}

/// Parameters as they were typed.
pub(super) fn object(text: &str) -> Result<Box<RawValue>, CliError> {
    let wrong =
        |why: String| CliError::Usage(format!("--params {}: {why}", table::short(text, 60)));
    let raw = RawValue::from_string(text.to_owned()).map_err(|error| wrong(error.to_string()))?;
    if !raw.get().starts_with('{') {
        return Err(wrong("it must be a JSON object".to_owned()));
    }
    Ok(raw)
}

/// A target as it was typed, or the exit code and the sentence that refuse it.
fn target(text: &str, settings: &Settings) -> Result<Target, (u8, String)> {
    Intake::new(settings).read_target(text).map_err(|refusal| {
        let usage = refusal.error_type == error_type::PAYLOAD;
        let code = if usage { exit::USAGE } else { exit::of_failure(&refusal.error_type, "") };
        (code, format!("{}: {}", refusal.error_type, refusal.error))
    })
}

type Ended = ((Report, Duration), Option<u8>);

/// Makes one attempt in a slot of its own; what the run writes goes to stderr.
pub(super) async fn once(
    settings: &Settings,
    target: Target,
    parameters: Box<RawValue>,
    timeout: Duration,
    action: Action,
) -> Result<Ended, CliError> {
    let scratch = Scratch::new()?;
    let launcher = std::env::current_exe()
        .map_err(|source| CliError::System { what: "our own program cannot be found", source })?;
    let mut options = options_in(settings, launcher, scratch.path().to_owned());
    options.slots = 1;
    let (sink, mut lines) = OutputSink::channel(LINES);
    let printing = tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            out::note(&line.line);
        }
    });
    let slots = Slots::start(options, sink).await?;
    let run = Run {
        job_id: JobId::fresh(),
        attempt: 1,
        run_id: None,
        experiment_id: None,
        target,
        parameters,
        timeout,
        action,
    };
    let begun = clock::now();
    let (stopping, stop) = watch::channel(Stop::No);
    let (events, mut unheard) = mpsc::channel(LINES);
    tokio::spawn(async move { while unheard.recv().await.is_some() {} });
    let mut interrupted = None;
    let report = {
        let mut running = std::pin::pin!(slots.run(run, stop, |_| {}, events));
        loop {
            tokio::select! {
                report = &mut running => break report,
                code = asked_to_stop(), if interrupted.is_none() => {
                    interrupted = Some(code);
                    stopping.send_replace(Stop::Kill);
                }
            }
        }
    };
    slots.close().await;
    drop(slots);
    // The sink is gone with the slots; what is on its way is still printed.
    let _ = tokio::time::timeout(Duration::from_secs(1), printing).await;
    let took = Duration::try_from(report.finished_at.duration_since(begun)).unwrap_or_default();
    Ok(((report, took), interrupted))
}

async fn asked_to_stop() -> u8 {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => INTERRUPTED,
        _ = terminate.recv() => TERMINATED,
    }
}

/// The result to stdout, the verdict to stderr.
fn tell(report: &Report, took: Duration) -> u8 {
    let used = format!(
        "in {} · {:.2} s CPU · {} MB",
        table::span(took),
        report.usage.cpu_seconds,
        report.usage.max_rss_bytes / 1_000_000
    );
    match &report.outcome {
        Outcome::Succeeded(success) => {
            out::line(success.value.get());
            let cut = if success.truncated {
                " · result cut: it was larger than RESULT_MAX_BYTES"
            } else {
                ""
            };
            out::note(&format!("COMPLETED {used}{cut}"));
            exit::OK
        }
        Outcome::Failed(failure) => {
            out::note(failure.traceback.trim_end());
            out::note(&format!("FAILED {}: {} · {used}", failure.error_type, failure.error));
            exit::of_failure(&failure.error_type, &failure.error)
        }
        Outcome::NotStarted(why) => {
            out::note(&format!("FAILED no process could be had: {why}"));
            exit::FAILED
        }
    }
}
