//! Writing arrivals down: receipts, ids, idempotency keys, refusals.

use rusqlite::params;

use super::store::Batch;
use super::{Accepted, Arrival, LedgerError};
use crate::clock;
use crate::job::{Claim, JobId, NewJob, Refusal, Source, Status, Target};

/// `jobs.ready`: may be claimed.
pub(super) const READY: i64 = 1;
/// `jobs.ready`: its `run_at` lies ahead.
pub(super) const LATER: i64 = 0;
/// `jobs.ready`: it follows the job that `duplicate_of` names.
pub(super) const FOLLOWS: i64 = 2;

/// What the idempotency key says about a new or retried job.
pub(super) enum ByKey {
    /// Nothing stands against running it.
    Runs,
    /// This one has the result already.
    Done(String),
    /// This one is waiting or running.
    Follows(String),
}

/// How a row is born.
struct Birth {
    id: JobId,
    status: Status,
    ready: i64,
    duplicate_of: Option<String>,
}

impl Batch<'_> {
    pub(super) fn accept(&mut self, arrivals: &[Arrival]) -> Result<Vec<Accepted>, LedgerError> {
        let starts = self.may_start(arrivals.len())?;
        arrivals.iter().map(|arrival| self.accept_one(arrival, starts)).collect()
    }

    fn accept_one(&mut self, arrival: &Arrival, starts: bool) -> Result<Accepted, LedgerError> {
        if let Some(receipt) = &arrival.receipt
            && let Some(known) = self.by_receipt(receipt)?
        {
            return Ok(known);
        }
        match &arrival.job {
            Ok(job) => self.insert_job(arrival, job, starts),
            Err(refusal) => self.insert_refused(arrival, refusal),
        }
    }

    fn by_receipt(&self, receipt: &str) -> Result<Option<Accepted>, LedgerError> {
        let sql = "SELECT id, status, duplicate_of FROM jobs WHERE receipt = ?";
        self.row(sql, [receipt], |row| {
            Ok(Accepted {
                id: id_at(row, 0)?,
                status: status_at(row, 1)?,
                duplicate_of: row.get::<_, Option<String>>(2)?.as_deref().and_then(JobId::new),
                repeated: true,
            })
        })
    }

    /// Whether a job with this id is in the ledger.
    fn taken(&self, id: &JobId) -> Result<bool, LedgerError> {
        let sql = "SELECT 1 FROM jobs WHERE id = ?";
        Ok(self.conn.prepare_cached(sql)?.exists([id.as_str()])?)
    }

    /// `starts`: a slot is free for it, should it be one that can start.
    fn insert_job(
        &mut self,
        arrival: &Arrival,
        job: &NewJob,
        starts: bool,
    ) -> Result<Accepted, LedgerError> {
        let mut birth = self.birth(job)?;
        let waits = birth.status == Status::Queued && birth.ready == READY;
        let starts = starts && waits && job.experiment_id.is_none();
        if starts {
            birth.status = Status::Running;
        }
        let (module, class, function, tool) = columns(job.target.as_ref());
        let done = birth.status == Status::Completed;
        let sql = "INSERT INTO jobs (id, source, task_type, experiment_id, module_path, class_name,
                method_name, tool, parameters, priority, status, max_attempts, retry_on,
                timeout_seconds, idempotency_key, duplicate, duplicate_of, warning, run_at,
                created_at, finished_at, payload, receipt, ready, attempts, executor_id, started_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![
            birth.id.as_str(),
            arrival.source.as_str(),
            job.task_type.map(|kind| kind.as_str()),
            job.experiment_id,
            module,
            class,
            function,
            tool,
            job.parameters.get(),
            job.priority,
            birth.status.as_str(),
            job.max_attempts,
            job.retry_on.as_str(),
            job.timeout.as_secs_f64(),
            job.idempotency_key,
            birth.duplicate_of.is_some(),
            birth.duplicate_of,
            job.warning,
            job.run_at.map(clock::text),
            self.now_text,
            done.then_some(&self.now_text),
            Payload(&arrival.payload),
            arrival.receipt,
            birth.ready,
            i64::from(starts),
            starts.then_some(&self.options.executor_id),
            starts.then_some(&self.now_text),
        ])?;
        failpoint!("accept.inserted", crate::failpoint::disk_full().into());
        let seq = self.conn.last_insert_rowid();
        if done {
            self.take_over_result(seq, birth.duplicate_of.as_deref().unwrap_or_default())?;
            self.tell_job(seq)?;
        } else if starts {
            self.begin_attempt(&birth.id, 1)?;
            self.tell_job(seq)?;
            let claim = self.first_claim(seq, birth.id.clone(), arrival.source, job);
            self.effects.started.push(claim);
        } else {
            self.effects.waiting += 1;
            self.effects.queued.push(seq);
        }
        Ok(Accepted {
            id: birth.id,
            status: birth.status,
            duplicate_of: birth.duplicate_of.as_deref().and_then(JobId::new),
            repeated: false,
        })
    }

    fn first_claim(&self, seq: i64, id: JobId, source: Source, job: &NewJob) -> Claim {
        Claim {
            seq,
            id,
            source,
            target: job.target.clone(),
            parameters: job.parameters.clone(),
            task_type: job.task_type,
            experiment_id: None,
            run_id: None,
            attempt: 1,
            failures: 0,
            max_attempts: job.max_attempts,
            retry_on: job.retry_on,
            timeout: job.timeout,
            created_at: self.now,
            claimed_at: self.now,
        }
    }

    fn birth(&self, job: &NewJob) -> Result<Birth, LedgerError> {
        let ready = if job.run_at.is_some_and(|at| at > self.now) { LATER } else { READY };
        let seen = match &job.id {
            Some(id) if self.taken(id)? => Some(id.as_str().to_owned()),
            _ => None,
        };
        let id = match &job.id {
            Some(id) if seen.is_none() => id.clone(),
            _ => JobId::fresh(),
        };
        let (status, ready, duplicate_of) = match &job.idempotency_key {
            None => (Status::Queued, ready, seen),
            Some(key) => match self.by_key(key, None)? {
                ByKey::Runs => (Status::Queued, ready, None),
                ByKey::Done(leader) => (Status::Completed, ready, Some(leader)),
                ByKey::Follows(leader) => (Status::Queued, FOLLOWS, Some(leader)),
            },
        };
        Ok(Birth { id, status, ready, duplicate_of })
    }

    /// What the jobs with this key say, `but` one left aside.
    pub(super) fn by_key(&self, key: &str, but: Option<i64>) -> Result<ByKey, LedgerError> {
        let done = "SELECT id FROM jobs WHERE idempotency_key = ?1 AND status = 'COMPLETED'
            AND seq IS NOT ?2 ORDER BY seq LIMIT 1";
        if let Some(id) = self.row(done, params![key, but], |row| row.get(0))? {
            return Ok(ByKey::Done(id));
        }
        let leads =
            "SELECT id FROM jobs WHERE idempotency_key = ?1 AND status IN ('QUEUED', 'RUNNING')
            AND ready <> 2 AND seq IS NOT ?2 ORDER BY seq LIMIT 1";
        let leader = self.row(leads, params![key, but], |row| row.get(0))?;
        Ok(leader.map_or(ByKey::Runs, ByKey::Follows))
    }

    /// Gives a COMPLETED duplicate the result of the job it repeats.
    pub(super) fn take_over_result(&self, seq: i64, leader: &str) -> Result<(), LedgerError> {
        let sql = "UPDATE jobs SET (result, result_bytes, result_truncated) =
            (SELECT result, result_bytes, result_truncated FROM jobs WHERE id = ?2) WHERE seq = ?1";
        self.conn.prepare_cached(sql)?.execute(params![seq, leader])?;
        Ok(())
    }

    fn insert_refused(
        &mut self,
        arrival: &Arrival,
        refusal: &Refusal,
    ) -> Result<Accepted, LedgerError> {
        let seen = match &refusal.id {
            Some(id) if self.taken(id)? => Some(id.clone()),
            _ => None,
        };
        let id = match &refusal.id {
            Some(id) if seen.is_none() => id.clone(),
            _ => JobId::fresh(),
        };
        let (module, class, function, tool) = columns(refusal.target.as_ref());
        let sql = "INSERT INTO jobs (id, source, task_type, experiment_id, module_path, class_name,
                method_name, tool, priority, status, max_attempts, retry_on, timeout_seconds,
                duplicate, duplicate_of, created_at, finished_at, error_type, error, traceback,
                payload, receipt)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, 7, 'FAILED', 1, 'all', 1, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![
            id.as_str(),
            arrival.source.as_str(),
            refusal.task_type.map(|kind| kind.as_str()),
            refusal.experiment_id,
            module,
            class,
            function,
            tool,
            seen.is_some(),
            seen.as_ref().map(JobId::as_str),
            self.now_text,
            self.now_text,
            refusal.error_type,
            refusal.error,
            "no traceback: it was refused before anything ran",
            Payload(&arrival.payload),
            arrival.receipt,
        ])?;
        let seq = self.conn.last_insert_rowid();
        self.tell_job(seq)?;
        if matches!(arrival.source, Source::Trigger | Source::Cron | Source::Speedrun) {
            self.tell_refused_experiment(seq)?;
        }
        Ok(Accepted { id, status: Status::Failed, duplicate_of: seen, repeated: false })
    }
}

/// Text where it is UTF-8, else a BLOB.
struct Payload<'a>(&'a [u8]);

impl rusqlite::ToSql for Payload<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::ValueRef;
        let text = std::str::from_utf8(self.0).is_ok();
        let value = if text { ValueRef::Text(self.0) } else { ValueRef::Blob(self.0) };
        Ok(rusqlite::types::ToSqlOutput::Borrowed(value))
    }
}

type TargetColumns<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>);

/// A target as `module_path`, `class_name`, `method_name`, `tool`.
pub(super) fn columns(target: Option<&Target>) -> TargetColumns<'_> {
    match target {
        None => (None, None, None, None),
        Some(Target::Tool(name)) => (None, None, None, Some(name)),
        Some(Target::Callable { module, class, function }) => {
            (Some(module), class.as_deref(), Some(function), None)
        }
    }
}

/// The id in a column; the schema allows no other.
pub(super) fn id_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<JobId> {
    let text: String = row.get(column)?;
    JobId::new(&text).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, 0))
}

/// The status in a column.
pub(super) fn status_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Status> {
    let text: String = row.get(column)?;
    Status::from_word(&text).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, 0))
}
