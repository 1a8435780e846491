//! The `TMPDIR` of one run: made ahead, removed with all that is in it. Follows no links.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Empties the place where runs get their directories.
pub(super) fn reset(runtime_dir: &Path) -> io::Result<()> {
    let root = runtime_dir.join("tmp");
    remove_tree(&root)?;
    DirBuilder::new().recursive(true).mode(0o700).create(root)
}

/// A new private directory.
pub(super) fn make(runtime_dir: &Path) -> io::Result<PathBuf> {
    let path = runtime_dir.join("tmp").join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

/// Removes it. The usual case, an empty one, costs one system call.
pub(super) async fn remove(path: PathBuf) -> io::Result<()> {
    match fs::remove_dir(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(_) => tokio::task::spawn_blocking(move || remove_tree(&path))
            .await
            .map_err(io::Error::other)?,
    }
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
        reset(root.path()).unwrap();
        let outside = root.path().join("kept");
        fs::write(&outside, "x").unwrap();
        let path = make(root.path()).unwrap();
        let inner = path.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        std::os::unix::fs::symlink(root.path(), inner.join("link")).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o000)).unwrap();
        remove(path.clone()).await.unwrap();
        assert!(!path.exists() && outside.exists());
    }

    #[tokio::test]
    async fn a_run_may_have_replaced_it_by_a_file() {
        let root = tempfile::tempdir().unwrap();
        reset(root.path()).unwrap();
        let path = make(root.path()).unwrap();
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "x").unwrap();
        remove(path.clone()).await.unwrap();
        assert!(!path.exists());
    }
}
