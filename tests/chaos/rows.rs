//! The rows of a ledger that matter here, read with a connection of our own.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) status: String,
    pub(crate) attempts: u32,
    pub(crate) failures: u32,
    pub(crate) interruptions: u32,
    pub(crate) finished_at: Option<String>,
    pub(crate) error_type: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) receipt: Option<String>,
    pub(crate) run_id: Option<String>,
}

impl Job {
    pub(crate) fn ended(&self) -> bool {
        self.finished_at.is_some()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) job: String,
    pub(crate) number: u32,
    pub(crate) started_at: String,
    pub(crate) finished_at: Option<String>,
    pub(crate) outcome: Option<String>,
}

/// Opens a ledger for reading; `None`: it has not been made yet.
fn open(ledger: &Path) -> Option<Connection> {
    if !ledger.exists() {
        return None;
    }
    let conn = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    let made = "SELECT 1 FROM sqlite_master WHERE name = 'clock'";
    let made = conn.prepare(made).unwrap().exists([]).unwrap();
    made.then_some(conn)
}

pub(crate) fn jobs(ledger: &Path) -> Vec<Job> {
    let Some(conn) = open(ledger) else { return Vec::new() };
    let sql =
        "SELECT id, source, status, attempts, failures, interruptions, finished_at, error_type,
        result, receipt, run_id FROM jobs";
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        Ok(Job {
            id: row.get(0)?,
            source: row.get(1)?,
            status: row.get(2)?,
            attempts: row.get(3)?,
            failures: row.get(4)?,
            interruptions: row.get(5)?,
            finished_at: row.get(6)?,
            error_type: row.get(7)?,
            result: row.get(8)?,
            receipt: row.get(9)?,
            run_id: row.get(10)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

pub(crate) fn attempts(ledger: &Path) -> Vec<Attempt> {
    let Some(conn) = open(ledger) else { return Vec::new() };
    let sql = "SELECT job_id, attempt, started_at, finished_at, outcome FROM attempts
        ORDER BY job_id, attempt";
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        Ok(Attempt {
            job: row.get(0)?,
            number: row.get(1)?,
            started_at: row.get(2)?,
            finished_at: row.get(3)?,
            outcome: row.get(4)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// How many jobs from this source have ended.
pub(crate) fn ended(ledger: &Path, source: &str) -> u64 {
    let Some(conn) = open(ledger) else { return 0 };
    let sql = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL AND source = ?";
    conn.query_row(sql, [source], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

pub(crate) fn ledger_id(ledger: &Path) -> Option<String> {
    let sql = "SELECT value FROM meta WHERE name = 'ledger_id'";
    open(ledger)?.query_row(sql, [], |row| row.get(0)).ok()
}
