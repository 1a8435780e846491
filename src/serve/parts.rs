//! How each part of the daemon begins: HTTP, everything over Redis, schedules, pruning, the control socket.
//!
//! In which order, and how they end, is the daemon's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::options::eligible;
use super::{Daemon, Redis, ServeError};
use crate::clock;
use crate::config::{Loaded, Mode, Settings};
use crate::control::{self, Services};
use crate::dispatcher::Handle;
use crate::doors::intake::Intake;
use crate::doors::leader::{self, Leader};
use crate::doors::noted::List;
use crate::doors::queue::QueueDoor;
use crate::doors::schedules::{Clockwork, Schedules};
use crate::doors::{cron, rescue, speedrun, trigger};
use crate::experiments::{Experiments, Metrics, Owner};
use crate::flow::Runs;
use crate::heartbeat::{Beat, Heart, Identity};
use crate::http::{self, Sources};
use crate::link::Link;
use crate::log::{Log, Tap};
use crate::publish::{Progress, Publisher};

/// How often old jobs are removed, and how many in one step.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_STEP: u32 = 500;
/// What the main runtime may take beside the answer itself.
const SLACK: Duration = Duration::from_millis(200);
/// How long to wait for Redis at the start before going on without.
const REDIS_AT_START: Duration = Duration::from_secs(3);

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
    pub(super) fn begin_http(
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

    pub(super) async fn begin_redis(
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
    pub(super) fn begin_experiments(
        &mut self,
        settings: &Settings,
        leader: &Arc<Leader>,
        metrics: &Metrics,
    ) {
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
    pub(super) fn begin_schedules(&mut self, settings: &Settings) {
        let intake = Intake::new(settings);
        let clockwork = match &self.redis {
            Some(redis) => Clockwork::Redis(Arc::clone(&redis.link)),
            None => Clockwork::Ledger(self.ledger.clone(), intake),
        };
        let schedules = Schedules::new(settings, clockwork);
        self.tasks.spawn(schedules.run());
    }

    pub(super) fn runs(&self, settings: &Settings, redis: &Redis) -> Runs {
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
    pub(super) fn begin_pruning(&mut self, settings: &Settings) {
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
    pub(super) fn begin_control(&mut self, loaded: &Loaded, tap: Tap, dispatcher: Handle) {
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
}
