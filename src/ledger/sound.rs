//! Whether a file is a ledger, and whole, before anything is written to it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::LedgerError;
use super::lock::beside;
use super::store::file_size;
use super::trouble::{Reach, reach};

/// Where in a file it stands whether writing goes through a log, and the value if not.
const FORMAT_AT: usize = 18;
const WITHOUT_LOG: u8 = 1;

/// A log beside a file that it does not belong to. A missing or empty file: SQLite would throw the log
/// away, and with it what was committed last. A copy, which is made without log, put in the place of a
/// file whose log was left: SQLite would write that log's pages into it.
pub(super) fn fitting_log(path: &Path) -> Result<(), LedgerError> {
    let wal = beside(path, "-wal");
    if file_size(&wal) == 0 {
        return Ok(());
    }
    if file_size(path) == 0 {
        return Err(LedgerError::Orphaned { wal });
    }
    let mut head = [0; FORMAT_AT + 1];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    if read.is_ok() && head[FORMAT_AT] == WITHOUT_LOG {
        return Err(LedgerError::StrangeLog { wal });
    }
    Ok(())
}

/// Refuses somebody else's database. `version` is its `user_version`.
pub(super) fn ours(conn: &Connection, version: i64) -> Result<(), LedgerError> {
    let sql = match version {
        // New: there must be nothing in it.
        0 => "SELECT 1 FROM sqlite_schema LIMIT 1",
        _ => "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'meta')",
    };
    match conn.query_row(sql, [], |_| Ok(())).optional()? {
        Some(()) => Err(LedgerError::Foreign),
        None => Ok(()),
    }
}

/// Reads every page and refuses a file whose structure is damaged.
pub(super) fn whole(conn: &Connection) -> Result<(), LedgerError> {
    let found: Result<String, _> = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match found {
        Ok(word) if word == "ok" => Ok(()),
        Ok(what) => Err(LedgerError::Damaged { what: what.replace('\n', " ") }),
        Err(error) if reach(&error) == Reach::Damaged => {
            Err(LedgerError::Damaged { what: error.to_string() })
        }
        Err(error) => Err(error.into()),
    }
}
