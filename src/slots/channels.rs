//! The channels of one run: frames, stdout, stderr, and the memory its crash dump goes to.
//!
//! Made when its process is, so that nothing is left to make when its request comes.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

use super::spawn;

/// Both sides.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) frames: AsyncFd<OwnedFd>,
    pub(super) stdout: AsyncFd<OwnedFd>,
    pub(super) stderr: AsyncFd<OwnedFd>,
    pub(super) dump: OwnedFd,
    /// The ends of frames, stdout and stderr that the run gets.
    pub(super) theirs: [OwnedFd; 3],
}

impl Channels {
    pub(super) fn make() -> io::Result<Self> {
        let (frames, frames_theirs) = spawn::pipe()?;
        let (stdout, stdout_theirs) = spawn::pipe()?;
        let (stderr, stderr_theirs) = spawn::pipe()?;
        Ok(Self {
            frames: spawn::watched(frames)?,
            stdout: spawn::watched(stdout)?,
            stderr: spawn::watched(stderr)?,
            dump: spawn::memory(c"executor-dump", None)?,
            theirs: [frames_theirs, stdout_theirs, stderr_theirs],
        })
    }
}
