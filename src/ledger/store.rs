//! The file: opening, migrating, one transaction at a time.
//!
//! The only writing connection, which alone checkpoints. The verbs are its neighbours'.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};

use super::trouble::{Reach, explain, reach};
use super::{ClockRow, LedgerError, Options, Outbox, OutboxEntry, OutboxKind, schema, sound, wal};
use crate::clock::{self, Timestamp};
use crate::job::Claim;

/// In `meta`: the ledger's id, and that of the ledger it was copied from.
pub(super) const LEDGER_ID: &str = "ledger_id";
pub(super) const ORIGIN: &str = "copied_from";
const OF_META: &str = "SELECT value FROM meta WHERE name = ?";

/// How long to wait for a reader that holds the file, or a command at work on it.
const BUSY: Duration = Duration::from_secs(5);

/// Files up to this size are read through first, at some 300 MB/s; larger ones while they are in use.
pub(super) const CHECKED_AT_START: u64 = 64 * 1024 * 1024;

/// SQLite's cache: a negative number of KiB.
pub(super) const CACHE: i32 = -4096;

/// So many bytes must fit before an outage is over.
const ROOM: u32 = 1024 * 1024;

/// The open ledger.
#[derive(Debug)]
pub(super) struct Store {
    conn: Connection,
    log: wal::Log,
    options: Options,
    starts: u64,
}

impl Store {
    pub(super) fn open(options: Options) -> Result<Self, LedgerError> {
        sound::fitting_log(&options.path)?;
        let mut conn = Connection::open(&options.path)?;
        conn.busy_timeout(BUSY)?;
        // Looked at before anything is written to it.
        let version = schema::version(&conn)?;
        sound::ours(&conn, version)?;
        conn.set_prepared_statement_cache_capacity(128);
        // Plans do not depend on bound values: otherwise statements are prepared anew for each.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA mmap_size = 0;
             PRAGMA temp_store = MEMORY;",
        )?;
        conn.pragma_update(None, "cache_size", CACHE)?;
        conn.pragma_update(None, "wal_autocheckpoint", wal::PAGES)?;
        if file_size(&options.path) <= CHECKED_AT_START {
            sound::whole(&conn)?;
        }
        schema::migrate(&mut conn, version)?;
        wal::write_back(&conn)?;
        wal::grow(&conn);
        let log = wal::Log::open(&conn)?;
        Ok(Self { conn, log, options, starts: 0 })
    }

    /// Has the disk take what was committed ([`wal::Log::sync`]).
    pub(super) fn sync(&self) -> Result<(), rusqlite::Error> {
        self.log.sync()
    }

    /// How many rows were changed so far. Where none were, there is nothing to sync.
    pub(super) fn changes(&self) -> u64 {
        self.conn.total_changes()
    }

    /// Is closed without writing the log back, if possible: the next start finds out what is there.
    pub(super) fn abandon_log(&self) {
        let _ = self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    #[cfg(test)]
    pub(super) fn lose_log(&mut self) {
        self.log = wal::Log::lost();
    }

    pub(super) fn ledger_id(&self) -> Result<String, LedgerError> {
        Ok(self.conn.query_row(OF_META, [LEDGER_ID], |row| row.get(0))?)
    }

    /// The id of the ledger it was copied from, until that no longer matters.
    pub(super) fn origin(&self) -> Result<Option<String>, LedgerError> {
        Ok(self.conn.query_row(OF_META, [ORIGIN], |row| row.get(0)).optional()?)
    }

    pub(super) fn count_waiting(&self) -> Result<u64, LedgerError> {
        let sql = "SELECT count(*) FROM jobs WHERE status = 'QUEUED'";
        let count: i64 = self.conn.query_row(sql, [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// The earliest `run_at` that lies ahead.
    pub(super) fn next_due(&self) -> Result<Option<Timestamp>, rusqlite::Error> {
        let sql = "SELECT min(run_at) FROM jobs WHERE status = 'QUEUED' AND ready = 0";
        let due: Option<String> = self.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(due.as_deref().and_then(clock::parse))
    }

    /// The oldest messages. A read: it needs no transaction of its own.
    pub(super) fn outbox(&self, after: i64, limit: u32) -> Result<Vec<OutboxEntry>, LedgerError> {
        failpoint!("outbox.read", crate::failpoint::disk_full().into());
        let sql = "SELECT seq, kind, subject, body FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?";
        let mut statement = self.conn.prepare_cached(sql)?;
        let entries = statement.query_map(params![after, limit], |row| {
            let kind: String = row.get(1)?;
            Ok(OutboxEntry {
                seq: row.get(0)?,
                kind: OutboxKind::from_word(&kind).unwrap_or(OutboxKind::Job),
                subject: row.get(2)?,
                body: row.get(3)?,
            })
        })?;
        Ok(entries.collect::<Result<_, _>>()?)
    }

    /// Takes away what [`Batch::probe_room`] wrote. Should it fail, the next probe writes over it.
    pub(super) fn clear_room(&self) {
        let _ = self.conn.execute("DELETE FROM meta WHERE name = 'room'", []);
    }

    #[cfg(test)] // SQLite never takes a limit below what the file has
    pub(super) fn limit_pages(&self, pages: Option<u32>) {
        let pages = pages.unwrap_or(u32::MAX - 1);
        let sql = format!("PRAGMA max_page_count = {pages}");
        self.conn.query_row(&sql, [], |_| Ok(())).unwrap();
    }

    /// Begins a transaction.
    pub(super) fn begin(&mut self, now: Timestamp) -> Result<Batch<'_>, rusqlite::Error> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Batch {
            conn: &self.conn,
            options: &self.options,
            now,
            now_text: clock::text(now),
            starts: &mut self.starts,
            free: 0,
            effects: Effects::default(),
            ended: None,
            fault: None,
        })
    }
}

