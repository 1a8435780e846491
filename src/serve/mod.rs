//! The daemon: everything wired together, started in order, ended in order.
//!
//! Must not decide anything about jobs.

mod options;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock;
use crate::config::{Environment, Loaded, Mode, Settings};
use crate::control::{self, Services};
use crate::dispatcher::{Dispatcher, Handle, ShutdownPlan};
use crate::doors::intake::Intake;
use crate::doors::leader::{self, Leader};
use crate::doors::queue::{List, QueueDoor};
use crate::doors::schedules::{Clockwork, Schedules};
use crate::doors::{cron, rescue, speedrun, trigger};
use crate::experiments::{Experiments, Metrics, Owner};
use crate::flow::{Flow, Runs};
use crate::health::{Facts, Health, RedisUse};
use crate::heartbeat::{Beat, Heart, Identity, IdentityTaken};
use crate::http::{self, HttpError, Sources};
use crate::job::Claim;
use crate::ledger::{Ledger, OpenError};
use crate::link::{Link, LinkError};
use crate::log::{Log, LogError, LogOptions, Tap};
use crate::notify::Notifier;
use crate::publish::{Progress, Publisher};
use crate::signals::{self, Signal};
use crate::slots::{Slots, SlotsError};
pub use options::options_in;
use options::{eligible, ledger_options, slot_options};

/// How often old jobs are removed, and how many in one step.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_STEP: u32 = 500;
/// What the main runtime may take beside the answer itself.
const SLACK: Duration = Duration::from_millis(200);
/// How long to wait for Redis at the start before going on without.
const REDIS_AT_START: Duration = Duration::from_secs(3);

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
    #[error(
        "the endings of {attempts} attempts could not be recorded before the grace was over, because the ledger cannot be written; the next start runs these jobs again"
    )]
    Unrecorded {
        /// How many.
        attempts: usize,
    },
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
            ServeError::Unrecorded { .. } => "stopped_unrecorded",
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

/// Asks Redis for the health page: on the main runtime, where the link lives, but no longer than the
/// page can wait.
fn ask_redis(link: Arc<Link>) -> Box<dyn Fn(Duration) -> http::Answer + Send + Sync> {
    let main = tokio::runtime::Handle::current();
    Box::new(move |time| {
        let link = Arc::clone(&link);
        let asked = main.spawn(async move { link.answers_within(time).await });
        Box::pin(async move {
            let answer = tokio::time::timeout(time + SLACK, asked).await;
            answer.ok().and_then(Result::ok).unwrap_or_else(|| {
                Err("it could not be asked: this executor is busy or ends".to_owned())
            })
        })
    })
}

impl Daemon {
    fn begin_http(
        &self,
        settings: &Settings,
        log: &Log,
        link: Option<Arc<Link>>,
    ) -> Result<(), ServeError> {
        let Some(addr) = settings.http_addr else { return Ok(()) };
        let (asked, counted, tap) = (self.ledger.clone(), self.ledger.clone(), log.tap());
        let sources = Sources {
            health: Arc::clone(&self.health),
            redis: link.map(ask_redis),
            ledger: Box::new(move |time| {
                let ledger = asked.clone();
                Box::pin(async move { ledger.writable_within(time).await })
            }),
            counts: Box::new(move || (counted.waiting(), tap.dropped())),
        };
        let addr = http::serve(addr, sources)?;
        tracing::info!(event = "http_listening", addr = %addr, "/healthz, /livez, /metrics");
        Ok(())
    }

    async fn begin_redis(
        &mut self,
        settings: &Settings,
        link: Arc<Link>,
        draining: &watch::Sender<bool>,
    ) -> Result<(), ServeError> {
        let identity = Identity {
            executor_id: settings.executor_id.clone(),
            ledger_id: self.ledger.id().to_owned(),
            queue: settings.job_queue.clone(),
            interval: settings.heartbeat_interval,
        };
        let heart = Arc::new(Heart::new(identity, Arc::clone(&link), Arc::clone(&self.health)));
        match tokio::time::timeout(REDIS_AT_START, heart.beat()).await {
            Ok(Ok(Beat::Taken(taken))) => return Err(taken.into()),
            Ok(Ok(Beat::Living(_))) => self.health.set_redis(true),
            Ok(Err(error)) => link.failed(&error).await,
            Err(_) => {}
        }
        self.tasks.spawn(Arc::clone(&link).watch());
        let beating = Arc::clone(&heart);
        self.tasks.spawn(async move { beating.run().await });
        let publisher = Arc::new(Publisher::new(
            Arc::clone(&link),
            self.ledger.clone(),
            Arc::clone(&self.health),
            settings.status_ttl,
        ));
        let publishing = Arc::clone(&publisher);
        self.tasks.spawn(async move { publishing.run().await });
        let door = QueueDoor {
            lists: vec![List::Due(leader::DUE), List::Jobs(settings.job_queue.clone())],
            look_again: settings.heartbeat_interval,
            link: Arc::clone(&link),
            ledger: self.ledger.clone(),
            intake: Intake::new(settings),
            health: Arc::clone(&self.health),
            members: heart.members(),
            peers: heart.peers(),
            draining: draining.subscribe(),
            written_down: Vec::new(),
            origin: self.ledger.origin().map(str::to_owned),
        };
        let door = Some(tokio::spawn(door.run()));
        let metrics = Metrics::begin(Arc::clone(&link));
        let leader = Arc::new(Leader::new(Arc::clone(&link), self.ledger.id().to_owned()));
        self.begin_experiments(settings, &leader, &metrics);
        self.redis = Some(Redis { link, heart, publisher, leader, metrics, door });
        Ok(())
    }

