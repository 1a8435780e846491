//! Experiments: stored definitions in Redis, their runs, what is told of them.
//!
//! `docs/design/experiments.md` has the keys and the rules. Must not run anything, nor write to the
//! ledger.

pub mod definition;
mod messages;
mod metrics;
pub mod tools;

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script, Value as RedisValue};

use crate::job::JobId;
use crate::link::{Link, Perform};
use crate::policy::ToolSettings;
use definition::{Stored, replace_state, state_after};

pub use messages::{Ended, ended_messages};
pub use metrics::{Metric, Metrics};

/// What runs now: a hash from experiment id to its run.
pub const RUNS: &str = "executor:runs";

/// Tries to replace the state in a document that others keep changing.
const TRIES: usize = 50;

/// What Redis said to a job that wants to run an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It may, as this run.
    Begun {
        /// `{experiment}:{unix seconds}`.
        run_id: String,
        /// The definition as stored.
        stored: Stored,
    },
    /// There is no such experiment.
    Missing,
    /// The key holds something else.
    Unreadable(String),
    /// Another job runs it.
    Busy {
        /// The other's run.
        run_id: String,
    },
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Owner {
    /// This executor's name.
    pub executor_id: String,
    /// Its ledger.
    pub ledger_id: String,
}

/// The experiments in Redis.
#[derive(Debug)]
pub struct Experiments {
    link: Arc<Link>,
    owner: Owner,
}

impl Experiments {
    /// Those behind a link.
    pub fn new(link: Arc<Link>, owner: Owner) -> Self {
        Self { link, owner }
    }

    /// Asks whether a job may run an experiment, and as which run.
    pub async fn begin(
        &self,
        experiment: &str,
        job: &JobId,
        run_id: Option<&str>,
    ) -> Result<Begin, RedisError> {
        let asked = self.ask(experiment, job, run_id).await;
        if let Err(error) = &asked {
            self.link.failed(error).await;
        }
        asked
    }

    async fn ask(
        &self,
        experiment: &str,
        job: &JobId,
        run_id: Option<&str>,
    ) -> Result<Begin, RedisError> {
        let mut connection = self.link.connection().await?;
        let answer: Vec<RedisValue> = Script::new(include_str!("begin.lua"))
            .key(key(experiment))
            .key(RUNS)
            .arg(experiment)
            .arg(job.as_str())
            .arg(&self.owner.ledger_id)
            .arg(&self.owner.executor_id)
            .arg(run_id.unwrap_or_default())
            .perform(&mut connection)
            .await?;
        Ok(read_answer(&answer))
    }

    /// What `tools:{name}` says of a tool.
    pub async fn tool_settings(&self, tool: &String) -> Result<ToolSettings, RedisError> {
        let mut connection = self.link.connection().await?;
        let table = tools::tool_table(&mut connection, [tool]).await?;
        Ok(table.get(tool).copied().unwrap_or_default())
    }
}

/// The key of an experiment.
pub fn key(experiment: &str) -> String {
    format!("experiments:{experiment}")
}

/// Lossy text: definitions are not trusted to be UTF-8.
fn text(value: &RedisValue) -> String {
    match value {
        RedisValue::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        RedisValue::SimpleString(text) => text.clone(),
        RedisValue::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

fn read_answer(answer: &[RedisValue]) -> Begin {
    let words: Vec<String> = answer.iter().map(text).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["begun", run_id, "hash", fields @ ..] => Begin::Begun {
            run_id: (*run_id).to_owned(),
            stored: Stored::Hash(
                fields
                    .chunks_exact(2)
                    .map(|pair| (pair[0].to_owned(), pair[1].to_owned()))
                    .collect(),
            ),
        },
        ["begun", run_id, "string", document] => Begin::Begun {
            run_id: (*run_id).to_owned(),
            stored: Stored::Document((*document).to_owned()),
        },
        ["busy", run_id] => Begin::Busy { run_id: (*run_id).to_owned() },
        ["unreadable", kind] => Begin::Unreadable((*kind).to_owned()),
        _ => Begin::Missing,
    }
}

/// A change of state, by compare-and-set.
#[derive(Clone, Copy, Debug)]
pub enum StateChange {
    /// The run began: `running`, whatever stood there.
    Began,
    /// It ended: only `running` becomes this word, or the word that stood before.
    Ended(&'static str),
    /// Its executor is dead: only `running` becomes the word that stood before.
    Lost,
}

/// Changes the state of an experiment, if this run is still the one. Repeating it changes nothing.
pub async fn change_state(
    connection: &mut MultiplexedConnection,
    experiment: &str,
    run_id: &str,
    change: StateChange,
) -> Result<(), RedisError> {
    let script = Script::new(include_str!("state.lua"));
    for _ in 0..TRIES {
        let entry: Option<String> =
            redis::cmd("HGET").arg(RUNS).arg(experiment).query_async(connection).await?;
        let before = entry
            .and_then(|entry| serde_json::from_str::<serde_json::Value>(&entry).ok())
            .and_then(|entry| entry["before"].as_str().map(str::to_owned))
            .unwrap_or_default();
        let (expected, state, keep) = match change {
            StateChange::Began => ("", "running".to_owned(), "keep"),
            StateChange::Ended(word) => ("running", state_after(&before, word), "release"),
            StateChange::Lost if before.is_empty() => ("running", "ready".to_owned(), "release"),
            StateChange::Lost => ("running", before, "release"),
        };
        let document = document_of(connection, experiment).await?;
        let becomes = match &document {
            Some(text) => {
                let now = Stored::Document(text.clone()).state();
                let fits = expected.is_empty() || now == expected;
                fits.then(|| replace_state(text, &state)).flatten().unwrap_or_else(|| text.clone())
            }
            None => String::new(),
        };
        let done: String = script
            .key(key(experiment))
            .key(RUNS)
            .arg(experiment)
            .arg(run_id)
            .arg(expected)
            .arg(&state)
            .arg(keep)
            .arg(document.unwrap_or_default())
            .arg(becomes)
            .perform(connection)
            .await?;
        if done == "done" {
            return Ok(());
        }
    }
    tracing::error!(
        event = "state_not_set",
        experiment_id = experiment,
        run_id,
        "the document keeps changing; its state is left alone"
    );
    Ok(())
}

/// The text of an experiment that is stored as a document.
async fn document_of(
    connection: &mut MultiplexedConnection,
    experiment: &str,
) -> Result<Option<String>, RedisError> {
    let got: Result<Option<Vec<u8>>, RedisError> =
        redis::cmd("GET").arg(key(experiment)).query_async(connection).await;
    match got {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
        // Not UTF-8: no JSON, left as it is.
        got => Ok(got?.and_then(|bytes| String::from_utf8(bytes).ok())),
    }
}
