//! A consistent copy of a ledger, made while it is in use or not.
//!
//! Reads the file itself and asks nobody. The copy is a ledger of its own: two living executors must
//! never bear one ledger's id, so it gets a new one, and remembers which it was copied from.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::lock::beside;
use super::store::{LEDGER_ID, ORIGIN};
use super::{LedgerError, Reader, sound};

/// How often, and after which pause, a file is tried that another process holds as a whole.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its size.
    pub bytes: u64,
    /// Jobs in it.
    pub jobs: u64,
    /// Its own id.
    pub ledger_id: String,
    /// The id of the ledger it was copied from.
    pub copied_from: String,
}

/// Why there is no copy. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there already.
    #[error("{path} is there already and is not overwritten; name another file")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The ledger cannot be read.
    #[error("the ledger cannot be read")]
    Source(#[source] LedgerError),
    /// The copy is not whole, or could not be read back.
    #[error("the copy is not kept")]
    Copy(#[source] LedgerError),
    /// A file could not be written.
    #[error("{path} cannot be written")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Copies the ledger at `from` to the new file `to`: under another name first, checked, synced, and only
/// then under its own. Blocks for as long as that takes; writers go on meanwhile.
pub fn backup(from: &Path, to: &Path) -> Result<Copied, BackupError> {
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let source = Reader::open(from).map_err(BackupError::Source)?;
    let part = Part::new(from, to)?;
    let copied = fill(&source, &part.path)?;
    part.keep_as(to)?;
    Ok(copied)
}

fn fill(source: &Reader, part: &Path) -> Result<Copied, BackupError> {
    let failed = |error: rusqlite::Error| BackupError::Copy(error.into());
    let mut copy = Connection::open(part).map_err(failed)?;
    // Synced as a whole at the end. The copy has no log of its own until it is served.
    copy.pragma_update(None, "synchronous", "OFF").map_err(failed)?;
    copy_pages(source, &mut copy).map_err(failed)?;
    copy.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?;
    sound::whole(&copy).map_err(BackupError::Copy)?;
    let copied_from = value(&copy, LEDGER_ID).map_err(failed)?;
    let ledger_id = uuid::Uuid::now_v7().to_string();
    let own = |name: &str, value: &str| {
        let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)";
        copy.execute(sql, [name, value]).map_err(failed)
    };
    own(LEDGER_ID, &ledger_id)?;
    own(ORIGIN, &copied_from)?;
    let jobs: i64 =
        copy.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).map_err(failed)?;
    copy.close().map_err(|(_, error)| failed(error))?;
    let bytes = part.metadata().map_err(file(part))?.len();
    Ok(Copied { bytes, jobs: jobs.unsigned_abs(), ledger_id, copied_from })
}

/// All pages in one step: one reading transaction, which sees one commit and holds up no writer. In
/// several steps it would begin anew with each commit between them.
fn copy_pages(source: &Reader, copy: &mut Connection) -> Result<(), rusqlite::Error> {
    let backup = Backup::new(source.connection(), copy)?;
    for _ in 0..TRIES {
        if backup.step(-1)? == StepResult::Done {
            return Ok(());
        }
        // Another process holds the whole file for a moment, such as at the end of a `serve`.
        std::thread::sleep(PAUSE);
    }
    Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None))
}

fn value(copy: &Connection, name: &str) -> Result<String, rusqlite::Error> {
    copy.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get(0))
}

fn file(path: &Path) -> impl Fn(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path: path.clone(), source }
}

/// The copy under its first name; removed unless it is kept.
struct Part {
    path: PathBuf,
}

impl Part {
    fn new(from: &Path, to: &Path) -> Result<Self, BackupError> {
        let path = beside(to, &format!(".part-{}", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let part = Self { path };
        let made = made.map_err(file(&part.path))?;
        // It holds what the ledger holds, and is for the same eyes.
        let rights = from.metadata().map_err(file(from))?.permissions();
        made.set_permissions(rights).map_err(file(&part.path))?;
        Ok(part)
    }

    fn keep_as(self, to: &Path) -> Result<(), BackupError> {
        let sync = |path: &Path| File::open(path)?.sync_all();
        sync(&self.path).map_err(file(&self.path))?;
        match renameat_with(CWD, &self.path, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(BackupError::Exists { path: to.to_owned() }),
            // A file system that knows no such renaming. That nothing was there is known already.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                std::fs::rename(&self.path, to).map_err(file(to))?;
            }
            Err(error) => return Err(file(to)(error.into())),
        }
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(dir).map_err(file(dir))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already where it was kept.
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(&self.path, suffix));
        }
    }
}
