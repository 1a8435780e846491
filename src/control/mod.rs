//! The socket beside the ledger, by which other commands reach a running `serve`.
//!
//! One connection, one request, one JSON line each; a follow answers with a line for each line of
//! output. Must not decide anything: it hands on.

mod client;
mod protocol;
mod server;

use std::path::{Path, PathBuf};

pub use client::{Client, ClientError};
pub use protocol::{CancelReply, Line, Reply, Request, RetryReply, SubmitReply};
pub use server::{Services, serve};

/// The longest path a socket's address holds.
const LONGEST: usize = 107;

/// Where the socket of a ledger is.
pub fn path_of(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".sock");
    name.into()
}

/// A path short enough for an address: the same file seen from its directory's descriptor.
fn short(path: &Path) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    if path.as_os_str().len() <= LONGEST {
        return Ok((path.to_owned(), None));
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((path.to_owned(), None));
    };
    let dir = std::fs::File::open(dir)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
    Ok((Path::new("/proc/self/fd").join(fd.to_string()).join(name), Some(dir)))
}
