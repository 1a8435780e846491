//! What every door does with a payload: read it, settle its defaults, hand it to the ledger.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Settings;
use crate::experiments::tools::ToolTable;
use crate::job::{Refusal, Source, Target};
use crate::ledger::{Accepted, Arrival};
use crate::outcome::error_type;
use crate::payload::{self, Draft, MAX_PAYLOAD_BYTES, Rules};
use crate::policy::Defaults;

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

    /// Reads a target as people type it.
    pub fn read_target(&self, text: &str) -> Result<Target, Box<Refusal>> {
        self.with_rules(|rules| payload::read_target(text, rules))
    }

    fn with_rules<T>(&self, act: impl FnOnce(&Rules<'_>) -> T) -> T {
        let is_module = |name: &str| is_module(&self.tasks_path, name);
        act(&Rules { allowed_modules: &self.allowed_modules, is_module: &is_module })
    }

    /// Reads one payload.
    pub fn read(&self, bytes: &[u8]) -> Result<Draft, Box<Refusal>> {
        self.with_rules(|rules| payload::read(bytes, rules))
    }

    /// Reads what came on a trigger channel: it must name an experiment, and nothing else to run.
    pub fn read_trigger(&self, bytes: &[u8]) -> Result<Draft, Box<Refusal>> {
        let draft = self.read(bytes)?;
        if draft.experiment_id.is_some() {
            return Ok(draft);
        }
        Err(Box::new(Refusal {
            id: draft.id,
            error_type: error_type::PAYLOAD.to_owned(),
            error: "a trigger must name an experiment: {\"experiment_id\": \"…\"}".to_owned(),
            experiment_id: None,
            task_type: draft.task_type,
            target: None,
        }))
    }

    /// A payload with what was read of it, ready for the ledger.
    pub fn arrival(
        &self,
        receipt: Option<String>,
        source: Source,
        payload: &[u8],
        draft: Result<Draft, Box<Refusal>>,
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
