//! A Redis and an executor for tests of jobs: push one, wait for its row, look at its processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Executor, RedisServer, Row, alive};

/// Both ways a run is born.
pub(crate) const BOTH: [&str; 2] = ["spawn", "forkserver"];

/// An executor with its own Redis. The executor ends first.
pub(crate) struct Bench {
    pub(crate) executor: Executor,
    pub(crate) redis: RedisServer,
}

impl Bench {
    /// A running one with these settings.
    pub(crate) fn start(method: &str, settings: &[(&str, &str)]) -> Self {
        let mut bench = Self::new(method, settings);
        bench.executor.serve();
        bench
    }

    /// One whose executor has not been started.
    pub(crate) fn new(method: &str, settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start();
        let mut executor = Executor::new(Some(&redis));
        executor.set("START_METHOD", method).set("LOG_LEVEL", "info");
        for (name, value) in settings {
            executor.set(name, value);
        }
        Self { executor, redis }
    }

    /// A path in the executor's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.executor.dir.path().join(name)
    }

    /// Pushes a job that is tried once unless `more` says otherwise.
    pub(crate) fn push(&self, id: &str, target: &str, parameters: Value, more: Value) {
        let mut payload = json!({
            "job_id": id, "task_type": "event", "target": target, "parameters": parameters,
            "max_attempts": 1,
        });
        for (key, value) in more.as_object().unwrap() {
            payload[key] = value.clone();
        }
        self.redis.push(&payload);
    }

    /// Pushes a job and waits for its end.
    pub(crate) fn run(&self, id: &str, target: &str, parameters: Value, more: Value) -> Row {
        self.push(id, target, parameters, more);
        self.executor.ended(id)
    }

    /// The result of a job that must be COMPLETED.
    pub(crate) fn value(&self, id: &str, target: &str, parameters: Value) -> Value {
        let row = self.run(id, target, parameters, json!({}));
        assert_eq!(row["status"], "COMPLETED", "{row:#?}");
        value_of(&row)
    }

    /// From push to end of a job that does nothing, as the ledger saw it.
    pub(crate) fn latency(&self, id: &str) -> Duration {
        let begun = Instant::now();
        self.push(id, "tasks.good:noop", json!({}), json!({}));
        self.executor.ended(id);
        begun.elapsed()
    }

    /// The only attempt of a job.
    pub(crate) fn attempt(&self, id: &str) -> Row {
        let mut attempts = self.executor.attempts(id);
        assert_eq!(attempts.len(), 1, "{attempts:#?}");
        attempts.pop().unwrap()
    }

    /// What a run wrote, as log lines: the text of each, by stream.
    pub(crate) fn output(&self, id: &str, stream: &str) -> Vec<String> {
        self.executor
            .lines()
            .into_iter()
            .filter(|line| has(line, "event", "output"))
            .filter(|line| has(line, "job_id", id) && has(line, "stream", stream))
            .map(|line| line["line"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// The result a row holds.
pub(crate) fn value_of(row: &Row) -> Value {
    serde_json::from_str(row["result"].as_str().unwrap()).unwrap()
}

/// Whether a log line has a field with this text.
pub(crate) fn has(line: &Row, field: &str, value: &str) -> bool {
    line.get(field).is_some_and(|found| found == value)
}

/// A text column.
pub(crate) fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row[column].as_str().unwrap_or_default()
}

/// A process by pid and start time, as the fixtures note it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) pid: i64,
    start: u64,
}

impl Noted {
    /// Whether this very process runs still.
    pub(crate) fn alive(self) -> bool {
        alive(self.pid) && start_of(self.pid) == Some(self.start)
    }
}

/// All that have noted themselves in the file.
pub(crate) fn noted(path: &Path) -> Vec<Noted> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (pid, start) = line.split_once(' ')?;
            Some(Noted { pid: pid.parse().ok()?, start: start.parse().ok()? })
        })
        .collect()
}

/// Field 22 of `/proc/PID/stat`.
fn start_of(pid: i64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// All processes alive under this one.
pub(crate) fn descendants(root: i64) -> Vec<i64> {
    let mut parents: Vec<(i64, i64)> = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i64>() else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        if let (Some(state), Some(Ok(parent))) = (fields.next(), fields.next().map(str::parse))
            && state != "Z"
        {
            parents.push((pid, parent));
        }
    }
    let mut found: Vec<i64> = Vec::new();
    let mut todo = vec![root];
    while let Some(one) = todo.pop() {
        for (pid, parent) in &parents {
            if *parent == one && !found.contains(pid) {
                found.push(*pid);
                todo.push(*pid);
            }
        }
    }
    found
}

/// The one in the middle.
pub(crate) fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}
