//! Signals that ask the daemon to end.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: the service manager.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// No signal: another living executor bears our name.
    NameTaken,
}

/// From here on a file that may not grow is an error of the write, as a full disk is, and no reason to
/// die. Must be called within a runtime.
pub fn outlive_file_limits() -> std::io::Result<()> {
    // Caught rather than ignored: what we start begins with the default.
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}

/// Starts to listen. Each signal arrives on the receiver; the default action, which is to die, is
/// gone from here on.
pub fn listen() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(8);
    outlive_file_limits()?;
    for (kind, meaning) in [
        (SignalKind::terminate(), Signal::Terminate),
        (SignalKind::interrupt(), Signal::Interrupt),
        (SignalKind::hangup(), Signal::Hangup),
    ] {
        let (mut stream, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(meaning).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(receiver)
}
