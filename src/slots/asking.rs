//! What a run is asked, and what it already has when it is.

use std::time::Duration;

use super::slot::{Process, Slot};
use super::watching::{self, Baseline};
use super::{Action, Run, Setup, proc};
use crate::frame::Request;
use crate::job::StartMethod;

/// What the run has before its request, which is not its own doing.
pub(super) fn baseline(setup: &Setup, slot: &Slot, process: &Process) -> Baseline {
    let forked = setup.options.start_method == StartMethod::Forkserver;
    let limited = setup.options.limits.memory_bytes.is_some();
    // Forks of one slot are alike, so that one of them can stand for all where nothing hangs on it.
    let memory =
        if forked && !limited { slot.inherited() } else { proc::memory_at_birth(process.pid) };
    let has_worked = if forked { process.rehearsed } else { process.parked };
    Baseline {
        memory,
        cpu: if has_worked { watching::cpu_of(process.pid) } else { Duration::ZERO },
        inherited: if forked { memory.anonymous } else { 0 },
    }
}

/// The request of one run.
pub(super) fn request<'r>(run: &'r Run, tmp: &'r str) -> Request<'r> {
    Request {
        job_id: run.job_id.as_str(),
        attempt: run.attempt,
        run_id: run.run_id.as_deref(),
        experiment_id: run.experiment_id.as_deref(),
        tmp,
        check: run.action == Action::Check,
        target: &run.target,
        parameters: &run.parameters,
    }
}
