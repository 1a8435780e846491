//! Looking into a ledger: a read-only connection of its own, for commands and the control socket.
//!
//! Blocking, and never in the writer's way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde_json::{Map, Value};

use super::accept::{FOLLOWS, LATER, id_at, status_at};
use super::trouble::{Reach, reach};
use super::{LedgerError, schema, sound};
use crate::clock::{self, Timestamp};
use crate::job::{JobId, Status};

/// A row by column name, in the order of the schema. JSON columns are values; a payload that is not
/// text is `{"base64": …}`.
pub type Row = Map<String, Value>;

/// Which jobs to list.
#[derive(Clone, Copy, Debug)]
pub struct JobFilter {
    /// Only those with this status.
    pub status: Option<Status>,
    /// At most so many, the newest.
    pub limit: u32,
}

/// Why a QUEUED job is not running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A free slot; so many jobs go first.
    Slot {
        /// Jobs that go first.
        ahead: u64,
    },
    /// Its time.
    RunAt {
        /// Not before.
        at: Timestamp,
        /// Counted failures so far: it waits for a retry if there are any.
        failures: u32,
    },
    /// The end of the job with the same idempotency key.
    Leader {
        /// That job.
        id: JobId,
        /// Where it stands.
        status: Status,
    },
    /// The end of another run of the same experiment.
    Experiment {
        /// The job that runs it.
        id: JobId,
    },
}

/// A read-only view.
#[derive(Debug)]
pub struct Reader {
    pub(super) conn: Connection,
}

/// What `SELECT *` would also show, but is ours alone.
const JOB_COLUMNS: &str = "id, source, task_type, experiment_id, run_id, module_path, class_name,
    method_name, tool, parameters, priority, status, attempts, failures, interruptions, max_attempts,
    retry_on, timeout_seconds, idempotency_key, duplicate, duplicate_of, warning, run_at, created_at,
    started_at, finished_at, result, result_bytes, result_truncated, error_type, error, traceback,
    partial_results, executor_id, payload";