    /// The doors of experiments: everyone listens and is ready to lead, one does.
    fn begin_experiments(&mut self, settings: &Settings, leader: &Arc<Leader>, metrics: &Metrics) {
        let changed = Arc::new(Notify::new());
        let leading = Arc::clone(leader);
        self.tasks.spawn(async move { leading.run().await });
        self.tasks.spawn(rescue::run(Arc::clone(leader)));
        let triggers = trigger::Triggers {
            leader: Arc::clone(leader),
            channels: settings.trigger_channels.clone(),
            schedules_changed: Arc::clone(&changed),
        };
        self.tasks.spawn(async move { triggers.run().await });
        match settings.mode {
            Mode::Trigger => {}
            Mode::Cron => {
                let cron = cron::Cron {
                    leader: Arc::clone(leader),
                    metrics: metrics.clone(),
                    check_interval: settings.cron_check_interval,
                    window: settings.cron_catch_up_window,
                    zone: settings.timezone.clone(),
                    eligible: eligible(settings, &["ready", "run", "failed"]),
                    changed,
                };
                self.tasks.spawn(cron.run());
            }
            Mode::Speedrun => {
                let speedrun = speedrun::Speedrun {
                    leader: Arc::clone(leader),
                    interval: settings.speedrun_interval,
                    most: settings.speedrun_max_per_cycle,
                    eligible: eligible(settings, &["ready", "run"]),
                };
                self.tasks.spawn(speedrun.run());
            }
        }
    }

    /// Schedules of the configuration, in every mode, with or without Redis.
    fn begin_schedules(&mut self, settings: &Settings) {
        let intake = Intake::new(settings);
        let clockwork = match &self.redis {
            Some(redis) => Clockwork::Redis(Arc::clone(&redis.link)),
            None => Clockwork::Ledger(self.ledger.clone(), intake),
        };
        let schedules = Schedules::new(settings, clockwork);
        self.tasks.spawn(schedules.run());
    }

    fn runs(&self, settings: &Settings, redis: &Redis) -> Runs {
        let link = &redis.link;
        let owner = Owner {
            executor_id: settings.executor_id.clone(),
            ledger_id: self.ledger.id().to_owned(),
        };
        Runs {
            experiments: Experiments::new(Arc::clone(link), owner),
            metrics: redis.metrics.clone(),
            progress: Progress::begin(Arc::clone(link)),
        }
    }

    /// Removes old jobs in small steps.
    fn begin_pruning(&mut self, settings: &Settings) {
        let Some(keep) = settings.ledger_keep else { return };
        let ledger = self.ledger.clone();
        self.tasks.spawn(async move {
            let mut tick = tokio::time::interval(PRUNE_EVERY);
            loop {
                tick.tick().await;
                let before = clock::now() - keep;
                while let Ok(PRUNE_STEP..) =
                    ledger.prune(before, PRUNE_STEP).await.map(|n| u32::try_from(n).unwrap_or(0))
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }

    /// The socket beside the ledger. Without it everything else works on.
    fn begin_control(&mut self, loaded: &Loaded, tap: Tap, dispatcher: Handle) {
        let services = Services {
            ledger: self.ledger.clone(),
            dispatcher,
            intake: Intake::new(&loaded.settings),
            tap,
            settings: loaded.report.clone(),
        };
        match control::serve(&loaded.settings.ledger_path, services) {
            Ok(serving) => drop(self.tasks.spawn(serving)),
            Err(error) => {
                tracing::warn!(event = "no_control", error = %error, "the socket beside the ledger cannot be had; other commands cannot reach this executor");
            }
        }
    }

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
        let (unrecorded, begun) = tokio::join!(dispatcher.run(settings.concurrency), stopping);
        self.end(begun + plan.grace, &settings.ledger_path, unrecorded == 0).await;
        let taken = heart.and_then(|heart| heart.taken().borrow().clone());
        match unrecorded {
            0 if taken.is_some() => taken.map_or(Ok(()), |taken| Err(taken.into())),
            0 => {
                tracing::info!(event = "stopped", "drained");
                Ok(())
            }
            attempts => Err(ServeError::Unrecorded { attempts }),
        }
    }

    /// Tells what is still to be told, frees the name, closes the ledger, by the deadline. A ledger
    /// that cannot be written is not asked any more: what it has is on disk.
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
