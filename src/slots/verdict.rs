//! What a run came to, from everything that is known once its tree is gone. Pure.

use std::time::Duration;

use serde_json::value::RawValue;

use super::watching::Breach;
use crate::frame::{Failed, Kind};
use crate::outcome::{Cause, Exit, Failure, Limit, Outcome, Success, error_type};

/// Why we ended a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Past its deadline.
    Timeout,
    /// Our shutdown.
    Shutdown,
    /// A user.
    Cancel,
    /// A limit.
    Limit(Breach),
    /// It does not speak the protocol; says how.
    Protocol(String),
}

/// The run's own last word.
#[derive(Clone, Debug)]
pub(super) enum Word {
    Succeeded(Success),
    Failed(Failed),
}

/// The facts.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) word: Option<Word>,
    pub(super) exit: Option<Exit>,
    pub(super) ended: Option<Ended>,
    /// Its slot died under it.
    pub(super) slot_lost: bool,
    /// What `faulthandler` wrote.
    pub(super) dump: &'a str,
    pub(super) log_tail: &'a str,
    pub(super) partial: Option<Box<RawValue>>,
    pub(super) timeout: Duration,
    pub(super) memory_limited: bool,
    pub(super) cpu_limited: bool,
}

const CLOSED_ITS_DESCRIPTORS: i32 = 97;
const REQUEST_UNREAD: i32 = 96;

/// Decides. What we did to the run weighs more than what it said, what it said more than how it left.
pub(super) fn decide(facts: Facts<'_>) -> Outcome {
    let partial = facts.partial.clone();
    let failed = |cause, kind: &str, error: String| {
        let traceback = account(&facts, &error);
        Outcome::Failed(Failure {
            cause,
            error_type: kind.to_owned(),
            error,
            traceback,
            partial_results: partial.clone(),
        })
    };
    let clean = facts.exit == Some(Exit::Code(0));
    match (&facts.ended, &facts.word) {
        (Some(Ended::Timeout), _) => {
            let error = format!("Tool execution exceeded {}s", seconds(facts.timeout));
            failed(Cause::TimedOut, error_type::TIMEOUT, error)
        }
        (Some(Ended::Limit(breach)), _) => {
            failed(Cause::Limit(breach.limit), name_of(breach.limit), breach.sentence.clone())
        }
        (Some(Ended::Cancel), _) => {
            failed(Cause::Cancelled, error_type::CANCELLED, "cancelled while running".to_owned())
        }
        (Some(Ended::Shutdown), Some(Word::Succeeded(success))) if clean => {
            Outcome::Succeeded(success.clone())
        }
        (Some(Ended::Shutdown), _) => failed(
            Cause::Shutdown,
            error_type::SHUTDOWN,
            "the executor was shut down while it ran".to_owned(),
        ),
        (Some(Ended::Protocol(why)), _) => failed(
            Cause::Crashed,
            error_type::CRASHED,
            format!("what it sent is not the protocol: {why}"),
        ),
        (None, Some(Word::Succeeded(success))) if clean => Outcome::Succeeded(success.clone()),
        (None, Some(Word::Failed(word))) => told(word, partial, facts.memory_limited),
        (None, _) => unsaid(&facts, failed),
    }
}

/// The run told of its own failure.
fn told(word: &Failed, partial: Option<Box<RawValue>>, memory_limited: bool) -> Outcome {
    let memory = memory_limited && word.error_type == "MemoryError";
    let cause = match word.kind {
        Kind::Unfit => Cause::Unfit,
        _ if memory => Cause::Limit(Limit::Memory),
        Kind::Raised => Cause::Raised { transient: word.transient },
        Kind::Exited => Cause::Crashed,
    };
    Outcome::Failed(Failure {
        cause,
        error_type: if memory { error_type::MEMORY.to_owned() } else { word.error_type.clone() },
        error: word.error.clone(),
        traceback: word.traceback.clone(),
        partial_results: word.partial.clone().or(partial),
    })
}

/// No valid word: how it left must tell.
fn unsaid(facts: &Facts<'_>, failed: impl Fn(Cause, &str, String) -> Outcome) -> Outcome {
    let crashed = |error: String| failed(Cause::Crashed, error_type::CRASHED, error);
    if facts.slot_lost {
        return crashed("its slot was killed under it".to_owned());
    }
    let late = if facts.word.is_some() { "after its result" } else { "without a result" };
    match facts.exit {
        Some(Exit::Signal(libc::SIGXCPU)) if facts.cpu_limited => failed(
            Cause::Limit(Limit::Cpu),
            error_type::CPU,
            "a process of the run used all its CPU time".to_owned(),
        ),
        Some(Exit::Signal(libc::SIGKILL)) => {
            crashed("killed from outside, perhaps out of memory".to_owned())
        }
        Some(Exit::Signal(number)) => {
            crashed(format!("died by signal {number}{} {late}", signal_name(number)))
        }
        Some(Exit::Code(CLOSED_ITS_DESCRIPTORS)) if facts.word.is_none() => {
            crashed("the callable closed its descriptors".to_owned())
        }
        Some(Exit::Code(REQUEST_UNREAD)) if facts.word.is_none() => {
            Outcome::NotStarted("the request could not be read by the new process".to_owned())
        }
        Some(Exit::Code(code)) => crashed(format!("left {late} (exit code {code})")),
        None => crashed(format!("left {late}, nobody saw how")),
    }
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or_else(|_| String::new(), |s| format!(" ({s})"))
}

fn name_of(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => error_type::MEMORY,
        Limit::Cpu => error_type::CPU,
        Limit::Processes => error_type::PROCESSES,
    }
}

/// `300`, or `0.5`.
fn seconds(timeout: Duration) -> String {
    let text = format!("{:.3}", timeout.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What stands for a traceback: the stack if there is one, else a sentence and the last output.
fn account(facts: &Facts<'_>, error: &str) -> String {
    if !facts.dump.trim().is_empty() {
        return own_frames(facts.dump);
    }
    if let Some(Word::Failed(word)) = &facts.word
        && !word.traceback.is_empty()
    {
        return word.traceback.clone();
    }
    let lines: Vec<&str> = facts.log_tail.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n");
    if last.is_empty() {
        format!("No Python stack could be had: {error}. There was no output.")
    } else {
        format!("No Python stack could be had: {error}. The last output:\n{last}")
    }
}

/// A stack without the shim's own frames, which say nothing of the job; all of it, if nothing else
/// would be left.
fn own_frames(dump: &str) -> String {
    let of_shim = |line: &&str| line.starts_with("  File ") && line.contains("/executor_shim/");
    let kept: Vec<&str> = dump.lines().filter(|line| !of_shim(line)).collect();
    if kept.iter().any(|line| line.starts_with("  File ")) {
        kept.join("\n") + "\n"
    } else {
        dump.to_owned()
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
