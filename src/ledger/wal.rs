//! The write-ahead log: how long it becomes, that it is so long from the start, and when the disk has it.
//!
//! A commit that writes over what the file already has is on disk sooner than one that makes it longer
//! (`docs/performance.md`). Only SQLite writes to it.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, ffi};

use super::LedgerError;
use super::lock::beside;
use super::store::{CACHE, file_size};

/// It is written back to the ledger's file once it has so many pages: some 350 jobs.
pub(super) const PAGES: u32 = 2000;
const BYTES: u64 = 4096 * PAGES as u64;
/// On a disk that has not so many times its size left it grows as it goes.
const ROOM: u64 = 16;

/// The log itself, to have the disk take it.
#[derive(Debug)]
pub(super) struct Log(File);

impl Log {
    /// That of an open ledger. SQLite says where its file is: the ledger's name may be a link.
    pub(super) fn open(conn: &Connection) -> Result<Self, LedgerError> {
        let path = beside(Path::new(conn.path().unwrap_or_default()), "-wal");
        File::open(&path).map(Self).map_err(|source| LedgerError::File { path, source })
    }

    /// Has the disk take what was committed. With `synchronous = NORMAL` SQLite itself does so only before
    /// it writes the log back; so claims need not wait for it (ARCHITECTURE.md).
    ///
    /// # Errors
    /// What was committed since the last success may be lost, whatever a later call answers.
    pub(super) fn sync(&self) -> Result<(), rusqlite::Error> {
        failpoint!("sync.before");
        rustix::fs::fdatasync(&self.0).map_err(|error| unsynced(error.to_string()))?;
        if rustix::fs::fstat(&self.0).is_ok_and(|log| log.st_nlink == 0) {
            return Err(unsynced("somebody has removed the ledger's -wal".to_owned()));
        }
        failpoint!("sync.after");
        Ok(())
    }

    /// One that cannot be synced: it is no file.
    #[cfg(test)]
    pub(super) fn lost() -> Self {
        Self(std::os::fd::OwnedFd::from(std::io::pipe().unwrap().0).into())
    }
}

fn unsynced(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), Some(why))
}

/// Has the disk take what a past life left in the log, as far as readers let it: should the disk not have
/// confirmed it then, nobody would ask again.
pub(super) fn write_back(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// Has the log take its room. If it cannot, commits are a little slower.
///
/// Pages of a transaction that no longer fit the cache go to the log at once; rolled back, their frames
/// never count, and the next commit writes over them.
pub(super) fn grow(conn: &Connection) {
    // SQLite says where its log is: the ledger's name may be a link.
    let path = Path::new(conn.path().unwrap_or_default());
    let free =
        rustix::fs::statvfs(path).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if file_size(&beside(path, "-wal")) >= BYTES || free / ROOM < BYTES {
        return;
    }
    let _ = conn.execute_batch(&format!(
        "PRAGMA cache_size = 16; BEGIN IMMEDIATE;
         CREATE TABLE growing (bytes); INSERT INTO growing VALUES (zeroblob({BYTES}));"
    ));
    if !conn.is_autocommit() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    let _ = conn.pragma_update(None, "cache_size", CACHE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_long_from_the_start_and_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE kept (x); INSERT INTO kept VALUES (1);",
        )
        .unwrap();
        grow(&conn);
        let grown = file_size(&beside(&path, "-wal"));
        assert!(grown >= BYTES, "{grown}");
        // Written over, not appended to; and what was rolled back is not there for anybody.
        conn.execute_batch("INSERT INTO kept VALUES (2)").unwrap();
        grow(&conn);
        assert_eq!(file_size(&beside(&path, "-wal")), grown);
        let other = Connection::open(&path).unwrap();
        let count = |sql: &str| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM kept"), 2);
        assert_eq!(count("SELECT count(*) FROM sqlite_schema"), 1);
        assert!(count("PRAGMA page_count") < 10);
        // As after a crash: what is in the file is all there is to go by.
        let crashed = dir.path().join("crashed.db");
        std::fs::copy(&path, &crashed).unwrap();
        std::fs::copy(beside(&path, "-wal"), beside(&crashed, "-wal")).unwrap();
        let read = Connection::open(&crashed).unwrap();
        let count = |sql: &str| read.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM kept"), 2);
        assert_eq!(count("SELECT count(*) FROM sqlite_schema"), 1);
        let sound: String = read.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
    }
}
