//! What each part is told of the settings. Pure.

use std::path::PathBuf;

use super::ServeError;
use crate::config::Settings;
use crate::ledger::{self, Outbox};
use crate::slots;

/// The states in which experiments start by themselves: those of the mode, narrowed if so set.
pub(super) fn eligible(settings: &Settings, of_mode: &[&str]) -> Vec<String> {
    let allowed = |state: &&str| {
        settings.eligible_states.as_ref().is_none_or(|states| states.iter().any(|s| s == state))
    };
    of_mode.iter().filter(|state| allowed(state)).map(|state| (*state).to_owned()).collect()
}

pub(super) fn ledger_options(settings: &Settings) -> ledger::Options {
    ledger::Options {
        path: settings.ledger_path.clone(),
        executor_id: settings.executor_id.clone(),
        start_method: settings.python.start_method,
        outbox: if settings.redis.is_some() { Outbox::Kept } else { Outbox::Off },
    }
}

/// How slots are set up for these settings, with their private directory beside the ledger.
pub(super) fn slot_options(settings: &Settings) -> Result<slots::Options, ServeError> {
    let launcher = std::env::current_exe()
        .map_err(|source| ServeError::System { what: "our own program cannot be found", source })?;
    Ok(options_in(settings, launcher, slots::runtime_dir(&settings.ledger_path)))
}

/// How slots are set up for these settings.
pub fn options_in(settings: &Settings, launcher: PathBuf, runtime_dir: PathBuf) -> slots::Options {
    slots::Options {
        launcher,
        slots: settings.concurrency,
        interpreter: settings.python.interpreter.clone(),
        start_method: settings.python.start_method,
        preload: settings.python.preload.clone(),
        environment: settings.python.run_environment.clone(),
        allowed_modules: settings.python.allowed_modules.clone(),
        tasks_path: settings.python.tasks_path.clone(),
        tools_path: settings.python.tools_path.clone(),
        runtime_dir,
        limits: settings.limits,
        kill_grace: settings.kill_grace,
        result_max_bytes: settings.result_max_bytes,
        log_tail_bytes: settings.log_tail_bytes,
    }
}
