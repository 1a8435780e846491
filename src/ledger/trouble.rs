//! What an error of the database means: for the batch it happened in, for the ledger, for people.
//!
//! Pure but for [`Trouble`], which remembers whether the ledger can be written and says it in the log
//! once as it begins and once as it ends.

use std::time::Instant;

use rusqlite::ErrorCode;
use tokio::sync::watch;

/// How far an error reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Only what was asked: a guard, a check of the schema.
    Verb,
    /// The file cannot be written (or read) now; what it lacks may come back.
    Passing,
    /// The disk did not confirm what was written: the kernel may have let go of it, and a later success
    /// says nothing about it (fsync(2), "Errors"). Only a restart finds out what is there.
    Unsure,
    /// The file is damaged. No waiting mends it.
    Damaged,
}

/// How far this error reaches.
pub(super) fn reach(error: &rusqlite::Error) -> Reach {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed,
        ) => Reach::Passing,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Reach::Damaged,
        _ => Reach::Verb,
    }
}

/// What to do about a damaged ledger, wherever that is found out.
pub(super) const MEND: &str = "restore a copy that `executor backup` made, or move the file (with its -wal and -shm) away to begin with an empty ledger";

/// What happened and what to do, in one sentence.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    if let rusqlite::Error::SqliteFailure(code, why) = error
        && code.extended_code == rusqlite::ffi::SQLITE_IOERR_FSYNC
    {
        let why = why.as_deref().unwrap_or("fsync failed");
        return format!(
            "its disk did not confirm a write ({why}), which may have been recorded all the same; look at the kernel's log, mend the disk, then restart the executor"
        );
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "its disk is full; free some space".to_owned(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds its lock; let that finish, or end it".to_owned()
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "it may not be written; give this user the right to write the file and its directory"
                .to_owned()
        }
        Some(ErrorCode::CannotOpen) => {
            "its file or a file beside it cannot be opened; look at the rights of its directory and the room on its disk"
                .to_owned()
        }
        Some(ErrorCode::SystemIoFailure) => {
            "its disk refuses; look at its free space, at quotas and at the kernel's log".to_owned()
        }
        Some(ErrorCode::NotADatabase) => format!("it is not a ledger, or its head is damaged; {MEND}"),
        Some(ErrorCode::DatabaseCorrupt) => format!("it is damaged; {MEND}"),
        _ => "the database refused".to_owned(),
    }
}

/// Whether the ledger can be written, as of the last commit.
#[derive(Debug, Default)]
pub(super) struct Trouble(watch::Sender<Option<Outage>>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    reach: Reach,
    why: String,
}

impl Trouble {
    /// Why the ledger cannot be written, in a sentence.
    pub(super) fn why(&self) -> Option<String> {
        self.0.borrow().as_ref().map(|outage| outage.why.clone())
    }

    pub(super) fn stands(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Resolves while it stands, or as soon as it begins.
    pub(super) async fn begins(&self) {
        // The sender is ours.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }

    /// No waiting mends it.
    pub(super) fn lasts(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|outage| outage.reach > Reach::Passing)
    }

    /// It cannot be written. One log line, until it can; a second if it turns out to be damaged.
    pub(super) fn note(&self, reach: Reach, why: &str) {
        self.0.send_modify(|outage| {
            let known = outage.as_ref().map(|outage| outage.reach);
            let since = outage.as_ref().map_or_else(Instant::now, |outage| outage.since);
            if known.is_none_or(|known| known <= reach) {
                *outage = Some(Outage { since, reach, why: why.to_owned() });
            }
            if known.is_some_and(|known| known >= reach) {
                return;
            }
            match reach {
                Reach::Damaged => {
                    tracing::error!(event = "ledger_damaged", error = why, "the ledger is damaged; nothing more is taken or started, and a restart refuses it");
                }
                Reach::Unsure => {
                    tracing::error!(event = "ledger_unsure", error = why, "what the ledger wrote last may not be on its disk; nothing more is taken, started or recorded before a restart");
                }
                Reach::Passing | Reach::Verb => {
                    tracing::error!(event = "ledger_lost", error = why, "the ledger cannot be written; nothing more is taken, endings are kept until it can");
                }
            }
        });
    }

    /// A write of some size succeeded: the outage is over, unless it lasts.
    pub(super) fn over(&self) {
        self.0.send_modify(|outage| {
            if let Some(past) = outage.take_if(|outage| outage.reach <= Reach::Passing) {
                let seconds = past.since.elapsed().as_secs_f64();
                tracing::info!(
                    event = "ledger_back",
                    duration_seconds = seconds,
                    "the ledger can be written again"
                );
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
    }

    #[test]
    fn each_error_reaches_as_far_as_it_should() {
        use rusqlite::ffi;
        let table = [
            (ffi::SQLITE_FULL, Reach::Passing),
            (ffi::SQLITE_IOERR_WRITE, Reach::Passing),
            (ffi::SQLITE_BUSY, Reach::Passing),
            (ffi::SQLITE_READONLY_DIRECTORY, Reach::Passing),
            (ffi::SQLITE_CANTOPEN, Reach::Passing),
            (ffi::SQLITE_CORRUPT, Reach::Damaged),
            (ffi::SQLITE_NOTADB, Reach::Damaged),
            (ffi::SQLITE_CONSTRAINT_CHECK, Reach::Verb),
            (ffi::SQLITE_TOOBIG, Reach::Verb),
            (ffi::SQLITE_ERROR, Reach::Verb),
        ];
        for (code, expected) in table {
            assert_eq!(reach(&failure(code)), expected, "{code}");
        }
        assert_eq!(reach(&rusqlite::Error::InvalidQuery), Reach::Verb);
    }

    #[test]
    fn damage_is_not_mended_by_a_write() {
        let trouble = Trouble::default();
        trouble.note(Reach::Passing, "full");
        assert_eq!(trouble.why().as_deref(), Some("full"));
        trouble.over();
        assert!(!trouble.stands());
        trouble.note(Reach::Damaged, "damaged");
        trouble.note(Reach::Passing, "full");
        trouble.over();
        assert!(trouble.lasts());
        assert_eq!(trouble.why().as_deref(), Some("damaged"));
    }
}
