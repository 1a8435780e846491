//! The schema in the file: its version, and what brings it to the present one.

use rusqlite::Connection;

use super::LedgerError;
use super::store::LEDGER_ID;

/// Migrations in order: the first makes the schema, `PRAGMA user_version` counts those applied.
const MIGRATIONS: &[&str] = &[include_str!("../../schema.sql")];

/// The version of the schema in the file, if we know it; 0: none yet.
pub(super) fn version(conn: &Connection) -> Result<i64, LedgerError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(LedgerError::Newer { found, known });
    }
    Ok(found)
}

/// Brings a file of this version to the present one.
pub(super) fn migrate(conn: &mut Connection, found: i64) -> Result<(), LedgerError> {
    for (version, sql) in (1..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(0)) {
        let tx = conn.transaction()?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", version)?;
        if version == 1 {
            let id = uuid::Uuid::now_v7().to_string();
            tx.execute("INSERT INTO meta (name, value) VALUES (?, ?)", [LEDGER_ID, &id])?;
        }
        failpoint!("open.migrated", crate::failpoint::disk_full().into());
        tx.commit()?;
    }
    Ok(())
}
