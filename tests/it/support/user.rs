//! An ordinary user for an executor, where the tests run as root.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::executor::{binary, fixtures};

/// `nobody`, as Debian and the kernel number it.
const UID: u32 = 65534;

/// What this user can reach: root may have built in a directory that is closed to others.
pub(crate) struct User {
    pub(crate) root: PathBuf,
    pub(crate) binary: PathBuf,
    pub(crate) python: PathBuf,
}

impl User {
    /// Gives `root` to the user, with a copy of the binary and the fixtures in it.
    pub(crate) fn new(root: &Path) -> Self {
        let copy = root.join("executor");
        std::fs::copy(binary(), &copy).unwrap();
        let from = fixtures().join("tasks_misbehaving");
        copy_tree(&from, &root.join("tasks_misbehaving"));
        give(root);
        Self { root: root.to_owned(), binary: copy, python: python() }
    }

    /// What goes before a command to make it this user's.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        prefix()
    }
}

fn prefix() -> Vec<OsString> {
    let words = ["setpriv", "--clear-groups", &format!("--reuid={UID}"), &format!("--regid={UID}")];
    words.map(OsString::from).to_vec()
}

/// The first interpreter on the path that this user may run and that is new enough.
fn python() -> PathBuf {
    let path = std::env::var("PATH").unwrap();
    let usable = |python: &PathBuf| {
        let mut command = Command::new(&prefix()[0]);
        command
            .args(&prefix()[1..])
            .arg(python)
            .args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]);
        python.exists() && command.env("HOME", "/").output().is_ok_and(|out| out.status.success())
    };
    std::env::split_paths(&format!("{path}:/usr/bin:/usr/local/bin"))
        .map(|dir| dir.join("python3"))
        .find(usable)
        .expect("no python3 (3.11 or newer) on the PATH or in /usr/bin may be run by an ordinary user; install Debian's python3")
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn give(path: &Path) {
    std::os::unix::fs::chown(path, Some(UID), Some(UID)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            give(&entry.path());
        }
    }
}
