//! Bytes from outside → a job, or exactly what is wrong with them. Pure.
//!
//! Must not look at the file system or any clock: what it needs to know comes in [`Rules`].

mod fields;
mod target;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::job::{JobId, Refusal, RetryOn, Target, TaskType};
use crate::outcome::error_type;
use fields::{Fault, Fields};

pub use target::is_name;

/// The largest payload taken for a job; of a larger one the first so many bytes are kept.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;

/// The deepest nesting of parameters: what both JSON readers behind us take without trouble.
const MAX_DEPTH: usize = 100;
/// The longest timeout: 30 days.
const MAX_TIMEOUT_SECONDS: f64 = 30.0 * 24.0 * 3600.0;
/// The longest idempotency key and experiment id, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// A job as read: each field checked, none defaulted. [`crate::policy::Defaults::settle`] makes a
/// [`crate::job::NewJob`] of it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its own id.
    pub id: Option<JobId>,
    /// `None` where it names none.
    pub task_type: Option<TaskType>,
    /// `None` for an experiment.
    pub target: Option<Target>,
    /// `{"experiment_id": …}` alone: a durable trigger.
    pub experiment_id: Option<String>,
    /// A JSON object.
    pub parameters: Box<RawValue>,
    /// Over 0, up to 30 days.
    pub timeout: Option<Duration>,
    /// 1–100.
    pub max_attempts: Option<u32>,
    /// 1–9.
    pub priority: Option<u8>,
    /// `all` or `transient`.
    pub retry_on: Option<RetryOn>,
    /// Jobs with the same key run once.
    pub idempotency_key: Option<String>,
    /// Not before.
    pub run_at: Option<Timestamp>,
}

/// What reading needs to know of this installation.
pub struct Rules<'a> {
    /// Allowed top-level packages.
    pub allowed_modules: &'a [String],
    /// Whether a dotted name is a module file (`a/b.py`, or a package `a/b/__init__.py`) under
    /// `TASKS_PATH`: decides where the module ends in a dotted target.
    pub is_module: &'a dyn Fn(&str) -> bool,
}

/// Reads one payload.
pub fn read(bytes: &[u8], rules: &Rules<'_>) -> Result<Draft, Box<Refusal>> {
    if bytes.len() > MAX_PAYLOAD_BYTES {
        let fault =
            Fault::payload("it is larger than 1 MiB; put large data where the job can fetch it");
        return Err(refusal(fault, None));
    }
    let fields = Fields::read(bytes).map_err(|fault| refusal(fault, None))?;
    read_fields(&fields, rules).map_err(|fault| refusal(fault, Some(&fields)))
}

/// Reads a target in any spelling of SPEC 2.
pub fn read_target(text: &str, rules: &Rules<'_>) -> Result<Target, Box<Refusal>> {
    target::read(text, rules).map_err(|fault| refusal(fault, None))
}

fn read_fields(fields: &Fields<'_>, rules: &Rules<'_>) -> Result<Draft, Fault> {
    let id = fields.id()?;
    let experiment_id = fields.text("experiment_id", MAX_KEY_BYTES)?;
    let target = target::read_fields(fields, rules)?;
    match (&target, &experiment_id) {
        (None, None) => {
            return Err(Fault::payload(
                "it names nothing to run: give module_path and method_name, or target, or experiment_id",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(Fault::payload(
                "it has experiment_id and a target: an experiment brings its own; leave one out",
            ));
        }
        _ => {}
    }
    Ok(Draft {
        id,
        task_type: fields.task_type()?,
        target,
        experiment_id,
        parameters: fields.parameters(MAX_DEPTH)?,
        timeout: fields.timeout(MAX_TIMEOUT_SECONDS)?,
        max_attempts: fields.integer("max_attempts", 1, 100)?,
        priority: fields.integer("priority", 1, 9)?.and_then(|n| u8::try_from(n).ok()),
        retry_on: fields.retry_on()?,
        idempotency_key: fields.text("idempotency_key", MAX_KEY_BYTES)?,
        run_at: fields.run_at()?,
    })
}

/// A fault with what could be read of the payload all the same.
fn refusal(fault: Fault, fields: Option<&Fields<'_>>) -> Box<Refusal> {
    let (error_type, error) = match fault {
        Fault::Payload(error) => (error_type::PAYLOAD, error),
        Fault::NotAllowed(error) => (error_type::NOT_ALLOWED, error),
    };
    Box::new(Refusal {
        id: fields.and_then(|fields| fields.id().ok().flatten()),
        error_type: error_type.to_owned(),
        error,
        experiment_id: fields
            .and_then(|fields| fields.text("experiment_id", MAX_KEY_BYTES).ok().flatten()),
        task_type: fields.and_then(|fields| fields.task_type().ok().flatten()),
        target: None,
    })
}
