//! What a past life left RUNNING, at the start of a new one.
//!
//! Whoever holds the ledger's lock owns every RUNNING row: their processes ended with the executor
//! that had them.

use rusqlite::params;

use super::accept::{READY, id_at};
use super::store::{Batch, Store};
use super::{LedgerError, Recovered};
use crate::clock;
use crate::job::{JobId, Status};
use crate::outcome::error_type;

/// So many deaths under one job, and it is not run again: perhaps it is what kills us.
const MOST_DEATHS: u32 = 5;

impl Store {
    /// Puts back what was RUNNING, not counted as its failure.
    pub(super) fn recover(&mut self) -> Result<Recovered, LedgerError> {
        failpoint!("recover.before", crate::failpoint::disk_full().into());
        let mut batch = self.begin(clock::now())?;
        let recovered = batch.guarded(Batch::recover)?;
        batch.commit().map_err(LedgerError::Commit)?;
        self.sync()?;
        failpoint!("recover.after");
        Ok(recovered)
    }
}

impl Batch<'_> {
    fn recover(&mut self) -> Result<Recovered, LedgerError> {
        let mut recovered = Recovered::default();
        let sql = "SELECT seq, id, interruptions FROM jobs WHERE status = 'RUNNING' ORDER BY seq";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, id_at(row, 1)?, row.get::<_, u32>(2)?)))?;
        let running: Vec<(i64, JobId, u32)> = rows.collect::<Result<_, _>>()?;
        for (seq, id, interruptions) in running {
            self.close_lost_attempt(&id)?;
            failpoint!("recover.between", crate::failpoint::disk_full().into());
            if interruptions + 1 >= MOST_DEATHS {
                self.give_up(seq, &id)?;
                recovered.lost += 1;
            } else {
                let sql = "UPDATE jobs SET status = 'QUEUED', interruptions = interruptions + 1,
                    ready = ? WHERE seq = ? AND status = 'RUNNING'";
                self.conn.prepare_cached(sql)?.execute(params![READY, seq])?;
                self.queued_again(seq);
                recovered.put_back += 1;
            }
        }
        Ok(recovered)
    }

    fn close_lost_attempt(&self, id: &JobId) -> Result<(), LedgerError> {
        let sql = "UPDATE attempts SET outcome = 'lost', finished_at = ?, error_type = ?, error = ?
            WHERE job_id = ? AND finished_at IS NULL";
        self.conn.prepare_cached(sql)?.execute(params![
            self.now_text,
            error_type::EXECUTOR_LOST,
            "the executor died while it ran",
            id.as_str(),
        ])?;
        Ok(())
    }

    fn give_up(&mut self, seq: i64, id: &JobId) -> Result<(), LedgerError> {
        let sql = "UPDATE jobs SET status = 'FAILED', interruptions = interruptions + 1,
                finished_at = ?, error_type = ?, error = ?, traceback = ?
            WHERE seq = ? AND status = 'RUNNING'";
        self.conn.prepare_cached(sql)?.execute(params![
            self.now_text,
            error_type::EXECUTOR_LOST,
            format!("the executor died {MOST_DEATHS} times while it ran; it is not run again"),
            "no traceback: the executor that ran it died, and its output with it",
            seq,
        ])?;
        self.ended(seq, id, Status::Failed)
    }
}
