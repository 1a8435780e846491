//! The heartbeat: that we live, under which name, and who else serves the same queue.
//!
//! Living means: the key stands and names a ledger (SPEC 3). One script looks and writes, so that of
//! two that start at once only one gets the name.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, Script};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::health::Health;
use crate::link::{Link, Perform, is_outage};

/// Missed intervals after which an executor counts as dead.
const MISSED: u32 = 3;

/// Looks who bears the name; if nobody else does, writes the heartbeat and counts the executors on
/// the queue by Redis' own clock.
const BEAT: &str = include_str!("heartbeat.lua");

/// Takes the heartbeat away, if it is ours.
const LEAVE: &str = "
if redis.call('HGET', KEYS[1], 'ledger_id') == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[2])
end";

/// Who beats.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This executor's name.
    pub executor_id: String,
    /// Its ledger.
    pub ledger_id: String,
    /// The queue it serves.
    pub queue: String,
    /// Between two beats.
    pub interval: Duration,
}

/// Another living executor bears our name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "another living executor is called {executor_id} (its ledger is {ledger_id}); give this one a name of its own with EXECUTOR_ID, or stop the other"
)]
pub struct IdentityTaken {
    /// The name.
    pub executor_id: String,
    /// The other's ledger.
    pub ledger_id: String,
}

/// What a beat found.
#[derive(Debug, PartialEq, Eq)]
pub enum Beat {
    /// So many executors serve our queue, this one among them.
    Living(u32),
    /// Another has our name.
    Taken(IdentityTaken),
}

/// The heart.
#[derive(Debug)]
pub struct Heart {
    identity: Identity,
    link: Arc<Link>,
    health: Arc<Health>,
    peers: watch::Sender<u32>,
    taken: watch::Sender<Option<IdentityTaken>>,
}

impl Heart {
    /// A heart that has not beaten.
    pub fn new(identity: Identity, link: Arc<Link>, health: Arc<Health>) -> Self {
        let (peers, taken) = (watch::Sender::new(1), watch::Sender::new(None));
        Self { identity, link, health, peers, taken }
    }

    /// How many executors serve our queue, this one among them. Whoever learns it anew says so.
    pub fn peers(&self) -> watch::Sender<u32> {
        self.peers.clone()
    }

    /// Redis' list of them: names by the time (ms) at which each counts as dead.
    pub fn members(&self) -> String {
        format!("executor:queue_members:{}", self.identity.queue)
    }

    /// Who has our name, once that is found out: then this heart no longer beats.
    pub fn taken(&self) -> watch::Receiver<Option<IdentityTaken>> {
        self.taken.subscribe()
    }

    /// One beat to Redis.
    pub async fn beat(&self) -> Result<Beat, RedisError> {
        let mut connection = self.link.connection().await?;
        failpoint!("beat.before", crate::failpoint::broken().into());
        let expiry = self.identity.interval * MISSED;
        let (living, answer): (bool, String) = Script::new(BEAT)
            .key(self.key())
            .key(self.members())
            .arg(&self.identity.ledger_id)
            .arg(&self.identity.executor_id)
            .arg(u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX))
            .arg(self.health.running())
            .arg(self.health.facts().slots)
            .arg(clock::text(clock::now()))
            .arg(&self.identity.queue)
            .perform(&mut connection)
            .await?;
        if !living {
            let executor_id = self.identity.executor_id.clone();
            return Ok(Beat::Taken(IdentityTaken { executor_id, ledger_id: answer }));
        }
        let peers = answer.parse().unwrap_or(1);
        self.peers.send_if_modified(|known| std::mem::replace(known, peers) != peers);
        Ok(Beat::Living(peers))
    }

    /// Beats for ever. A Redis that does not answer holds up neither the log line nor the gauge.
    pub async fn run(&self) {
        tokio::join!(self.log(), self.show());
    }

    async fn log(&self) {
        let mut tick = tokio::time::interval(self.identity.interval);
        loop {
            tick.tick().await;
            let (running, slots) = (self.health.running(), self.health.facts().slots);
            tracing::info!(event = "heartbeat", running, slots, "alive");
            self.health.metrics().beat(clock::now());
        }
    }

    /// Shows Redis, at each interval and at each of its returns, until it is found that another
    /// living executor has our name: both began while Redis was away, or this one was stopped so long
    /// that it counted as dead.
    async fn show(&self) {
        let mut tick = tokio::time::interval(self.identity.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut back = self.link.state();
        let mut told = String::new();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = back.changed() => {
                    if changed.is_err() || !*back.borrow_and_update() { continue; }
                }
            }
            match self.beat().await {
                Ok(Beat::Living(_)) => told.clear(),
                Ok(Beat::Taken(taken)) => {
                    tell(&mut told, "identity_taken", taken.to_string());
                    self.taken.send_replace(Some(taken));
                    return;
                }
                Err(error) if is_outage(&error) => self.link.failed(&error).await,
                Err(error) => tell(&mut told, "heartbeat_refused", error.to_string()),
            }
        }
    }

    /// Takes the heartbeat away: a clean stop frees the name at once.
    pub async fn leave(&self) -> Result<(), RedisError> {
        let mut connection = self.link.connection().await?;
        Script::new(LEAVE)
            .key(self.key())
            .key(self.members())
            .arg(&self.identity.ledger_id)
            .arg(&self.identity.executor_id)
            .perform(&mut connection)
            .await
    }

    fn key(&self) -> String {
        format!("executor:heartbeat:{}", self.identity.executor_id)
    }
}

/// One log line for a trouble, however many beats it lasts.
fn tell(told: &mut String, event: &'static str, error: String) {
    if *told != error {
        tracing::error!(event, error, "Redis does not show that this executor lives");
        *told = error;
    }
}
