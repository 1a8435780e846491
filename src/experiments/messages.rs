//! What is told of runs: bodies of the outbox → run hashes and result messages. Pure.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::definition::summary;
use crate::clock;

/// An ended run as the ledger's outbox has it.
#[derive(Debug, Deserialize)]
pub struct Ended<'a> {
    /// Null for a trigger that was none.
    pub experiment_id: Option<String>,
    /// Null where no run began.
    pub run_id: Option<String>,
    /// `COMPLETED` or `FAILED`.
    pub status: String,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// Starts.
    pub attempts: u32,
    /// The result, or its summary.
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    /// 1: `result` is a summary.
    pub result_truncated: u8,
    /// Of a failure.
    pub error_type: Option<String>,
    /// Of a failure.
    pub error: Option<String>,
    /// Of a failure.
    pub traceback: Option<String>,
    /// Of a failure.
    #[serde(borrow)]
    pub partial_results: Option<&'a RawValue>,
}

impl Ended<'_> {
    /// Whether it ended well.
    pub fn well(&self) -> bool {
        self.status == "COMPLETED"
    }

    fn duration(&self) -> f64 {
        let at = |text: &Option<String>| text.as_deref().and_then(clock::parse);
        match (at(&self.started_at), at(&self.finished_at)) {
            (Some(from), Some(to)) => to.duration_since(from).as_secs_f64().max(0.0),
            _ => 0.0,
        }
    }
}

/// The fields of the run hash, and the result message.
pub fn ended_messages(ended: &Ended<'_>) -> (Vec<(&'static str, String)>, Value) {
    let duration = ended.duration();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let finished = ended.finished_at.as_deref().and_then(clock::parse).unwrap_or_else(clock::now);
    let timestamp = clock::epoch_seconds(finished);
    let mut hash = vec![
        ("run_id", text(&ended.run_id)),
        ("experiment_id", text(&ended.experiment_id)),
        ("status", if ended.well() { "completed" } else { "failed" }.to_owned()),
        ("started_at", text(&ended.started_at)),
        ("timestamp", clock::text(finished)),
        ("duration_seconds", duration.to_string()),
        ("duration", duration.to_string()),
        ("attempts", ended.attempts.to_string()),
    ];
    if ended.well() {
        let summary = summary(ended.result.unwrap_or(RawValue::NULL), ended.result_truncated == 1);
        hash.push(("result_summary", summary.to_string()));
        let message = json!({
            "type": "experiment_completed", "experiment_id": ended.experiment_id,
            "run_id": ended.run_id, "status": "success", "duration": duration,
            "result_summary": summary, "timestamp": timestamp,
        });
        return (hash, message);
    }
    let partial: Value = ended
        .partial_results
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or(Value::Null);
    hash.push(("error", text(&ended.error)));
    hash.push(("error_type", text(&ended.error_type)));
    hash.push(("traceback", text(&ended.traceback)));
    hash.push(("partial_results", partial.to_string()));
    let message = json!({
        "type": "experiment_failed", "experiment_id": ended.experiment_id,
        "run_id": ended.run_id, "status": "failed", "error": ended.error,
        "error_type": ended.error_type, "partial_results": partial, "duration": duration,
        "timestamp": timestamp,
    });
    (hash, message)
}
