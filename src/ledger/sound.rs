//! Whether a file is a ledger, and whole, before anything is written to it.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::LedgerError;
use super::lock::beside;
use super::trouble::{Reach, reach};

/// A database whose file is missing or empty, but whose log is not: opened, SQLite would throw the
/// log away, and with it what was committed last.
pub(super) fn no_orphaned_log(path: &Path) -> Result<(), LedgerError> {
    let size = |path: &Path| path.metadata().map_or(0, |file| file.len());
    let wal = beside(path, "-wal");
    if size(path) == 0 && size(&wal) > 0 {
        return Err(LedgerError::Orphaned { wal });
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