impl Reader {
    /// Opens a ledger for reading.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        if !path.exists() {
            return Err(LedgerError::Missing { path: path.to_owned() });
        }
        sound::fitting_log(path)?;
        Self::beside_writer(path)
    }

    /// The same in the process that writes it. There the file must not be opened but by SQLite: with any
    /// close of it the kernel drops all locks that the process has on it.
    pub(super) fn beside_writer(path: &Path) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(Duration::from_secs(5))?;
        let version = schema::version(&conn)?;
        match sound::ours(&conn, version) {
            // What can still be read of a damaged one is for its reader to find out.
            Err(LedgerError::Sqlite(error)) if reach(&error) == Reach::Damaged => {}
            ours => ours?,
        }
        Ok(Self { conn })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Reads every page; an error says what is damaged.
    pub fn whole(&self) -> Result<(), LedgerError> {
        sound::whole(&self.conn)
    }

    /// Jobs, newest first.
    pub fn jobs(&self, filter: &JobFilter) -> Result<Vec<Row>, LedgerError> {
        let sql = format!(
            "SELECT {JOB_COLUMNS} FROM jobs WHERE ?1 IS NULL OR status = ?1 ORDER BY seq DESC LIMIT ?2"
        );
        self.rows(&sql, params![filter.status.map(Status::as_str), filter.limit])
    }

    /// One job.
    pub fn job(&self, id: &JobId) -> Result<Option<Row>, LedgerError> {
        let sql = format!("SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?");
        Ok(self.rows(&sql, [id.as_str()])?.pop())
    }

    /// The ids that begin with `prefix`, at most two: enough to know whether it is the only one.
    pub fn find(&self, prefix: &str) -> Result<Vec<JobId>, LedgerError> {
        let sql = "SELECT id FROM jobs WHERE id >= ?1 AND substr(id, 1, length(?1)) = ?1
            ORDER BY id LIMIT 2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let ids = statement.query_map([prefix], |row| id_at(row, 0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// The attempts of a job, first to last.
    pub fn attempts(&self, id: &JobId) -> Result<Vec<Row>, LedgerError> {
        self.rows("SELECT * FROM attempts WHERE job_id = ? ORDER BY attempt", [id.as_str()])
    }

    /// How many jobs have each status.
    pub fn counts(&self) -> Result<BTreeMap<Status, u64>, LedgerError> {
        let mut statement =
            self.conn.prepare_cached("SELECT status, count(*) FROM jobs GROUP BY status")?;
        let counts = statement
            .query_map([], |row| Ok((status_at(row, 0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
        Ok(counts.collect::<Result<_, _>>()?)
    }

    /// Why a QUEUED job is not running; `None` for any other.
    pub fn waits_for(&self, id: &JobId, now: Timestamp) -> Result<Option<WaitsFor>, LedgerError> {
        let sql = "SELECT seq, ready, run_at, failures, duplicate_of, priority, experiment_id
            FROM jobs WHERE id = ? AND status = 'QUEUED'";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Waiting {
                seq: row.get(0)?,
                ready: row.get(1)?,
                run_at: row.get::<_, Option<String>>(2)?.as_deref().and_then(clock::parse),
                failures: row.get(3)?,
                duplicate_of: row.get(4)?,
                priority: row.get(5)?,
                experiment_id: row.get(6)?,
            })
        };
        let waiting = self.conn.prepare_cached(sql)?.query_row([id.as_str()], read).optional()?;
        let Some(waiting) = waiting else { return Ok(None) };
        if waiting.ready == FOLLOWS
            && let Some(leader) = &waiting.duplicate_of
            && let Some((id, status)) = self.standing("id = ?", leader)?
        {
            return Ok(Some(WaitsFor::Leader { id, status }));
        }
        if waiting.ready == LATER
            && let Some(at) = waiting.run_at.filter(|at| *at > now)
        {
            return Ok(Some(WaitsFor::RunAt { at, failures: waiting.failures }));
        }
        if let Some(experiment) = &waiting.experiment_id
            && let Some((id, _)) =
                self.standing("experiment_id = ? AND status = 'RUNNING'", experiment)?
        {
            return Ok(Some(WaitsFor::Experiment { id }));
        }
        self.ahead(&waiting).map(|ahead| Some(WaitsFor::Slot { ahead }))
    }

    fn standing(&self, which: &str, value: &str) -> Result<Option<(JobId, Status)>, LedgerError> {
        let sql = format!("SELECT id, status FROM jobs WHERE {which} LIMIT 1");
        let read = |row: &rusqlite::Row<'_>| Ok((id_at(row, 0)?, status_at(row, 1)?));
        Ok(self.conn.prepare_cached(&sql)?.query_row([value], read).optional()?)
    }

    fn ahead(&self, waiting: &Waiting) -> Result<u64, LedgerError> {
        let sql = "SELECT count(*) FROM jobs WHERE status = 'QUEUED' AND ready = 1
            AND (priority > ?1 OR (priority = ?1 AND seq < ?2))";
        let count: i64 = self
            .conn
            .prepare_cached(sql)?
            .query_row(params![waiting.priority, waiting.seq], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    fn rows(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<Row>, LedgerError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let rows = statement.query_map(parameters, |row| {
            let mut map = Row::new();
            for (index, name) in names.iter().enumerate() {
                map.insert(name.clone(), value(name, row.get_ref(index)?));
            }
            Ok(map)
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

struct Waiting {
    seq: i64,
    ready: i64,
    run_at: Option<Timestamp>,
    failures: u32,
    duplicate_of: Option<String>,
    priority: u8,
    experiment_id: Option<String>,
}

fn value(name: &str, value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => {
            let text = String::from_utf8_lossy(text);
            match name {
                "parameters" | "result" | "partial_results" => {
                    serde_json::from_str(&text).unwrap_or_else(|_| text.into())
                }
                _ => text.into(),
            }
        }
        ValueRef::Blob(bytes) => {
            let mut map = Row::new();
            map.insert("base64".into(), BASE64_STANDARD.encode(bytes).into());
            map.into()
        }
    }
}
