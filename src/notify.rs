//! What the service manager is told: readiness, a status line, that we live, that we stop.
//!
//! The protocol of `sd_notify(3)`: datagrams to the socket that `NOTIFY_SOCKET` names. Its crates read
//! the environment themselves, which is wiped by then, hence these few lines. Must not fail
//! anything: a manager that does not listen is no reason to stop.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::health::Health;

/// Where to tell, and how often to say that we live.
#[derive(Debug)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// From the values of `NOTIFY_SOCKET` and `WATCHDOG_USEC`; without them nothing is ever sent.
    pub fn new(socket: Option<&OsStr>, watchdog_usec: Option<&str>) -> Self {
        let target =
            socket.and_then(address).and_then(|to| Some((UnixDatagram::unbound().ok()?, to)));
        let usec = watchdog_usec.and_then(|text| text.parse().ok()).filter(|usec| *usec > 0);
        Self { target, watchdog: usec.map(Duration::from_micros) }
    }

    /// Serving has begun.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// The shutdown has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    /// Keeps the status line fresh and, as long as the main loop makes progress, tells the watchdog
    /// so at half its period. Never returns.
    pub async fn keep_telling(self: Arc<Self>, health: Arc<Health>) {
        let period = self.watchdog.map_or(Duration::from_secs(5), |watchdog| watchdog / 2);
        let mut tick = tokio::time::interval(period.min(Duration::from_secs(5)));
        loop {
            tick.tick().await;
            if self.watchdog.is_some() && health.live() {
                self.send("WATCHDOG=1");
            }
            if !health.draining() {
                self.status(&format!(
                    "{} of {} slots running",
                    health.running(),
                    health.facts().slots
                ));
            }
        }
    }

    fn send(&self, text: &str) {
        if let Some((socket, to)) = &self.target {
            // A full or vanished socket of the manager is its affair.
            let _ = socket.send_to_addr(text.as_bytes(), to);
        }
    }
}

/// A path, or with a leading `@` a name in the abstract space.
fn address(socket: &OsStr) -> Option<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        _ => SocketAddr::from_pathname(socket).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_reaches_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        Notifier::new(Some(path.as_os_str()), None).ready("2 slots");
        let mut text = [0; 100];
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1\nSTATUS=2 slots");
    }

    #[test]
    fn without_a_socket_nothing_happens() {
        Notifier::new(None, Some("3000000")).ready("2 slots");
    }
}
