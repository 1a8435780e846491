//! The record of an attempt's end, and what becomes of its job and of those that follow it.

use rusqlite::params;

use super::accept::{FOLLOWS, LATER, READY};
use super::store::Batch;
use super::{Finish, LedgerError};
use crate::clock::{self, Timestamp};
use crate::job::{Claim, JobId, Status};
use crate::outcome::{Cause, Exit, Failure, Outcome, Report, Success};
use crate::policy::Disposition;

impl Batch<'_> {
    pub(super) fn started(&self, id: &JobId, attempt: u32, pid: u32) -> Result<(), LedgerError> {
        let sql = "UPDATE attempts SET pid = ? WHERE job_id = ? AND attempt = ?";
        self.conn.prepare_cached(sql)?.execute(params![pid, id.as_str(), attempt])?;
        Ok(())
    }

    pub(super) fn finish(&mut self, finish: &Finish) -> Result<(), LedgerError> {
        let Finish { claim, report, disposition, .. } = finish;
        self.close_attempt(claim, report)?;
        failpoint!("finish.closed", crate::failpoint::disk_full().into());
        match *disposition {
            Disposition::Complete => self.complete(claim, &report.outcome),
            Disposition::Fail => self.fail(claim, &report.outcome),
            Disposition::RetryAt(at) => self.put_off(claim, &report.outcome, Some(at), 1),
            Disposition::PutBack(at) => self.put_off(claim, &report.outcome, at, 0),
        }
    }

    fn close_attempt(&self, claim: &Claim, report: &Report) -> Result<(), LedgerError> {
        let failure = failure_of(&report.outcome);
        let (code, signal) = match report.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let sql = "UPDATE attempts SET pid = coalesce(?, pid), start_method = ?, finished_at = ?,
                outcome = ?, error_type = ?, error = ?, traceback = ?, exit_code = ?, signal = ?,
                cpu_seconds = ?, max_rss_bytes = ?, survivors_killed = ?, log_tail = ?, log_bytes = ?
            WHERE job_id = ? AND attempt = ? AND finished_at IS NULL";
        let changed = self.conn.prepare_cached(sql)?.execute(params![
            report.pid,
            report.start_method.as_str(),
            clock::text(report.finished_at),
            report.outcome.word(),
            failure.map(|f| &f.error_type),
            failure.map(|f| &f.error).or(not_started(&report.outcome)),
            failure.map(|f| &f.traceback),
            code,
            signal,
            report.usage.cpu_seconds,
            i64::try_from(report.usage.max_rss_bytes).unwrap_or(i64::MAX),
            report.survivors_killed,
            report.log_tail,
            i64::try_from(report.log_bytes).unwrap_or(i64::MAX),
            claim.id.as_str(),
            claim.attempt,
        ])?;
        self.must_be_one(changed, claim)
    }

    fn complete(&mut self, claim: &Claim, outcome: &Outcome) -> Result<(), LedgerError> {
        let Outcome::Succeeded(Success { value, bytes, truncated }) = outcome else {
            return Err(LedgerError::NotRunning { id: claim.id.clone(), attempt: claim.attempt });
        };
        let sql =
            "UPDATE jobs SET status = 'COMPLETED', finished_at = ?, result = ?, result_bytes = ?,
                result_truncated = ?, error_type = NULL, error = NULL, traceback = NULL,
                partial_results = NULL
            WHERE seq = ? AND attempts = ? AND status = 'RUNNING' AND executor_id = ?";
        let changed = self.conn.prepare_cached(sql)?.execute(params![
            self.now_text,
            value.get(),
            i64::try_from(*bytes).unwrap_or(i64::MAX),
            truncated,
            claim.seq,
            claim.attempt,
            self.options.executor_id,
        ])?;
        self.must_be_one(changed, claim)?;
        self.ended(claim.seq, &claim.id, Status::Completed)
    }

    fn fail(&mut self, claim: &Claim, outcome: &Outcome) -> Result<(), LedgerError> {
        let failure = failure_of(outcome);
        let counted =
            failure.is_some_and(|f| !matches!(f.cause, Cause::Cancelled | Cause::Shutdown));
        let sql = "UPDATE jobs SET status = 'FAILED', finished_at = ?, failures = failures + ?,
                error_type = ?, error = ?, traceback = ?, partial_results = ?
            WHERE seq = ? AND attempts = ? AND status = 'RUNNING' AND executor_id = ?";
        let changed = self.conn.prepare_cached(sql)?.execute(params![
            self.now_text,
            counted,
            failure.map_or("NotStarted", |f| &f.error_type),
            failure.map(|f| &f.error).or(not_started(outcome)),
            failure.map(|f| &f.traceback),
            partial(failure),
            claim.seq,
            claim.attempt,
            self.options.executor_id,
        ])?;
        self.must_be_one(changed, claim)?;
        self.ended(claim.seq, &claim.id, Status::Failed)
    }

    /// QUEUED again: at once, or from `at` on; counted as a failure or not.
    fn put_off(
        &mut self,
        claim: &Claim,
        outcome: &Outcome,
        at: Option<Timestamp>,
        failures: u32,
    ) -> Result<(), LedgerError> {
        let failure = failure_of(outcome);
        let sql =
            "UPDATE jobs SET status = 'QUEUED', failures = failures + ?, ready = ?, run_at = ?,
                error_type = ?, error = ?, traceback = ?, partial_results = ?
            WHERE seq = ? AND attempts = ? AND status = 'RUNNING' AND executor_id = ?";
        let changed = self.conn.prepare_cached(sql)?.execute(params![
            failures,
            self.readiness(at),
            at.map(clock::text),
            failure.map(|f| &f.error_type),
            failure.map(|f| &f.error).or(not_started(outcome)),
            failure.map(|f| &f.traceback),
            partial(failure),
            claim.seq,
            claim.attempt,
            self.options.executor_id,
        ])?;
        self.must_be_one(changed, claim)?;
        failpoint!("retry.put_off", crate::failpoint::disk_full().into());
        self.queued_again(claim.seq);
        Ok(())
    }

    pub(super) fn unclaim(
        &mut self,
        claim: &Claim,
        until: Option<Timestamp>,
    ) -> Result<(), LedgerError> {
        let sql =
            "UPDATE jobs SET status = 'QUEUED', attempts = attempts - 1, ready = ?, run_at = ?
            WHERE seq = ? AND attempts = ? AND status = 'RUNNING' AND executor_id = ?";
        let changed = self.conn.prepare_cached(sql)?.execute(params![
            self.readiness(until),
            until.map(clock::text),
            claim.seq,
            claim.attempt,
            self.options.executor_id,
        ])?;
        self.must_be_one(changed, claim)?;
        let sql = "DELETE FROM attempts WHERE job_id = ? AND attempt = ?";
        self.conn.prepare_cached(sql)?.execute(params![claim.id.as_str(), claim.attempt])?;
        self.queued_again(claim.seq);
        Ok(())
    }

    pub(super) fn readiness(&self, at: Option<Timestamp>) -> i64 {
        if at.is_some_and(|at| at > self.now) { LATER } else { READY }
    }

    pub(super) fn queued_again(&mut self, seq: i64) {
        self.effects.waiting += 1;
        self.effects.queued.push(seq);
    }

    /// A job has just ended: tells it, and settles those that followed it.
    pub(super) fn ended(
        &mut self,
        seq: i64,
        id: &JobId,
        status: Status,
    ) -> Result<(), LedgerError> {
        failpoint!("finish.tell", crate::failpoint::disk_full().into());
        self.tell_job(seq)?;
        self.tell_run_ended(seq)?;
        match status {
            Status::Completed => self.complete_followers(id),
            _ => self.release_follower(id),
        }
    }

    /// The followers of a COMPLETED job are COMPLETED with its result.
    fn complete_followers(&mut self, leader: &JobId) -> Result<(), LedgerError> {
        for (seq, _, _) in self.followers(leader.as_str())? {
            let sql = "UPDATE jobs SET status = 'COMPLETED', finished_at = ?, ready = 1
                WHERE seq = ? AND status = 'QUEUED' AND ready = 2";
            self.conn.prepare_cached(sql)?.execute(params![self.now_text, seq])?;
            self.take_over_result(seq, leader.as_str())?;
            self.effects.waiting -= 1;
            self.tell_job(seq)?;
        }
        Ok(())
    }

    /// The oldest follower of a FAILED job runs; the others follow it.
    fn release_follower(&mut self, leader: &JobId) -> Result<(), LedgerError> {
        let followers = self.followers(leader.as_str())?;
        let Some(((seq, id, run_at), rest)) = followers.split_first() else { return Ok(()) };
        let ready = self.readiness(run_at.as_deref().and_then(clock::parse));
        let sql = "UPDATE jobs SET duplicate = 0, duplicate_of = NULL, ready = ? WHERE seq = ?";
        self.conn.prepare_cached(sql)?.execute(params![ready, seq])?;
        for (follower, _, _) in rest {
            let sql = "UPDATE jobs SET duplicate_of = ? WHERE seq = ?";
            self.conn.prepare_cached(sql)?.execute(params![id, follower])?;
        }
        Ok(())
    }

    fn followers(&self, leader: &str) -> Result<Vec<(i64, String, Option<String>)>, LedgerError> {
        let sql = "SELECT seq, id, run_at FROM jobs
            WHERE duplicate_of = ? AND status = 'QUEUED' AND ready = 2 ORDER BY seq";
        debug_assert_eq!(FOLLOWS, 2);
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows =
            statement.query_map([leader], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn must_be_one(&self, changed: usize, claim: &Claim) -> Result<(), LedgerError> {
        match changed {
            1 => Ok(()),
            _ => Err(LedgerError::NotRunning { id: claim.id.clone(), attempt: claim.attempt }),
        }
    }
}

fn failure_of(outcome: &Outcome) -> Option<&Failure> {
    match outcome {
        Outcome::Failed(failure) => Some(failure),
        Outcome::Succeeded(_) | Outcome::NotStarted(_) => None,
    }
}

fn not_started(outcome: &Outcome) -> Option<&String> {
    match outcome {
        Outcome::NotStarted(why) => Some(why),
        Outcome::Succeeded(_) | Outcome::Failed(_) => None,
    }
}

fn partial(failure: Option<&Failure>) -> Option<&str> {
    failure.and_then(|f| f.partial_results.as_ref()).map(|value| value.get())
}
