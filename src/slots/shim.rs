//! The Python side, carried inside the binary and written where slots can read it.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names the files of the package once, for embedding and for writing.
macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../python_shim/executor_shim/", $name)))),+]
    };
}

const FILES: &[(&str, &str)] = files![
    "__init__.py",
    "armed.py",
    "describe.py",
    "endings.py",
    "errors.py",
    "executor_sample.py",
    "failures.py",
    "frames.py",
    "loader.py",
    "messages.py",
    "parameters.py",
    "preload.py",
    "preload_probe.py",
    "runner.py",
    "serving.py",
    "site_effects.py",
    "slot.py",
    "sources.py",
    "spawned.py",
    "values.py",
];

/// Writes the package `executor_shim` under `runtime_dir/shim` and gives that directory. What was there
/// before is replaced.
pub(super) fn write(runtime_dir: &Path) -> io::Result<PathBuf> {
    let root = runtime_dir.join("shim");
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let package = root.join("executor_shim");
    DirBuilder::new().recursive(true).mode(0o700).create(&package)?;
    for (name, text) in FILES {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(package.join(name))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(root)
}
