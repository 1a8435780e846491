//! The board: what the parts write about themselves, and the health page, the heartbeat and the service
//! manager read. Holds numbers and flags; decides only what "live" means.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::Timestamp;
use crate::job::Source;

/// The main loop shows itself every second; after so long without it, it is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// What does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This executor's name.
    pub executor_id: String,
    /// Whether there is to be a Redis.
    pub redis: RedisUse,
    /// How many attempts run at once.
    pub slots: usize,
    /// The isolation in force.
    pub tier: &'static str,
}

/// Whether there is to be a Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisUse {
    /// `REDIS_URL` names one.
    Configured,
    /// `REDIS_URL=none`.
    None,
}

/// The board.
#[derive(Debug)]
pub struct Health {
    facts: Facts,
    begun: Instant,
    redis_up: AtomicBool,
    door_fault: Mutex<Option<String>>,
    publish_fault: Mutex<Option<String>>,
    draining: AtomicBool,
    running: AtomicUsize,
    slots_aside: AtomicUsize,
    /// Milliseconds after `begun`.
    last_tick: AtomicU64,
    metrics: Metrics,
}

impl Health {
    /// A board on which nothing has happened.
    pub fn new(facts: Facts) -> Arc<Self> {
        let metrics = Metrics::new();
        metrics.slots.set(i64::try_from(facts.slots).unwrap_or(i64::MAX));
        Arc::new(Self {
            facts,
            begun: Instant::now(),
            redis_up: AtomicBool::new(false),
            door_fault: Mutex::new(None),
            publish_fault: Mutex::new(None),
            draining: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            slots_aside: AtomicUsize::new(0),
            last_tick: AtomicU64::new(0),
            metrics,
        })
    }

    /// What does not change.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Redis answers, or does not.
    pub fn set_redis(&self, up: bool) {
        self.redis_up.store(up, Ordering::Relaxed);
        self.metrics.redis_up.set(i64::from(up));
    }

    /// Whether Redis answers; `None` where none is configured.
    pub fn redis_up(&self) -> Option<bool> {
        match self.facts.redis {
            RedisUse::Configured => Some(self.redis_up.load(Ordering::Relaxed)),
            RedisUse::None => None,
        }
    }

    /// Redis answers, but nothing can be taken from it: why, in a sentence; `None` once it can.
    /// Returns what stood before.
    pub fn set_door_fault(&self, fault: Option<String>) -> Option<String> {
        std::mem::replace(
            &mut self.door_fault.lock().unwrap_or_else(PoisonError::into_inner),
            fault,
        )
    }

    /// Redis answers, but refuses to be told: why, in a sentence; `None` once it lets itself be told.
    pub fn set_publish_fault(&self, fault: Option<String>) {
        *self.publish_fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Why nothing can be taken from Redis, or it cannot be told.
    pub fn redis_fault(&self) -> Option<String> {
        let fault = |fault: &Mutex<Option<String>>| {
            fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        fault(&self.door_fault).or_else(|| fault(&self.publish_fault))
    }

    /// The shutdown has begun.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the shutdown has begun.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The main loop made progress.
    pub fn loop_tick(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_tick.store(since, Ordering::Relaxed);
    }

    /// Whether the main loop made progress lately.
    pub fn live(&self) -> bool {
        let last = Duration::from_millis(self.last_tick.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last) < STUCK
    }

    /// So many attempts run.
    pub fn set_running(&self, running: usize) {
        self.running.store(running, Ordering::Relaxed);
        self.metrics.running.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    /// So many slots are set aside: replaced, but something under them does not die.
    pub fn set_slots_aside(&self, slots: usize) {
        self.slots_aside.store(slots, Ordering::Relaxed);
        self.metrics.slots_set_aside.set(i64::try_from(slots).unwrap_or(i64::MAX));
    }

    /// How many slots are set aside.
    pub fn slots_aside(&self) -> usize {
        self.slots_aside.load(Ordering::Relaxed)
    }

    /// How many attempts run.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How many attempts could begin.
    pub fn free_slots(&self) -> usize {
        self.facts.slots.saturating_sub(self.running())
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    source: &'static str,
    status: &'static str,
    error_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Most kinds of errors told apart in `executor_jobs`; user code names them, so they are bounded.
const ERROR_TYPES: usize = 100;

/// The Prometheus metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    slots: Gauge,
    slots_set_aside: Gauge,
    running: Gauge,
    redis_up: Gauge,
    waiting: Gauge,
    outbox: Gauge,
    heartbeat: Gauge,
    jobs: Family<JobLabels, Counter>,
    error_types: Mutex<std::collections::BTreeSet<String>>,
    attempts: Family<OutcomeLabel, Counter>,
    retries: Counter,
    outages: Counter,
    output_dropped: Gauge,
    wait_seconds: Family<SourceLabel, Histogram>,
    run_seconds: Histogram,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        300.0, 1800.0, 7200.0,
    ])
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("executor");
        let r = &mut registry;
        let gauge = |r: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            r.register(name, help, gauge.clone());
            gauge
        };
        let slots = gauge(r, "slots", "Attempts that can run at once");
        let slots_set_aside =
            gauge(r, "slots_set_aside", "Slots replaced as something under them does not die");
        let running = gauge(r, "running", "Attempts running");
        let redis_up = gauge(r, "redis_up", "Whether Redis answers");
        let waiting = gauge(r, "waiting", "Jobs waiting in the ledger");
        let outbox = gauge(r, "outbox", "Messages Redis has not acknowledged, as of the last look");
        let heartbeat = gauge(r, "heartbeat_timestamp_seconds", "The last heartbeat");
        let output_dropped = gauge(r, "output_dropped", "Log lines dropped while stdout was stuck");
        let (jobs, attempts) = (Family::default(), Family::default());
        let (retries, outages) = (Counter::default(), Counter::default());
        let wait_seconds = Family::new_with_constructor(seconds as fn() -> Histogram);
        let run_seconds = seconds();
        r.register("jobs", "Jobs ended", Family::clone(&jobs));
        r.register("attempts", "Attempts ended", Family::clone(&attempts));
        r.register("retries", "Failures that will be tried again", Counter::clone(&retries));
        r.register("redis_outages", "Times Redis went away", Counter::clone(&outages));
        let wait = "From arrival to the start of an attempt";
        r.register_with_unit("job_wait", wait, Unit::Seconds, wait_seconds.clone());
        r.register_with_unit("run", "Length of an attempt", Unit::Seconds, run_seconds.clone());
        Self {
            registry,
            slots,
            slots_set_aside,
            running,
            redis_up,
            waiting,
            outbox,
            heartbeat,
            jobs,
            error_types: Mutex::default(),
            attempts,
            retries,
            outages,
            output_dropped,
            wait_seconds,
            run_seconds,
        }
    }

