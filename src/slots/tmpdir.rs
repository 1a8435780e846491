//! The `TMPDIR` of one run: gone with all that is in it when the run is over. Follows no links.
//!
//! A file system with a journal takes long to make and to remove a directory. One that a run left
//! empty and as it was is therefore renamed for the next run, which knows nothing of it.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Dir, Mode, OFlags, fstat, openat};

/// A directory, readable, writable and searchable by its owner alone.
const PRIVATE_DIRECTORY: u32 = 0o040_700;

/// The directories of all runs.
#[derive(Debug)]
pub(super) struct TmpDirs {
    root: PathBuf,
    next: AtomicU64,
    /// Made, empty, under names that no run has seen.
    spare: Mutex<Vec<PathBuf>>,
}

impl TmpDirs {
    /// Empties the place where runs get their directories.
    pub(super) fn reset(runtime_dir: &Path) -> io::Result<Self> {
        let root = runtime_dir.join("tmp");
        remove_tree(&root)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root, next: AtomicU64::new(1), spare: Mutex::default() })
    }

    /// A private, empty directory.
    pub(super) fn take(&self) -> io::Result<PathBuf> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(path) = spare {
            return Ok(path);
        }
        let path = self.name();
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Takes the name `path` from the file system: at once if the run left it empty.
    pub(super) async fn put(&self, path: PathBuf) -> io::Result<()> {
        if is_as_made(&path) {
            let renamed = self.name();
            if fs::rename(&path, &renamed).is_ok() {
                self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(renamed);
                return Ok(());
            }
        }
        tokio::task::spawn_blocking(move || remove_tree(&path)).await.map_err(io::Error::other)?
    }

    fn name(&self) -> PathBuf {
        self.root.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

/// Whether it is the directory that was made, with its mode, and nothing in it.
fn is_as_made(path: &Path) -> bool {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(directory) = openat(CWD, path, flags, Mode::empty()) else { return false };
    let as_made = fstat(&directory).is_ok_and(|stat| stat.st_mode == PRIVATE_DIRECTORY);
    let Ok(entries) = Dir::new(directory) else { return false };
    as_made
        && entries.into_iter().all(|entry| {
            entry.is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
        })
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if gone(fs::remove_dir_all(path)).is_ok() {
        return Ok(());
    }
    open_up(path);
    gone(fs::remove_dir_all(path))
}

/// Gives back to the owner what a run took away: modes of directories.
fn open_up(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let _ = fs::set_permissions(path, Permissions::from_mode(0o700));
        }
        Ok(_) => {
            let _ = fs::remove_file(path);
            return;
        }
        Err(_) => return,
    }
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        open_up(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_goes_with_what_it_holds_but_not_with_what_it_points_to() {
        let root = tempfile::tempdir().unwrap();
        let dirs = TmpDirs::reset(root.path()).unwrap();
        let outside = root.path().join("kept");
        fs::write(&outside, "x").unwrap();
        let path = dirs.take().unwrap();
        let inner = path.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        std::os::unix::fs::symlink(root.path(), inner.join("link")).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o000)).unwrap();
        dirs.put(path.clone()).await.unwrap();
        assert!(!path.exists() && outside.exists());
    }

    #[tokio::test]
    async fn a_run_may_have_replaced_it_by_a_file_or_a_link() {
        let root = tempfile::tempdir().unwrap();
        let dirs = TmpDirs::reset(root.path()).unwrap();
        let path = dirs.take().unwrap();
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "x").unwrap();
        dirs.put(path.clone()).await.unwrap();
        assert!(!path.exists());
        let elsewhere = tempfile::tempdir().unwrap();
        let path = dirs.take().unwrap();
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &path).unwrap();
        dirs.put(path.clone()).await.unwrap();
        assert!(fs::symlink_metadata(&path).is_err() && elsewhere.path().exists());
        assert!(dirs.spare.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_left_as_it_was_serves_again_under_another_name_and_only_then() {
        let root = tempfile::tempdir().unwrap();
        let dirs = TmpDirs::reset(root.path()).unwrap();
        let first = dirs.take().unwrap();
        dirs.put(first.clone()).await.unwrap();
        let second = dirs.take().unwrap();
        assert!(!first.exists() && second.is_dir() && first != second);
        fs::set_permissions(&second, Permissions::from_mode(0o755)).unwrap();
        dirs.put(second.clone()).await.unwrap();
        assert!(!second.exists());
        assert!(dirs.spare.lock().unwrap().is_empty());
    }
}
