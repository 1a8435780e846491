//! Steering by people: cancel and retry.

use rusqlite::params;

use super::accept::{ByKey, FOLLOWS, READY, status_at};
use super::store::Batch;
use super::{Cancelled, LedgerError, Retried};
use crate::job::{JobId, Status};
use crate::outcome::error_type;

impl Batch<'_> {
    fn standing(&self, id: &JobId) -> Result<Option<(i64, Status)>, LedgerError> {
        let sql = "SELECT seq, status FROM jobs WHERE id = ?";
        self.row(sql, [id.as_str()], |row| Ok((row.get(0)?, status_at(row, 1)?)))
    }

    pub(super) fn cancel(&mut self, id: &JobId) -> Result<Cancelled, LedgerError> {
        let Some((seq, status)) = self.standing(id)? else { return Ok(Cancelled::Unknown) };
        match status {
            Status::Running => return Ok(Cancelled::Running),
            Status::Completed | Status::Failed => return Ok(Cancelled::Ended(status)),
            Status::Queued => {}
        }
        let sql = "UPDATE jobs SET status = 'FAILED', finished_at = ?, error_type = ?, error = ?,
                traceback = ? WHERE seq = ? AND status = 'QUEUED'";
        self.conn.prepare_cached(sql)?.execute(params![
            self.now_text,
            error_type::CANCELLED,
            "cancelled while it waited",
            "no traceback: it was cancelled while it waited, nothing was running",
            seq,
        ])?;
        self.effects.waiting -= 1;
        self.ended(seq, id, Status::Failed)?;
        Ok(Cancelled::Waiting)
    }

    pub(super) fn retry(&mut self, id: &JobId) -> Result<Retried, LedgerError> {
        let Some((seq, status)) = self.standing(id)? else { return Ok(Retried::Unknown) };
        if status != Status::Failed {
            return Ok(Retried::NotFailed(status));
        }
        let sql = "SELECT parameters IS NOT NULL, idempotency_key FROM jobs WHERE seq = ?";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?));
        match self.row(sql, [seq], read)? {
            Some((true, key)) => self.queue_again(seq, key).map(|()| Retried::Queued),
            _ => Ok(Retried::NotAJob),
        }
    }

    /// FAILED → QUEUED. Its key counts again: it may follow another job, or take over a result.
    fn queue_again(&mut self, seq: i64, key: Option<String>) -> Result<(), LedgerError> {
        let by_key = key.map_or(Ok(ByKey::Runs), |key| self.by_key(&key, Some(seq)))?;
        let (ready, duplicate_of) = match &by_key {
            ByKey::Runs => (READY, None),
            ByKey::Done(leader) | ByKey::Follows(leader) => (FOLLOWS, Some(leader)),
        };
        let sql = "UPDATE jobs SET status = 'QUEUED', finished_at = NULL, failures = 0,
                interruptions = 0, run_at = NULL, run_id = NULL, run_started_at = NULL,
                error_type = NULL, error = NULL, traceback = NULL, partial_results = NULL,
                ready = ?1, duplicate = CASE WHEN ?2 IS NULL THEN duplicate ELSE 1 END,
                duplicate_of = coalesce(?2, duplicate_of)
            WHERE seq = ?3 AND status = 'FAILED'";
        self.conn.prepare_cached(sql)?.execute(params![ready, duplicate_of, seq])?;
        if let ByKey::Done(leader) = by_key {
            let sql =
                "UPDATE jobs SET status = 'COMPLETED', finished_at = ?, ready = 1 WHERE seq = ?";
            self.conn.prepare_cached(sql)?.execute(params![self.now_text, seq])?;
            self.take_over_result(seq, &leader)?;
            return self.tell_job(seq);
        }
        self.queued_again(seq);
        Ok(())
    }

    pub(super) fn retry_failed(&mut self) -> Result<u64, LedgerError> {
        let sql = "SELECT seq, idempotency_key FROM jobs
            WHERE status = 'FAILED' AND parameters IS NOT NULL ORDER BY seq";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let failed: Vec<(i64, Option<String>)> = rows.collect::<Result<_, _>>()?;
        let count = failed.len();
        for (seq, key) in failed {
            self.queue_again(seq, key)?;
        }
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }
}
