//! What the ledger records of an experiment's run, and the messages that tell of it.

use rusqlite::params;

use super::accept::columns;
use super::store::Batch;
use super::{LedgerError, Outbox, OutboxKind, RunStart};
use crate::job::Claim;

/// What a message about an ended run says.
const ENDED: &str = "json_object('experiment_id', experiment_id, 'run_id', run_id, 'job_id', id,
    'status', status, 'started_at', run_started_at, 'finished_at', finished_at, 'attempts', attempts,
    'result', json(result), 'result_truncated', result_truncated, 'error_type', error_type,
    'error', error, 'traceback', traceback, 'partial_results', json(partial_results))";

impl Batch<'_> {
    pub(super) fn begin_run(&mut self, claim: &Claim, run: &RunStart) -> Result<(), LedgerError> {
        let (module, class, function, tool) = columns(run.target.as_ref());
        let sql = "UPDATE jobs SET module_path = ?, class_name = ?, method_name = ?, tool = ?,
                parameters = ?, timeout_seconds = ?, max_attempts = ?,
                run_started_at = CASE WHEN run_id IS ?8 THEN run_started_at ELSE ?9 END, run_id = ?8
            WHERE seq = ?10 AND attempts = ?11 AND status = 'RUNNING' AND executor_id = ?12";
        let changed = self.conn.prepare_cached(sql)?.execute(params![
            module,
            class,
            function,
            tool,
            run.parameters.get(),
            run.timeout.as_secs_f64(),
            run.max_attempts,
            run.run_id,
            self.now_text,
            claim.seq,
            claim.attempt,
            self.options.executor_id,
        ])?;
        if changed != 1 {
            return Err(LedgerError::NotRunning { id: claim.id.clone(), attempt: claim.attempt });
        }
        let body = "json_object('experiment_id', experiment_id, 'run_id', run_id, 'job_id', id,
            'started_at', run_started_at, 'attempts', attempts)";
        self.tell_run(claim.seq, OutboxKind::RunBegan, body)
    }

    /// Tells that an experiment's job has ended; nothing for other jobs.
    pub(super) fn tell_run_ended(&mut self, seq: i64) -> Result<(), LedgerError> {
        let sql = "SELECT 1 FROM jobs WHERE seq = ? AND experiment_id IS NOT NULL";
        if self.conn.prepare_cached(sql)?.exists([seq])? {
            self.tell_run(seq, OutboxKind::RunEnded, ENDED)?;
        }
        Ok(())
    }

    /// Tells that what came through an experiment's door was no experiment.
    pub(super) fn tell_refused_experiment(&mut self, seq: i64) -> Result<(), LedgerError> {
        self.tell_run(seq, OutboxKind::RunEnded, ENDED)
    }

    fn tell_run(&mut self, seq: i64, kind: OutboxKind, body: &str) -> Result<(), LedgerError> {
        if self.options.outbox == Outbox::Off {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO outbox (kind, subject, body)
             SELECT ?2, coalesce(experiment_id, id), {body} FROM jobs WHERE seq = ?1"
        );
        self.conn.prepare_cached(&sql)?.execute(params![seq, kind.as_str()])?;
        self.effects.told = true;
        Ok(())
    }
}
