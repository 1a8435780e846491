//! One executor leads: a lease in Redis with a fence, renewed, handed over at once on a clean stop.
//!
//! Each act of a leader is a script that compares the lease itself; what is known here only says
//! whether it is worth trying.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, Script};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::job::Source;
use crate::link::{Link, Perform};

/// The lease.
pub(super) const LEADER: &str = "executor:leader";
/// Counts leases.
const FENCE: &str = "executor:leader:fence";
/// Where a leader that stops says so.
pub(super) const RELEASED: &str = "executor:leader";
/// What is due: the list that all executors take from.
pub const DUE: &str = "executor:due";

/// How long a lease lasts, and how often it is renewed.
const LEASE: Duration = Duration::from_secs(8);
const RENEW: Duration = Duration::from_secs(2);

const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[2], 'released')
end";

/// An item of [`DUE`]: a word for its door, then its payload as it came.
pub fn item(source: Source, payload: &[u8]) -> Vec<u8> {
    let mut item = source.as_str().as_bytes().to_vec();
    item.push(b'\n');
    item.extend_from_slice(payload);
    item
}

/// The door and the payload of an item.
pub fn read_item(item: &[u8]) -> Option<(Source, &[u8])> {
    let at = item.iter().position(|byte| *byte == b'\n')?;
    let source = Source::from_word(std::str::from_utf8(&item[..at]).ok()?)?;
    Some((source, &item[at + 1..]))
}

/// The lease, as far as this executor knows.
#[derive(Debug)]
pub struct Leader {
    link: Arc<Link>,
    ledger_id: String,
    lease: watch::Sender<Option<String>>,
    look_now: Notify,
}

impl Leader {
    /// Nobody's yet.
    pub fn new(link: Arc<Link>, ledger_id: String) -> Self {
        Self { link, ledger_id, lease: watch::Sender::new(None), look_now: Notify::new() }
    }

    /// The link it leads over.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The lease if we hold it, as it changes.
    pub fn lease(&self) -> watch::Receiver<Option<String>> {
        self.lease.subscribe()
    }

    /// Another leader has stopped: look at once.
    pub fn look_now(&self) {
        self.look_now.notify_one();
    }

    /// Takes and renews the lease for ever.
    pub async fn run(&self) {
        let mut good_until = Instant::now();
        loop {
            let asked = Instant::now();
            match self.ask().await {
                Ok(lease) => {
                    good_until = asked + LEASE;
                    self.note((!lease.is_empty()).then_some(lease));
                }
                Err(error) => {
                    self.link.failed(&error).await;
                    if Instant::now() >= good_until {
                        self.note(None);
                    }
                }
            }
            let _ = tokio::time::timeout(RENEW, self.look_now.notified()).await;
        }
    }

    async fn ask(&self) -> Result<String, RedisError> {
        let mut connection = self.link.connection().await?;
        failpoint!("lead.before", crate::failpoint::broken().into());
        let lease = Script::new(include_str!("lua/lead.lua"))
            .key(LEADER)
            .key(FENCE)
            .arg(&self.ledger_id)
            .arg(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX))
            .perform(&mut connection)
            .await?;
        failpoint!("lead.after", crate::failpoint::broken().into());
        Ok(lease)
    }

    fn note(&self, lease: Option<String>) {
        self.lease.send_if_modified(|known| {
            let changed = *known != lease;
            if changed {
                match &lease {
                    Some(lease) => tracing::info!(
                        event = "leading",
                        lease,
                        "this executor leads on triggers, schedules and cycles"
                    ),
                    None => tracing::info!(event = "following", "another executor leads"),
                }
                *known = lease;
            }
            changed
        });
    }

    /// Puts an item on the list of what is due; `false`: another leads. Repeated with the same mark
    /// it puts it there once.
    pub async fn push(&self, item: &[u8], mark: &str) -> Result<bool, RedisError> {
        let Some(lease) = self.lease.borrow().clone() else { return Ok(false) };
        let mut connection = self.link.connection().await?;
        Script::new(include_str!("lua/push.lua"))
            .key(LEADER)
            .key(DUE)
            .key(format!("executor:pushed:{mark}"))
            .arg(lease)
            .arg(item)
            .perform(&mut connection)
            .await
    }

    /// Lets the lease go and tells the others.
    pub async fn release(&self) -> Result<(), RedisError> {
        let Some(lease) = self.lease.send_replace(None) else { return Ok(()) };
        let mut connection = self.link.connection().await?;
        Script::new(RELEASE).key(LEADER).arg(lease).arg(RELEASED).perform(&mut connection).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_keeps_its_payload_byte_for_byte() {
        let payload = b"\xff{\n}";
        assert_eq!(
            read_item(&item(Source::Cron, payload)),
            Some((Source::Cron, payload.as_slice()))
        );
        assert_eq!(read_item(b"nonsense"), None);
        assert_eq!(read_item(b"no_door\n{}"), None);
    }
}
