//! The load: jobs of many kinds, each a token that must end in exactly one row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::random::Random;
use crate::support::RedisServer;

/// How a job ends when nothing disturbs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Ok,
    /// Raises, every time.
    Fail,
    /// Raises the first time.
    Once,
    /// Kills itself.
    Crash,
    /// Leaves without a result.
    Leave,
    /// Is no job at all.
    Bad,
    /// Triggers an experiment that ends well, or raises.
    Experiment(bool),
}

impl End {
    fn word(self) -> &'static str {
        match self {
            Self::Ok | Self::Bad | Self::Experiment(_) => "ok",
            Self::Fail => "fail",
            Self::Once => "once",
            Self::Crash => "crash",
            Self::Leave => "leave",
        }
    }
}

/// A job that was pushed.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) end: End,
    pub(crate) max_attempts: u32,
    pub(crate) key: Option<String>,
}

/// What kinds of jobs are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// All of them.
    All,
    /// Only such as end well at the first start, so that every second one is a fault.
    Well,
    /// The same, and experiments.
    WellWithExperiments,
}

/// The experiments that jobs trigger: `e0` raises, the others end well.
pub(crate) fn store_experiments(redis: &RedisServer, log: &Path) {
    for number in 0..4 {
        let params = json!({"log": log, "ms": 30 * number, "breaks": number == 0}).to_string();
        let key = format!("experiments:e{number}");
        let state = if number == 3 { "paused" } else { "ready" };
        redis.run::<()>(&["HSET", &key, "tool", "steady", "params", &params, "state", state]);
    }
}

/// Makes jobs and remembers them.
pub(crate) struct Load {
    random: Random,
    mix: Mix,
    longest_ms: u64,
    log: PathBuf,
    pub(crate) tokens: BTreeMap<String, Token>,
}

impl Load {
    /// Jobs of up to `longest_ms`, which note their starts in `log`.
    pub(crate) fn new(seed: u64, mix: Mix, longest_ms: u64, log: PathBuf) -> Self {
        Self { random: Random::new(seed), mix, longest_ms, log, tokens: BTreeMap::new() }
    }

    /// So many more payloads.
    pub(crate) fn more(&mut self, count: u64) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.one()).collect()
    }

    fn one(&mut self) -> Vec<u8> {
        let number = self.tokens.len();
        let id = format!("t{number}");
        let end = match (self.mix, self.random.below(100)) {
            (Mix::WellWithExperiments, 0..15) => End::Experiment(false),
            (Mix::Well | Mix::WellWithExperiments, _) | (Mix::All, 0..58) => End::Ok,
            (Mix::All, 58..66) => End::Experiment(self.random.percent(25)),
            (Mix::All, 66..76) => End::Fail,
            (Mix::All, 76..86) => End::Once,
            (Mix::All, 86..92) => End::Crash,
            (Mix::All, 92..96) => End::Leave,
            (Mix::All, _) => End::Bad,
        };
        let max_attempts = match end {
            End::Once => 2,
            _ => 1 + u32::try_from(self.random.below(3)).unwrap(),
        };
        // Neighbours share a key now and then.
        let keyed = self.mix == Mix::All && end == End::Ok && self.random.percent(10);
        let key = keyed.then(|| format!("k{}", number / 12));
        let short = self.random.percent(50);
        let ms = self.random.below(if short { self.longest_ms / 10 } else { self.longest_ms });
        let payload = match end {
            End::Bad => json!({"job_id": id, "target": 7, "n": number}),
            End::Experiment(breaks) => {
                let which = if breaks { "e0".to_owned() } else { format!("e{}", 1 + number % 3) };
                json!({"job_id": id, "experiment_id": which})
            }
            _ => json!({
                "job_id": id, "task_type": "event", "target": "tasks.load.work",
                "max_attempts": max_attempts, "priority": 1 + self.random.below(9),
                "idempotency_key": key,
                "parameters": {
                    "log": self.log, "ms": ms, "end": end.word(),
                    "child": end != End::Leave && self.random.percent(10),
                },
            }),
        };
        self.tokens.insert(id, Token { end, max_attempts, key });
        payload.to_string().into_bytes()
    }
}
