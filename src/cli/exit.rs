//! The exit codes of `run` and `submit --wait` (SPEC 2). Pure; only `main` exits.

use crate::outcome::error_type;

/// The job completed.
pub(super) const OK: u8 = 0;
/// Any failure without a code of its own.
pub(super) const FAILED: u8 = 1;
/// Used wrongly, wrong parameters too.
pub(super) const USAGE: u8 = 2;
/// No such tool, module or experiment.
pub(super) const NOT_FOUND: u8 = 66;
/// Outside the allow-list.
pub(super) const NOT_ALLOWED: u8 = 77;
/// Ran past its time.
pub(super) const TIMED_OUT: u8 = 124;
/// Killed by a limit or a signal.
pub(super) const KILLED: u8 = 137;

/// The code for a failed job, from its `error_type` and `error`: a crash is told by its words, for
/// Redis shows no more of it. One without a signal (the process left without a result) is an
/// ordinary failure.
pub(super) fn of_failure(error_type: &str, error: &str) -> u8 {
    let by_signal = error.contains("signal") || error.starts_with("killed");
    match error_type {
        error_type::PARAMETERS => USAGE,
        error_type::NOT_FOUND | error_type::EXPERIMENT_NOT_FOUND => NOT_FOUND,
        error_type::NOT_ALLOWED => NOT_ALLOWED,
        error_type::TIMEOUT => TIMED_OUT,
        error_type::MEMORY | error_type::CPU | error_type::PROCESSES => KILLED,
        error_type::CRASHED if by_signal => KILLED,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::of_failure;

    #[test]
    fn every_error_type_has_the_code_of_the_contract() {
        let table = [
            ("InvalidParametersError", "", 2),
            ("ToolNotFoundError", "", 66),
            ("ExperimentNotFoundError", "", 66),
            ("ModuleNotAllowedError", "", 77),
            ("ToolTimeoutError", "", 124),
            ("MemoryLimitError", "", 137),
            ("CpuLimitError", "", 137),
            ("ProcessLimitError", "", 137),
            ("CrashedError", "died by signal 11 (SIGSEGV)", 137),
            ("CrashedError", "killed from outside, perhaps out of memory", 137),
            ("CrashedError", "left without a result (exit code 3)", 1),
            ("CancelledError", "", 1),
            ("ValueError", "signal", 1),
        ];
        for (error_type, error, code) in table {
            assert_eq!(of_failure(error_type, error), code, "{error_type} {error}");
        }
    }
}
