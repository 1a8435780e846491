//! The invariants of the ledger as questions: each finds the rows that break it.
//!
//! Only reads, in one snapshot, so that it can look while an executor writes. Mends nothing.

use rusqlite::{ErrorCode, OptionalExtension, params};

use super::reader::Reader;
use super::{Finding, LedgerError, invariants};
use crate::clock::{self, Timestamp};
use crate::job::JobId;

/// Most findings of one kind that are told one by one.
const MOST: usize = 20;

/// Who serves the ledger while it is looked at.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Its name.
    pub executor_id: String,
    /// Since when its process lives.
    pub since: Timestamp,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Rows of `jobs`.
    pub jobs: u64,
    /// Rows of `attempts`.
    pub attempts: u64,
}

/// A job as Redis should show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Which.
    pub id: String,
    /// Its status.
    pub status: String,
    /// Its starts.
    pub attempts: u32,
    /// Whose it is or was last, if anybody's.
    pub executor_id: Option<String>,
    /// Whether Redis has still to be told something of it.
    pub untold: bool,
}

/// Where an attempt stands, for who holds a process of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// It runs.
    Open,
    /// It is over.
    Over,
    /// The ledger has none of that number.
    Unknown,
}

impl Reader {
    /// Looks the whole ledger over. A file that SQLite finds damaged is a finding, not an error.
    ///
    /// # Errors
    /// If it cannot be read for another reason, such as that it is no ledger.
    pub fn check(&self, serving: Option<&Serving>) -> Result<(Vec<Finding>, Looked), LedgerError> {
        self.conn.execute_batch("BEGIN")?;
        let mut findings = Vec::new();
        let looked = self.check_all(serving, &mut findings);
        // Ends a transaction that wrote nothing.
        let _ = self.conn.execute_batch("ROLLBACK");
        match looked {
            Ok(looked) => Ok((findings, looked)),
            Err(LedgerError::Sqlite(error)) if is_damage(&error) => {
                findings.push(damage(error.to_string()));
                Ok((findings, Looked::default()))
            }
            Err(error) => Err(error),
        }
    }

    fn check_all(
        &self,
        serving: Option<&Serving>,
        findings: &mut Vec<Finding>,
    ) -> Result<Looked, LedgerError> {
        let count = |table: &str| {
            let sql = format!("SELECT count(*) FROM {table}");
            self.conn.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
        };
        let looked = Looked { jobs: count("jobs")?, attempts: count("attempts")? };
        self.quick_check(findings)?;
        for invariant in invariants::ALL {
            self.ask(invariant, [], findings)?;
        }
        if let Some(serving) = serving {
            let since = clock::text(serving.since);
            self.ask(&invariants::SERVED, params![serving.executor_id, since], findings)?;
        }
        Ok(looked)
    }

    /// SQLite's own look at the file.
    fn quick_check(&self, findings: &mut Vec<Finding>) -> Result<(), LedgerError> {
        let mut statement = self.conn.prepare("PRAGMA quick_check(20)")?;
        let words = statement.query_map([], |row| row.get::<_, String>(0))?;
        for word in words {
            let word = word?;
            if word != "ok" {
                findings.push(damage(word));
            }
        }
        Ok(())
    }

    fn ask(
        &self,
        invariant: &invariants::Invariant,
        parameters: impl rusqlite::Params,
        findings: &mut Vec<Finding>,
    ) -> Result<(), LedgerError> {
        let mut statement = self.conn.prepare(invariant.sql)?;
        let mut rows = statement.query(parameters)?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            found += 1;
            if found > MOST {
                continue;
            }
            findings.push(Finding {
                check: invariant.name,
                job_id: row.get(0)?,
                detail: row.get(1)?,
                advice: invariant.advice,
            });
        }
        if found > MOST {
            findings.push(Finding {
                check: invariant.name,
                job_id: None,
                detail: format!("{} more like these", found - MOST),
                advice: invariant.advice,
            });
        }
        Ok(())
    }

    /// The UUID written into the file when it was made.
    pub fn ledger_id(&self) -> Result<Option<String>, LedgerError> {
        let sql = "SELECT value FROM meta WHERE name = 'ledger_id'";
        Ok(self.conn.query_row(sql, [], |row| row.get(0)).optional()?)
    }

    /// Those of these receipts that no job bears.
    pub fn unknown_receipts(&self, receipts: &[String]) -> Result<Vec<String>, LedgerError> {
        let mut statement = self.conn.prepare_cached("SELECT 1 FROM jobs WHERE receipt = ?")?;
        let mut unknown = Vec::new();
        for receipt in receipts {
            if !statement.exists([receipt])? {
                unknown.push(receipt.clone());
            }
        }
        Ok(unknown)
    }

    /// Every job that has not ended, and the last `ended` that have.
    pub fn shown(&self, ended: u32) -> Result<Vec<Shown>, LedgerError> {
        let sql = "SELECT id, status, attempts, executor_id, id IN (SELECT subject FROM outbox)
            FROM jobs WHERE status IN ('QUEUED', 'RUNNING')
            UNION ALL SELECT * FROM
            (SELECT id, status, attempts, executor_id, id IN (SELECT subject FROM outbox)
             FROM jobs WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT ?)";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([ended], |row| {
            Ok(Shown {
                id: row.get(0)?,
                status: row.get(1)?,
                attempts: row.get(2)?,
                executor_id: row.get(3)?,
                untold: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Where this attempt stands.
    pub fn attempt_state(&self, id: &JobId, attempt: u32) -> Result<AttemptState, LedgerError> {
        let sql = "SELECT finished_at IS NULL FROM attempts WHERE job_id = ? AND attempt = ?";
        let open = self
            .conn
            .prepare_cached(sql)?
            .query_row(params![id.as_str(), attempt], |row| row.get::<_, bool>(0))
            .optional()?;
        Ok(match open {
            Some(true) => AttemptState::Open,
            Some(false) => AttemptState::Over,
            None => AttemptState::Unknown,
        })
    }

    /// Whether a job has ended, with nothing left to be told of its experiment; `None`: no such job.
    pub fn run_is_over(&self, job: &str, experiment: &str) -> Result<Option<bool>, LedgerError> {
        let sql = "SELECT finished_at IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM outbox WHERE subject = ?2) FROM jobs WHERE id = ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([job, experiment], |row| row.get(0)).optional()?)
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

fn damage(word: String) -> Finding {
    Finding {
        check: "file",
        job_id: None,
        detail: format!("the file is damaged: {word}"),
        advice: "stop the executor, keep a copy, and restore a backup (or try sqlite3's .recover)",
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