/// The size of a ledger's file; 0 if there is none.
pub(super) fn file_size(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

/// What a batch did to the numbers kept in memory; counts only once committed.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects {
    /// Change of the number of QUEUED jobs.
    pub(super) waiting: i64,
    /// The outbox gained entries.
    pub(super) told: bool,
    /// Inserted or put back as QUEUED; told at the end, if they are not claimed by then.
    pub(super) queued: Vec<i64>,
    /// Born RUNNING: a slot was free.
    pub(super) started: Vec<Claim>,
}

/// One transaction under way.
pub(super) struct Batch<'a> {
    pub(super) conn: &'a Connection,
    pub(super) options: &'a Options,
    pub(super) now: Timestamp,
    pub(super) now_text: String,
    pub(super) starts: &'a mut u64,
    /// Slots that wait for a job.
    pub(super) free: u32,
    pub(super) effects: Effects,
    /// Why nothing more can be done in this transaction: it is rolled back, or must be.
    ended: Option<Arc<rusqlite::Error>>,
    /// The worst that the database refused: how far it reaches, in a sentence.
    fault: Option<(Reach, String)>,
}

impl Batch<'_> {
    /// Does something in a savepoint of its own: if it fails, only it is undone. What hinders all
    /// writing (a full disk) ends the whole transaction: SQLite may have rolled it back by itself,
    /// and whatever followed would then be committed alone, unknown to those who asked.
    pub(super) fn guarded<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        if let Some(error) = &self.ended {
            return Err(LedgerError::Commit(Arc::clone(error)));
        }
        if let Err(error) = self.run("SAVEPOINT verb") {
            return Err(self.end(error));
        }
        let before = self.effects.clone();
        let done = act(self);
        let undone = match &done {
            Ok(_) => Ok(()),
            Err(_) => {
                self.effects = before;
                self.run("ROLLBACK TO verb")
            }
        };
        let closed = undone.and_then(|()| self.run("RELEASE verb"));
        match (done, closed) {
            (Err(LedgerError::Sqlite(error)), closed) => {
                let reach = reach(&error);
                if reach == Reach::Passing || closed.is_err() || self.conn.is_autocommit() {
                    return Err(self.end(error));
                }
                self.note(&error);
                Err(error.into())
            }
            (_, Err(error)) => Err(self.end(error)),
            (done, Ok(())) => done,
        }
    }

    /// Nothing more can be done in this transaction.
    fn end(&mut self, error: rusqlite::Error) -> LedgerError {
        self.note(&error);
        let error = Arc::new(error);
        self.ended = Some(Arc::clone(&error));
        LedgerError::Commit(error)
    }

    fn note(&mut self, error: &rusqlite::Error) {
        let reach = reach(error);
        if reach > self.fault.as_ref().map_or(Reach::Verb, |(worst, _)| *worst) {
            self.fault = Some((reach, explain(error)));
        }
    }

    /// Tells what is still waiting, and commits, or undoes everything.
    pub(super) fn commit(&mut self) -> Result<(), Arc<rusqlite::Error>> {
        // Its failure ends the transaction or is that of the telling alone; either is noted.
        let told = match self.effects.queued.is_empty() {
            true => Ok(()),
            false => self.guarded(Self::tell_queued),
        };
        if let Some(error) = self.ended.take() {
            return self.abandon(error);
        }
        let done = match told {
            Ok(()) => self.commit_now(),
            Err(LedgerError::Sqlite(error)) => Err(error),
            Err(_) => Err(rusqlite::Error::InvalidQuery),
        };
        done.or_else(|error| {
            self.note(&error);
            self.abandon(Arc::new(error))
        })
    }

    fn commit_now(&self) -> rusqlite::Result<()> {
        failpoint!("commit.before", crate::failpoint::disk_full());
        self.run("COMMIT")?;
        failpoint!("commit.after");
        Ok(())
    }

    fn abandon(&mut self, error: Arc<rusqlite::Error>) -> Result<(), Arc<rusqlite::Error>> {
        if !self.conn.is_autocommit() {
            // SQLite undoes it by itself when the connection is used next, should this fail.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        Err(error)
    }

    /// What it did to the numbers, and the worst that the database refused.
    pub(super) fn effects(self) -> (Effects, Option<(Reach, String)>) {
        (self.effects, self.fault)
    }

    fn run(&self, sql: &str) -> Result<(), rusqlite::Error> {
        self.conn.prepare_cached(sql)?.execute([]).map(|_| ())
    }

    /// A write that changes nothing that matters.
    pub(super) fn probe(&mut self) -> Result<(), LedgerError> {
        let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES ('probed', ?)";
        self.conn.prepare_cached(sql)?.execute([&self.now_text])?;
        Ok(())
    }

    /// A write as large as what some endings leave: once it is committed there is room again.
    pub(super) fn probe_room(&mut self) -> Result<(), LedgerError> {
        let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES ('room', hex(zeroblob(?)))";
        self.conn.prepare_cached(sql)?.execute([ROOM / 2])?;
        Ok(())
    }

    /// Writes what Redis must be told of a job as it stands now.
    pub(super) fn tell_job(&mut self, seq: i64) -> Result<(), LedgerError> {
        if self.options.outbox == Outbox::Off {
            return Ok(());
        }
        let sql = "INSERT INTO outbox (kind, subject, body)
            SELECT 'job', id, json_object('job_id', id, 'status', status, 'attempts', attempts,
                'executor_id', executor_id, 'started_at', started_at, 'finished_at', finished_at,
                'result', json(result), 'error_type', error_type, 'error', error)
            FROM jobs WHERE seq = ?";
        self.conn.prepare_cached(sql)?.execute([seq])?;
        self.effects.told = true;
        Ok(())
    }

    fn tell_queued(&mut self) -> Result<(), LedgerError> {
        for seq in std::mem::take(&mut self.effects.queued) {
            let sql = "SELECT 1 FROM jobs WHERE seq = ? AND status = 'QUEUED'";
            if self.conn.prepare_cached(sql)?.exists([seq])? {
                self.tell_job(seq)?;
            }
        }
        Ok(())
    }

    pub(super) fn forget_origin(&mut self) -> Result<(), LedgerError> {
        self.conn.prepare_cached("DELETE FROM meta WHERE name = ?")?.execute([ORIGIN])?;
        Ok(())
    }

    pub(super) fn forget_up_to(&mut self, seq: i64, but: &[i64]) -> Result<(), LedgerError> {
        if but.is_empty() {
            self.conn.prepare_cached("DELETE FROM outbox WHERE seq <= ?")?.execute([seq])?;
            failpoint!("outbox.forget", crate::failpoint::disk_full().into());
            return Ok(());
        }
        let but = serde_json::Value::from(but).to_string();
        let sql = "DELETE FROM outbox WHERE seq <= ?1
            AND seq NOT IN (SELECT value FROM json_each(?2))";
        self.conn.prepare_cached(sql)?.execute(params![seq, but])?;
        Ok(())
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, LedgerError> {
        let sql = "SELECT seq, id FROM jobs WHERE finished_at < ?1 AND NOT EXISTS
            (SELECT 1 FROM jobs f WHERE f.duplicate_of = jobs.id AND f.status = 'QUEUED' AND f.ready = 2)
            LIMIT ?2";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map(params![clock::text(before), limit], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })?;
        let old: Vec<_> = rows.collect::<Result<_, _>>()?;
        for (seq, id) in &old {
            self.conn.prepare_cached("DELETE FROM attempts WHERE job_id = ?")?.execute([id])?;
            self.conn.prepare_cached("DELETE FROM jobs WHERE seq = ?")?.execute([seq])?;
        }
        Ok(u64::try_from(old.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn clock(&self) -> Result<Vec<ClockRow>, LedgerError> {
        let sql = "SELECT id, expression, timezone, seen, last FROM clock";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(ClockRow {
                id: row.get(0)?,
                expression: row.get(1)?,
                timezone: row.get(2)?,
                seen: row.get(3)?,
                last: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(super) fn note_clock(&self, row: &ClockRow) -> Result<(), LedgerError> {
        let sql = "INSERT OR REPLACE INTO clock (id, expression, timezone, seen, last)
            VALUES (?, ?, ?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![
            row.id,
            row.expression,
            row.timezone,
            row.seen,
            row.last
        ])?;
        Ok(())
    }

    /// One optional row.
    pub(super) fn row<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, LedgerError> {
        Ok(self.conn.prepare_cached(sql)?.query_row(parameters, read).optional()?)
    }
}
