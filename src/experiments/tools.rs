//! What `tools:{name}` says of tools: settings kept in Redis beside the tool itself.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use crate::policy::ToolSettings;

/// What `tools:{name}` says, by name, for a batch.
pub type ToolTable = BTreeMap<String, ToolSettings>;

/// Asks Redis what `tools:{name}` says of each tool; a tool of which it says nothing readable has
/// no entry.
pub async fn tool_table(
    connection: &mut MultiplexedConnection,
    names: impl IntoIterator<Item = &String>,
) -> Result<ToolTable, redis::RedisError> {
    let mut table = ToolTable::new();
    for name in names {
        if table.contains_key(name) {
            continue;
        }
        let key = format!("tools:{name}");
        // Bytes: a description that is not UTF-8 must not keep the job from being taken.
        let found = redis::cmd("HGETALL")
            .arg(&key)
            .query_async::<Vec<(Vec<u8>, Vec<u8>)>>(connection)
            .await;
        let fields = match found {
            Ok(fields) => fields.iter().map(|(name, value)| (text(name), text(value))).collect(),
            Err(error) if error.code() == Some("WRONGTYPE") => {
                tracing::warn!(event = "tool_settings_unreadable", key, error = %error, "ignored");
                continue;
            }
            Err(error) => return Err(error),
        };
        table.insert(name.clone(), tool_settings(&key, &fields));
    }
    Ok(table)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is unreadable is left out, with a word in the log.
fn tool_settings(key: &str, fields: &BTreeMap<String, String>) -> ToolSettings {
    let unreadable = |field: &str, value: &str| {
        tracing::warn!(event = "tool_settings_unreadable", key, field, value, "ignored");
    };
    let timeout = fields.get("timeout").and_then(|text| {
        let timeout = seconds(text);
        if timeout.is_none() {
            unreadable("timeout", text);
        }
        timeout
    });
    let max_attempts = fields.get("max_attempts").and_then(|text| {
        let attempts = text.parse().ok().filter(|n| (1..=100).contains(n));
        if attempts.is_none() {
            unreadable("max_attempts", text);
        }
        attempts
    });
    ToolSettings { timeout, max_attempts }
}

/// A timeout in seconds, over 0 and up to 30 days.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    (seconds > 0.0 && seconds <= 2_592_000.0)
        .then(|| Duration::try_from_secs_f64(seconds).ok())
        .flatten()
        .filter(|timeout| !timeout.is_zero())
}
