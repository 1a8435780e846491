//! Metrics of runs: out at once, in order, unrecorded. Never waits, never holds up a run.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::clock;
use crate::link::Link;

/// How many metrics may wait for Redis; more are dropped.
const ROOM: usize = 10_000;
/// Most sent in one go.
const BATCH: usize = 256;
/// How many are kept for each experiment.
const KEPT: isize = 10_000;
/// Where they are published.
const CHANNEL: &str = "fullsend:metrics";

/// One metric.
#[derive(Clone, Debug)]
pub struct Metric {
    /// The experiment.
    pub experiment_id: String,
    /// Its run.
    pub run_id: Option<String>,
    /// `run_started`, `items_processed`, …
    pub event: String,
    /// Its own fields; those that every metric has cannot be overridden.
    pub fields: Map<String, Value>,
}

/// Where metrics go in.
#[derive(Clone, Debug)]
pub struct Metrics {
    metrics: mpsc::Sender<(f64, Metric)>,
}

impl Metrics {
    /// Begins to send.
    pub fn begin(link: Arc<Link>) -> Self {
        let (metrics, receiver) = mpsc::channel(ROOM);
        tokio::spawn(send_all(link, receiver));
        Self { metrics }
    }

    /// Sends a metric, stamped now.
    pub fn send(&self, metric: Metric) {
        let at = clock::epoch_seconds(clock::now());
        if self.metrics.try_send((at, metric)).is_err() {
            tracing::debug!(event = "metric_dropped", "Redis is slow or away");
        }
    }
}

async fn send_all(link: Arc<Link>, mut metrics: mpsc::Receiver<(f64, Metric)>) {
    let mut batch = Vec::with_capacity(BATCH);
    while metrics.recv_many(&mut batch, BATCH).await > 0 {
        let mut pipeline = redis::pipe();
        for (at, metric) in batch.drain(..) {
            let key = format!("metrics:{}", metric.experiment_id);
            let body = body(at, metric);
            pipeline.publish(CHANNEL, &body).ignore();
            pipeline.rpush(&key, &body).ignore();
            pipeline.ltrim(&key, -KEPT, -1).ignore();
        }
        let Ok(mut connection) = link.connection().await else { continue };
        if let Err(error) = pipeline.query_async::<()>(&mut connection).await {
            link.failed(&error).await;
        }
    }
}

fn body(at: f64, metric: Metric) -> String {
    let mut body = metric.fields;
    body.insert("experiment_id".into(), metric.experiment_id.into());
    body.insert("run_id".into(), metric.run_id.into());
    body.insert("event".into(), metric.event.into());
    body.insert("timestamp".into(), at.into());
    Value::Object(body).to_string()
}
