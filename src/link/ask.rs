//! Single questions, for commands: push a job, follow it, count what waits, look a Redis over.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use redis::AsyncCommands;
use redis::aio::{MultiplexedConnection, PubSub};

use super::{ANSWER, LinkError, client, open};
use crate::config::RedisUrl;
use crate::job::JobId;

/// How often the hash is read beside the messages, which have no memory.
const LOOK: Duration = Duration::from_secs(1);

/// A connection for a command that has several questions.
pub async fn connect(url: &RedisUrl) -> Result<MultiplexedConnection, LinkError> {
    Ok(open(&client(url)?, ANSWER).await?)
}

/// Pushes a payload onto a list.
pub async fn push(url: &RedisUrl, queue: &str, payload: &str) -> Result<(), LinkError> {
    let mut connection = open(&client(url)?, ANSWER).await?;
    Ok(connection.lpush::<_, _, ()>(queue, payload).await?)
}

/// How many elements a list has.
pub async fn waiting(url: &RedisUrl, queue: &str) -> Result<u64, LinkError> {
    let mut connection = open(&client(url)?, ANSWER).await?;
    Ok(connection.llen(queue).await?)
}

/// What Redis shows of a job: the fields of `executor:job:{id}`.
pub type Change = BTreeMap<String, String>;

/// A job followed from outside the ledger.
pub struct Follow {
    key: String,
    connection: MultiplexedConnection,
    messages: PubSub,
    last: Change,
}

impl Follow {
    /// Begins to follow; do so before the job is pushed, so that nothing is missed.
    pub async fn begin(url: &RedisUrl, id: &JobId) -> Result<Self, LinkError> {
        let client = client(url)?;
        let mut messages = client.get_async_pubsub().await?;
        messages.subscribe("executor:job_events").await?;
        let connection = open(&client, ANSWER).await?;
        let key = format!("executor:job:{id}");
        Ok(Self { key, connection, messages, last: Change::new() })
    }

    /// The job's fields once they have changed, or after a second without change.
    pub async fn next(&mut self) -> Result<Change, LinkError> {
        loop {
            let now: Change = self.connection.hgetall(&self.key).await?;
            if now != self.last {
                self.last.clone_from(&now);
                return Ok(now);
            }
            let mut stream = self.messages.on_message();
            let waited = tokio::time::timeout(LOOK / 5, stream.next()).await;
            if waited.is_err() {
                return Ok(now);
            }
        }
    }
}

/// What a look at a Redis found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// `7.0.15`.
    pub version: String,
    /// Whether writes are logged (`appendonly`).
    pub append_only: bool,
    /// Whether snapshots are made.
    pub snapshots: bool,
    /// `noeviction`, `allkeys-lru`, …; empty where it does not say.
    pub eviction: String,
}

/// Looks a Redis over.
pub async fn examine(url: &RedisUrl) -> Result<Examination, LinkError> {
    let mut connection = open(&client(url)?, ANSWER).await?;
    let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
    let value = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let save: Result<(String, String), _> =
        redis::cmd("CONFIG").arg("GET").arg("save").query_async(&mut connection).await;
    Ok(Examination {
        version: value("redis_version"),
        append_only: value("aof_enabled") == "1",
        // Where CONFIG is not allowed nothing is said against it.
        snapshots: save.map_or(true, |(_, save)| !save.is_empty()),
        eviction: value("maxmemory_policy"),
    })
}

/// The schedules stored in `schedules:{id}`, sorted by id; what is no text is left out.
pub async fn schedules(url: &RedisUrl) -> Result<Vec<(String, String)>, LinkError> {
    let mut connection = open(&client(url)?, ANSWER).await?;
    let keys: Vec<String> = {
        let mut found = connection.scan_match::<_, String>("schedules:*").await?;
        let mut keys = Vec::new();
        while let Some(key) = found.next_item().await {
            keys.push(key?);
        }
        keys
    };
    let mut schedules = Vec::new();
    for key in keys {
        let text: Result<Option<String>, _> = connection.get(&key).await;
        if let Ok(Some(text)) = text {
            schedules.push((key.strip_prefix("schedules:").unwrap_or(&key).to_owned(), text));
        }
    }
    schedules.sort();
    schedules.dedup();
    Ok(schedules)
}