    /// A job waited so long for the start of an attempt.
    pub fn waited(&self, source: Source, seconds: f64) {
        let label = SourceLabel { source: source.as_str() };
        self.wait_seconds.get_or_create(&label).observe(seconds);
    }

    /// A job ended.
    pub fn job_ended(&self, source: Source, status: &'static str, error_type: Option<&str>) {
        let error_type = self.bounded(error_type.unwrap_or_default());
        let labels = JobLabels { source: source.as_str(), status, error_type };
        self.jobs.get_or_create(&labels).inc();
    }

    /// The name, or `other` once there are too many.
    fn bounded(&self, error_type: &str) -> String {
        let mut known = self.error_types.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(error_type) || known.len() < ERROR_TYPES {
            known.insert(error_type.to_owned());
            return error_type.to_owned();
        }
        "other".to_owned()
    }

    /// An attempt ended after so long.
    pub fn attempt_ended(&self, outcome: &'static str, seconds: f64) {
        self.attempts.get_or_create(&OutcomeLabel { outcome }).inc();
        self.run_seconds.observe(seconds);
    }

    /// A failure will be tried again.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// Redis went away.
    pub fn outage(&self) {
        self.outages.inc();
    }

    /// A heartbeat.
    pub fn beat(&self, at: Timestamp) {
        self.heartbeat.set(at.as_second());
    }

    /// So many messages are known to wait for Redis.
    pub fn set_outbox(&self, waiting: usize) {
        self.outbox.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// The text of `/metrics`; what others count is handed in.
    pub fn text(&self, waiting: u64, output_dropped: u64) -> String {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.output_dropped.set(i64::try_from(output_dropped).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Arc<Health> {
        Health::new(Facts {
            executor_id: "e".into(),
            redis: RedisUse::Configured,
            slots: 2,
            tier: "subreaper",
        })
    }

    #[test]
    fn what_is_counted_is_in_the_text() {
        let health = board();
        health.set_running(1);
        health.metrics().job_ended(Source::Queue, "FAILED", Some("ValueError"));
        let text = health.metrics().text(7, 0);
        assert!(text.contains("executor_running 1\n"), "{text}");
        assert!(text.contains("executor_waiting 7\n"), "{text}");
        let line =
            r#"executor_jobs_total{source="queue",status="FAILED",error_type="ValueError"} 1"#;
        assert!(text.contains(line), "{text}");
        assert_eq!(health.free_slots(), 1);
    }

    #[test]
    fn error_types_of_users_cannot_grow_without_bound() {
        let health = board();
        for n in 0..1000 {
            health.metrics().job_ended(Source::Queue, "FAILED", Some(&format!("E{n}")));
        }
        let lines = health
            .metrics()
            .text(0, 0)
            .lines()
            .filter(|l| l.starts_with("executor_jobs_total"))
            .count();
        assert_eq!(lines, ERROR_TYPES + 1);
    }
}
