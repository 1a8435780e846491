//! Claiming: which waiting job starts next, and its transition to RUNNING.

use std::time::Duration;

use rusqlite::params;
use serde_json::value::RawValue;

use super::LedgerError;
use super::accept::{READY, id_at};
use super::store::Batch;
use crate::clock;
use crate::job::{Claim, JobId, RetryOn, Source, Target, TaskType};

/// Every so many starts the oldest waiting job goes first, whatever its priority: none starves.
const OLDEST_EVERY: u64 = 10;

/// What is read of a job to run it.
const COLUMNS: &str = "seq, id, source, task_type, experiment_id, run_id, module_path, class_name,
    method_name, tool, parameters, attempts, failures, max_attempts, retry_on, timeout_seconds,
    created_at";

/// An experiment that is running here is not started a second time.
const STARTABLE: &str = "status = 'QUEUED' AND ready = 1 AND (experiment_id IS NULL OR NOT EXISTS
    (SELECT 1 FROM jobs r WHERE r.status = 'RUNNING' AND r.experiment_id = jobs.experiment_id))";

impl Batch<'_> {
    /// Claims up to `demand` due jobs.
    pub(super) fn claim(&mut self, demand: u32) -> Result<Vec<Claim>, LedgerError> {
        if demand == 0 {
            return Ok(Vec::new());
        }
        self.promote_due()?;
        let mut claims = Vec::new();
        while claims.len() < demand as usize {
            match self.claim_next()? {
                Some(claim) => claims.push(claim),
                None => break,
            }
        }
        Ok(claims)
    }

    /// Makes claimable what was waiting for its time.
    fn promote_due(&self) -> Result<(), LedgerError> {
        let sql =
            "UPDATE jobs SET ready = ?1 WHERE status = 'QUEUED' AND ready = 0 AND run_at <= ?2";
        self.conn.prepare_cached(sql)?.execute(params![READY, self.now_text])?;
        failpoint!("retry.promote", crate::failpoint::disk_full().into());
        Ok(())
    }

    fn claim_next(&mut self) -> Result<Option<Claim>, LedgerError> {
        let oldest = (*self.starts + 1).is_multiple_of(OLDEST_EVERY);
        let order = if oldest { "seq" } else { "priority DESC, seq" };
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE {STARTABLE} ORDER BY {order} LIMIT 1");
        let Some(mut claim) = self.row(&sql, [], read_claim)? else {
            return Ok(None);
        };
        let sql =
            "UPDATE jobs SET status = 'RUNNING', attempts = ?1, executor_id = ?2, started_at = ?3
            WHERE seq = ?4 AND status = 'QUEUED' AND attempts = ?1 - 1";
        let changed = self.conn.prepare_cached(sql)?.execute(params![
            claim.attempt,
            self.options.executor_id,
            self.now_text,
            claim.seq,
        ])?;
        if changed != 1 {
            return Err(LedgerError::NotRunning { id: claim.id, attempt: claim.attempt });
        }
        failpoint!("claim.before", crate::failpoint::disk_full().into());
        self.begin_attempt(&claim.id, claim.attempt)?;
        claim.claimed_at = self.now;
        self.effects.waiting -= 1;
        self.tell_job(claim.seq)?;
        failpoint!("claim.after", crate::failpoint::disk_full().into());
        Ok(Some(claim))
    }

    /// Whether jobs that arrive now may be born RUNNING: all of them or none, and only if none waits, so that none
    /// goes before another that should.
    pub(super) fn may_start(&self, arriving: usize) -> Result<bool, LedgerError> {
        let left = (self.free as usize).saturating_sub(self.effects.started.len());
        if left == 0 || arriving > left {
            return Ok(false);
        }
        let sql = "SELECT 1 FROM jobs WHERE status = 'QUEUED' AND ready = 1
            UNION ALL SELECT 1 FROM jobs WHERE status = 'QUEUED' AND ready = 0 AND run_at <= ?";
        Ok(!self.conn.prepare_cached(sql)?.exists([&self.now_text])?)
    }

    /// The record of a start.
    pub(super) fn begin_attempt(&mut self, id: &JobId, attempt: u32) -> Result<(), LedgerError> {
        let sql = "INSERT INTO attempts (job_id, attempt, executor_id, start_method, started_at)
            VALUES (?, ?, ?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![
            id.as_str(),
            attempt,
            self.options.executor_id,
            self.options.start_method.as_str(),
            self.now_text,
        ])?;
        *self.starts += 1;
        Ok(())
    }
}

fn read_claim(row: &rusqlite::Row<'_>) -> rusqlite::Result<Claim> {
    let word = |column: usize| row.get::<_, String>(column);
    let target = match (row.get(6)?, row.get(8)?, row.get(9)?) {
        (_, _, Some(tool)) => Some(Target::Tool(tool)),
        (Some(module), Some(function), None) => {
            Some(Target::Callable { module, class: row.get(7)?, function })
        }
        _ => None,
    };
    let parameters = row.get::<_, Option<String>>(10)?.unwrap_or_else(|| "{}".into());
    let created_at = clock::parse(&word(16)?).unwrap_or_else(clock::now);
    Ok(Claim {
        seq: row.get(0)?,
        id: id_at(row, 1)?,
        source: Source::from_word(&word(2)?).unwrap_or(Source::Queue),
        target,
        parameters: RawValue::from_string(parameters).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        task_type: row.get::<_, Option<String>>(3)?.as_deref().and_then(TaskType::from_word),
        experiment_id: row.get(4)?,
        run_id: row.get(5)?,
        attempt: row.get::<_, u32>(11)? + 1,
        failures: row.get(12)?,
        max_attempts: row.get(13)?,
        retry_on: RetryOn::from_word(&word(14)?).unwrap_or(RetryOn::All),
        timeout: Duration::from_secs_f64(row.get(15)?),
        created_at,
        claimed_at: created_at,
    })
}
