//! The daemon: everything wired together, started in order, ended in order.
//!
//! Must not decide anything about jobs.

mod options;
mod parts;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{Environment, Loaded, Settings};
use crate::control;
use crate::dispatcher::{Dispatcher, ShutdownPlan, Unrecorded};
use crate::doors::leader::Leader;
use crate::experiments::Metrics;
use crate::flow::Flow;
use crate::health::{Facts, Health, RedisUse};
use crate::heartbeat::{Heart, IdentityTaken};
use crate::http::HttpError;
use crate::job::Claim;
use crate::ledger::{Ledger, OpenError};
use crate::link::{Link, LinkError};
use crate::log::{Log, LogError, LogOptions, Tap};
use crate::notify::Notifier;
use crate::publish::Publisher;
use crate::signals::{self, Signal};
use crate::slots::{Slots, SlotsError};
pub use options::options_in;
use options::{ledger_options, slot_options};

/// Why the daemon did not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Logging could not begin.
    #[error("logging could not begin")]
    Log(#[from] LogError),
    /// The ledger: exit 3, or 4 if another has it.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// Our name: exit 4.
    #[error(transparent)]
    Identity(#[from] IdentityTaken),
    /// The HTTP listener.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Python.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// The Redis URL.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Stopped in time, but the ledger would not be written.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
    /// The system refused.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the daemon until it has drained.
pub fn serve(loaded: Loaded, environment: &Environment) -> Result<(), ServeError> {
    // One thread: what is done here is short, and handing it from thread to thread would cost more
    // than doing it (docs/performance.md). Ledger, log and health have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::System { what: "no runtime", source })?;
    let notifier = Arc::new(Notifier::new(
        environment.get("NOTIFY_SOCKET").map(AsRef::as_ref),
        environment.get("WATCHDOG_USEC"),
    ));
    let log = Log::start(LogOptions {
        format: loaded.settings.log_format,
        level: loaded.settings.log_level.clone(),
        executor_id: loaded.settings.executor_id.clone(),
    })?;
    let ended = runtime.block_on(daemon(&loaded, &log, &notifier));
    if let Err(error) = &ended {
        let event = match error {
            ServeError::Unrecorded(_) => "stopped_unrecorded",
            _ => "start_failed",
        };
        tracing::error!(event, error = crate::flow::chain(error), "not serving");
    }
    runtime.shutdown_timeout(Duration::from_millis(200));
    log.finish();
    ended
}

/// What is there once everything has begun.
struct Daemon {
    health: Arc<Health>,
    ledger: Ledger,
    slots: Slots,
    redis: Option<Redis>,
    /// Tasks that end with the daemon.
    tasks: JoinSet<()>,
}

/// The parts that exist only with Redis.
struct Redis {
    link: Arc<Link>,
    heart: Arc<Heart>,
    publisher: Arc<Publisher>,
    leader: Arc<Leader>,
    metrics: Metrics,
    door: Option<tokio::task::JoinHandle<()>>,
}

async fn daemon(loaded: &Loaded, log: &Log, notifier: &Arc<Notifier>) -> Result<(), ServeError> {
    let settings = &loaded.settings;
    let signals = signals::listen()
        .map_err(|source| ServeError::System { what: "signals cannot be listened to", source })?;
    let (ledger, claims, recovered) = Ledger::open(ledger_options(settings))?;
    if recovered.put_back + recovered.lost > 0 {
        tracing::warn!(
            event = "recovered",
            put_back = recovered.put_back,
            lost = recovered.lost,
            "an executor died over this ledger; what it ran is queued again"
        );
    }
    let slots = Slots::start(slot_options(settings)?, log.output()).await?;
    let tier = slots.tier().clone();
    if let Some(advice) = &tier.advice {
        tracing::info!(event = "isolation", tier = tier.name, "{advice}");
    }
    let health = Health::new(Facts {
        executor_id: settings.executor_id.clone(),
        redis: if settings.redis.is_some() { RedisUse::Configured } else { RedisUse::None },
        slots: settings.concurrency,
        tier: tier.name,
    });
    health.loop_tick();
    let draining = watch::Sender::new(false);
    let link = match &settings.redis {
        Some(url) => Some(Arc::new(Link::new(url, Arc::clone(&health))?)),
        None => None,
    };
    let mut daemon = Daemon { health, ledger, slots, redis: None, tasks: JoinSet::new() };
    daemon.begin_http(settings, log, link.clone())?;
    if let Some(link) = link {
        daemon.begin_redis(settings, link, &draining).await?;
    }
    daemon.begin_schedules(settings);
    daemon.begin_pruning(settings);
    daemon.run(loaded, log.tap(), claims, signals, draining, notifier).await
}

impl Daemon {
    /// What asks us to end: signals, and that another has our name.
    fn also_if_taken(
        &mut self,
        mut signals: mpsc::Receiver<Signal>,
        heart: Option<&Heart>,
    ) -> mpsc::Receiver<Signal> {
        let Some(heart) = heart else { return signals };
        let (asks, asked) = mpsc::channel(8);
        let mut taken = heart.taken();
        self.tasks.spawn(async move {
            let mut told = false;
            loop {
                let signal = tokio::select! {
                    Some(signal) = signals.recv() => signal,
                    Ok(_) = taken.wait_for(Option::is_some), if !told => {
                        told = true;
                        Signal::NameTaken
                    }
                    else => return,
                };
                if asks.send(signal).await.is_err() {
                    return;
                }
            }
        });
        asked
    }

    /// Everything has begun and can be reached.
    fn tell_ready(&mut self, settings: &Settings, notifier: &Arc<Notifier>) {
        let python = self.slots.interpreter();
        tracing::info!(
            event = "ready",
            pid = std::process::id(),
            slots = settings.concurrency,
            python = python.version,
            start_method = %settings.python.start_method,
            isolation = self.slots.tier().name,
            ledger = %settings.ledger_path.display(),
            "serving"
        );
        notifier.ready(&format!("0 of {} slots running", settings.concurrency));
        self.tasks.spawn(Arc::clone(notifier).keep_telling(Arc::clone(&self.health)));
    }

    async fn run(
        mut self,
        loaded: &Loaded,
        tap: Tap,
        claims: mpsc::UnboundedReceiver<Claim>,
        signals: mpsc::Receiver<Signal>,
        draining: watch::Sender<bool>,
        notifier: &Arc<Notifier>,
    ) -> Result<(), ServeError> {
        let settings = &loaded.settings;
        let flow = Flow {
            slots: self.slots.clone(),
            start_method: settings.python.start_method,
            ledger: self.ledger.clone(),
            health: Arc::clone(&self.health),
            runs: self.redis.as_ref().map(|redis| self.runs(settings, redis)),
            backoff_min: settings.retry.backoff_min,
            backoff_max: settings.retry.backoff_max,
            on_shutdown: settings.on_shutdown,
        };
        let plan = ShutdownPlan::new(settings.shutdown_grace, settings.kill_grace);
        let heart = self.redis.as_ref().map(|redis| Arc::clone(&redis.heart));
        let signals = self.also_if_taken(signals, heart.as_deref());
        let mut asked_to_stop = draining.subscribe();
        let (dispatcher, handle) = Dispatcher::new(Arc::new(flow), claims, signals, draining, plan);
        self.begin_control(loaded, tap, handle);
        self.tell_ready(settings, notifier);
        let stopping = async {
            // The sender lives in the dispatcher: an error means that it has ended.
            let _ = asked_to_stop.wait_for(|stop| *stop).await;
            notifier.stopping();
            Instant::now()
        };
        let (recorded, begun) = tokio::join!(dispatcher.run(settings.concurrency), stopping);
        self.end(begun + plan.grace, &settings.ledger_path, recorded.is_ok()).await;
        recorded?;
        if let Some(taken) = heart.and_then(|heart| heart.taken().borrow().clone()) {
            return Err(taken.into());
        }
        tracing::info!(event = "stopped", "drained");
        Ok(())
    }

    /// Tells what is still to be told, frees the name, closes the ledger, by the deadline. A ledger
    /// that cannot be written is not asked any more.
    async fn end(&mut self, deadline: Instant, ledger_path: &Path, ledger_answers: bool) {
        let least = Instant::now() + Duration::from_millis(200);
        let deadline = (deadline - Duration::from_millis(300)).max(least);
        if let Some(redis) = &mut self.redis {
            if let Some(door) = redis.door.take() {
                // A take under way is completed; otherwise it stays noted in Redis.
                let _ = tokio::time::timeout_at(deadline, door).await;
            }
            self.tasks.shutdown().await;
            failpoint!("shutdown.doors");
            let told = async {
                let told = ledger_answers && redis.publisher.send_all().await;
                let released = redis.leader.release().await;
                let left = redis.heart.leave().await;
                told && released.is_ok() && left.is_ok()
            };
            if !tokio::time::timeout_at(deadline, told).await.unwrap_or(false) {
                tracing::warn!(
                    event = "not_told",
                    "Redis was not told everything; the next start does"
                );
            }
        }
        failpoint!("shutdown.told");
        self.slots.close().await;
        failpoint!("shutdown.slots");
        // Nobody is reached by it any more; one that stays is taken for a past life's.
        let _ = std::fs::remove_file(control::path_of(ledger_path));
        if ledger_answers {
            let deadline = deadline.max(Instant::now() + Duration::from_millis(200));
            let _ = tokio::time::timeout_at(deadline, self.ledger.close()).await;
        }
        failpoint!("shutdown.closed");
    }
}
