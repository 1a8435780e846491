//! The connection to Redis: opened, watched, reopened; one log line for each outage and one for its end.
//!
//! Knows nothing of jobs. Every call has a deadline; a connection that missed one is dropped, never
//! used again, because its late answer would be taken for that of the next question.

mod ask;
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::config::RedisUrl;
use crate::health::Health;

pub use ask::{Change, Examination, Follow, connect, examine, push, schedules, waiting};
pub use script::Perform;

/// How long opening a connection may take.
const OPENING: Duration = Duration::from_secs(3);
/// How long the answer to a mere look may take before a new connection is asked.
const SOON: Duration = Duration::from_secs(2);
/// How long an answer may take. The crate's own default is half a second.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two looks whether Redis answers, while it does and while it does not.
const LOOK_UP: Duration = Duration::from_secs(1);
const LOOK_DOWN: Duration = Duration::from_millis(250);
/// Written to see that an outage is over; expires at once.
const PROBE: &str = "executor:probe";

/// Why Redis could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The URL cannot be used.
    #[error("the Redis URL cannot be used")]
    Url(#[source] RedisError),
    /// No answer, or one that is an error.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// A client for this URL. The crate asks rustls for no crypto provider: it is installed here.
fn client(url: &RedisUrl) -> Result<Client, LinkError> {
    // A second installation is refused, and the first serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::open(url.expose()).map_err(LinkError::Url)
}

async fn open(client: &Client, answer: Duration) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(OPENING))
        .set_response_timeout(Some(answer));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// The connection that all share, and how the last try to open one failed.
#[derive(Debug, Default)]
struct Shared {
    connection: Option<MultiplexedConnection>,
    failed: Option<(Instant, RedisError)>,
}

/// The daemon's link. Shared by all that talk to Redis.
#[derive(Debug)]
pub struct Link {
    client: Client,
    shared: Mutex<Shared>,
    health: Arc<Health>,
    up: watch::Sender<bool>,
    told_down: AtomicBool,
}

impl Link {
    /// A link that has not been opened; [`Link::watch`] keeps it open.
    pub fn new(url: &RedisUrl, health: Arc<Health>) -> Result<Self, LinkError> {
        Ok(Self {
            client: client(url)?,
            shared: Mutex::default(),
            health,
            up: watch::Sender::new(false),
            told_down: AtomicBool::new(false),
        })
    }

    /// Whether Redis answers, as it changes. Each turn to `true` is a return after an outage.
    pub fn state(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    /// The shared connection, for calls that answer at once.
    pub async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let asked = Instant::now();
        let mut shared = self.shared.lock().await;
        if let Some(connection) = &shared.connection {
            return Ok(connection.clone());
        }
        // Whoever waited for another's try shares its failure: one after the other would take long.
        if let Some((at, error)) = &shared.failed
            && *at > asked
        {
            return Err(error.clone());
        }
        match open(&self.client, ANSWER).await {
            Ok(connection) => {
                shared.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                shared.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// A connection of one's own, for calls that block up to `answer`.
    pub async fn own(&self, answer: Duration) -> Result<MultiplexedConnection, RedisError> {
        open(&self.client, answer).await
    }

    /// A connection that listens to these channels.
    pub async fn subscription(&self, channels: &[String]) -> Result<PubSub, RedisError> {
        let opening = async {
            let mut messages = self.client.get_async_pubsub().await?;
            for channel in channels {
                messages.subscribe(channel).await?;
            }
            Ok(messages)
        };
        tokio::time::timeout(OPENING, opening).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Whether Redis answers within this time; else why not, in a sentence. An outage that is known
    /// needs no question.
    pub async fn answers_within(&self, time: Duration) -> Result<(), String> {
        let away = || "Redis does not answer".to_owned();
        if self.health.redis_up() == Some(false) {
            return Err(away());
        }
        let asked = async { self.question(&mut self.connection().await?).await };
        match tokio::time::timeout(time, asked).await {
            Ok(answer) => answer.map_err(|_| away()),
            Err(_) => Err(format!("Redis did not answer within {time:?}")),
        }
    }

    /// A call failed: if that was the connection's fault it is dropped, and if Redis does not answer
    /// on a new one, or refuses as a whole, the outage is noted.
    pub async fn failed(&self, error: &RedisError) {
        if !is_outage(error) {
            return;
        }
        self.shared.lock().await.connection = None;
        // A connection can break, or miss its time, while Redis is well.
        if error.code().is_none() && self.look().await.is_ok() {
            return;
        }
        self.note_down(error);
    }

    /// Looks now and again whether Redis answers; never returns.
    pub async fn watch(self: Arc<Self>) {
        let mut since = Instant::now();
        loop {
            let looked = self.look().await;
            match &looked {
                Ok(()) => self.note_up(since.elapsed()),
                Err(error) => {
                    if *self.up.borrow() {
                        since = Instant::now();
                    }
                    self.shared.lock().await.connection = None;
                    self.note_down(error);
                }
            }
            tokio::time::sleep(if looked.is_ok() { LOOK_UP } else { LOOK_DOWN }).await;
        }
    }

    /// Looks whether Redis answers. A connection that is broken or misses its time is given up, and
    /// a new one asked, before Redis itself is blamed.
    async fn look(&self) -> Result<(), RedisError> {
        let mut connection = self.connection().await?;
        match tokio::time::timeout(SOON, self.question(&mut connection)).await {
            Ok(Err(error)) if error.code().is_some() => return Err(error),
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) | Err(_) => {}
        }
        self.shared.lock().await.connection = None;
        let mut connection = self.connection().await?;
        self.question(&mut connection).await
    }

    async fn question(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let question = if self.told_down.load(Ordering::Relaxed) {
            // A full or read-only Redis answers PING, yet refuses all that matters.
            redis::cmd("SET").arg(PROBE).arg("").arg("PX").arg(1000).to_owned()
        } else {
            redis::cmd("PING")
        };
        match question.query_async::<()>(connection).await {
            Err(error) if is_outage(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn note_up(&self, after: Duration) {
        let told_down = self.told_down.swap(false, Ordering::Relaxed);
        if told_down {
            let seconds = after.as_secs_f64();
            tracing::info!(event = "redis_back", duration_seconds = seconds, "Redis answers again");
        }
        self.health.set_redis(true);
        self.up.send_if_modified(|up| !std::mem::replace(up, true));
    }

    fn note_down(&self, error: &RedisError) {
        self.health.set_redis(false);
        self.up.send_if_modified(|up| std::mem::replace(up, false));
        if !self.told_down.swap(true, Ordering::Relaxed) {
            self.health.metrics().outage();
            tracing::warn!(event = "redis_lost", error = %error, "Redis does not answer; jobs in the ledger run on, trying again until it does");
        }
    }
}

/// Whether an error means that this user may not do that, here or within a script. Only people mend it.
pub fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
        || error.to_string().contains("The user executing the script can't")
}

/// What a connection says that has missed its time.
pub fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Whether an error means that Redis as a whole cannot be used now, rather than one command.
pub fn is_outage(error: &RedisError) -> bool {
    const CODES: &[&str] = &[
        "LOADING",
        "MASTERDOWN",
        "READONLY",
        "BUSY",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MISCONF",
        "OOM",
        "NOAUTH",
        "WRONGPASS",
        "UNKILLABLE",
        "NOREPLICAS",
        "UNBLOCKED",
    ];
    match error.code() {
        Some(code) => CODES.contains(&code),
        // An answer of another shape than expected, or several refusals of a pipeline.
        None => !matches!(error.kind(), ErrorKind::UnexpectedReturnType | ErrorKind::Extension),
    }
}
