//! What every door does with a payload: read it, settle its defaults, hand it to the ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use crate::config::Settings;
use crate::job::{Refusal, Source, Target};
use crate::ledger::{Accepted, Arrival};
use crate::payload::{self, Draft, MAX_PAYLOAD_BYTES, Rules};
use crate::policy::{Defaults, ToolSettings};

/// What `tools:{name}` says, by name, for a batch.
pub type ToolTable = BTreeMap<String, ToolSettings>;

/// The rules of this installation, for every door.
#[derive(Clone, Debug)]
pub struct Intake {
    allowed_modules: Arc<[String]>,
    tasks_path: PathBuf,
    defaults: Arc<Defaults>,
}

impl Intake {
    /// Takes what matters from the settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            allowed_modules: settings.python.allowed_modules.clone().into(),
            tasks_path: settings.python.tasks_path.clone(),
            defaults: Arc::new(Defaults::new(settings)),
        }
    }

    /// The defaults jobs get.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Reads one payload.
    pub fn read(&self, bytes: &[u8]) -> Result<Draft, Refusal> {
        let is_module = |name: &str| is_module(&self.tasks_path, name);
        payload::read(
            bytes,
            &Rules { allowed_modules: &self.allowed_modules, is_module: &is_module },
        )
    }

    /// A payload with what was read of it, ready for the ledger.
    pub fn arrival(
        &self,
        receipt: Option<String>,
        source: Source,
        payload: &[u8],
        draft: Result<Draft, Refusal>,
        tools: &ToolTable,
    ) -> Arrival {
        let job = draft.map(|draft| {
            let tool = match &draft.target {
                Some(Target::Tool(name)) => tools.get(name),
                _ => None,
            };
            self.defaults.settle(draft, tool)
        });
        let kept = &payload[..payload.len().min(MAX_PAYLOAD_BYTES)];
        Arrival { receipt, source, payload: kept.into(), job }
    }
}

/// Whether a dotted name is a module file under the tasks' root.
fn is_module(root: &Path, name: &str) -> bool {
    let path = root.join(name.replace('.', "/"));
    path.with_extension("py").is_file() || path.join("__init__.py").is_file()
}

/// Asks Redis what `tools:{name}` says of each tool; a tool of which it says nothing readable has
/// no entry.
pub async fn tool_table(
    connection: &mut MultiplexedConnection,
    names: impl IntoIterator<Item = &String>,
) -> Result<ToolTable, redis::RedisError> {
    let mut table = ToolTable::new();
    for name in names {
        if table.contains_key(name) {
            continue;
        }
        let key = format!("tools:{name}");
        let found: Result<BTreeMap<String, String>, redis::RedisError> =
            redis::cmd("HGETALL").arg(&key).query_async(connection).await;
        let fields = match found {
            Ok(fields) => fields,
            Err(error) if error.code() == Some("WRONGTYPE") => {
                tracing::warn!(event = "tool_settings_unreadable", key, error = %error, "ignored");
                continue;
            }
            Err(error) => return Err(error),
        };
        table.insert(name.clone(), tool_settings(&key, &fields));
    }
    Ok(table)
}

fn tool_settings(key: &str, fields: &BTreeMap<String, String>) -> ToolSettings {
    let unreadable = |field: &str, value: &str| {
        tracing::warn!(event = "tool_settings_unreadable", key, field, value, "ignored");
    };
    let timeout = fields.get("timeout").and_then(|text| {
        let timeout = seconds(text);
        if timeout.is_none() {
            unreadable("timeout", text);
        }
        timeout
    });
    let max_attempts = fields.get("max_attempts").and_then(|text| {
        let attempts = text.parse().ok().filter(|n| (1..=100).contains(n));
        if attempts.is_none() {
            unreadable("max_attempts", text);
        }
        attempts
    });
    ToolSettings { timeout, max_attempts }
}

/// A timeout in seconds, over 0 and up to 30 days.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    (seconds > 0.0 && seconds <= 2_592_000.0)
        .then(|| Duration::try_from_secs_f64(seconds).ok())
        .flatten()
        .filter(|timeout| !timeout.is_zero())
}

/// Says in the log what became of arrivals that need a word.
pub fn tell(arrivals: &[Arrival], accepted: &[Accepted]) {
    for (arrival, accepted) in arrivals.iter().zip(accepted) {
        if accepted.repeated {
            continue;
        }
        match &arrival.job {
            Err(refusal) => tracing::warn!(
                event = "bad_payload",
                job_id = %accepted.id,
                source = %arrival.source,
                status = "FAILED",
                error_type = refusal.error_type,
                error = refusal.error,
                traceback = "no traceback: it was refused before anything ran",
                "kept as a FAILED row"
            ),
            Ok(job) => {
                if let Some(warning) = &job.warning {
                    tracing::warn!(event = "task_type_missing", job_id = %accepted.id, source = %arrival.source, "{warning}");
                }
                if let Some(other) = &accepted.duplicate_of {
                    tracing::warn!(event = "job_duplicate", job_id = %accepted.id, duplicate_of = %other, status = %accepted.status, "a job like it is known");
                }
                tracing::debug!(event = "job_accepted", job_id = %accepted.id, source = %arrival.source, status = %accepted.status, "written down");
            }
        }
    }
}
