//! The configuration: whatever stands in file and environment, either settings within their bounds, or
//! every fault with its name, in one line each; a password is in neither.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use executor::config::{self, Environment, Flags, Loaded};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::input::spoiled_text;
use crate::runner::fuzz;

/// What must never be shown.
const CANARY: &str = "c4n4ry";

/// Settings by variable and by place in the file, with values that may be right.
const SETTINGS: &[(&str, &str, &[&str])] = &[
    (
        "REDIS_URL",
        "redis.url",
        &[
            "none",
            "redis://u:c4n4ry@h:1/0",
            "redis://:c4n4ry@h",
            "http://u:c4n4ry@h",
            "rediss://h/#insecure",
            "redis://h:99999/c4n4ry@",
        ],
    ),
    (
        "DB_URL",
        "db.url",
        &[
            "sqlite:a.db",
            "sqlite:///a/b.db",
            "sqlite::memory:",
            "postgres://u:c4n4ry@h/d",
            "sqlite:",
        ],
    ),
    ("EXECUTOR_ID", "executor.id", &["a", "a b", ""]),
    ("CONCURRENCY", "executor.concurrency", &["1", "0", "1025", "-1", "2.0", "4"]),
    ("SHUTDOWN_GRACE", "executor.shutdown_grace", &["8", "0", "500ms", "2h", "1e3", "7d"]),
    ("ON_SHUTDOWN", "executor.on_shutdown", &["requeue", "FAIL", "what"]),
    (
        "HEARTBEAT_INTERVAL",
        "executor.heartbeat_interval",
        &["5", "0.05", "100ms", "99999999999999999999"],
    ),
    ("HTTP_ADDR", "http.addr", &["none", "127.0.0.1:0", ":80", "[::1]:80", "x", "localhost:65536"]),
    ("ALLOWED_MODULES", "python.allowed_modules", &["tasks", "a,b", "a-b", ",", "[a, b]"]),
    ("PASS_ENV", "python.pass_env", &["*", "A_*,B", "none", "a-b"]),
    ("RETRY_MAX_ATTEMPTS", "retry.max_attempts", &["3", "0", "101"]),
    ("RETRY_BACKOFF_MIN", "retry.backoff_min", &["1s", "0", "40s", ".", "1.2.3"]),
    ("RETRY_BACKOFF_MAX", "retry.backoff_max", &["30s", "0", "m"]),
    ("RESULT_MAX_BYTES", "result.max_bytes", &["64", "63", "524288"]),
    ("LOG_LEVEL", "log.level", &["info", "warn,executor=debug", "loud", "="]),
    ("LIMIT_MEMORY_MB", "limits.memory_mb", &["none", "1", "0", "1099511627776"]),
    ("SCHEDULE_MODE", "mode", &["trigger", "cron", "Speedrun", "x"]),
    ("TIMEZONE", "cron.timezone", &["UTC", "Europe/Berlin", "Mars", "../../etc/passwd"]),
    (
        "TASK_TYPES",
        "task_types",
        &[
            "{}",
            "{\"etl\": {\"priority\": 3}}",
            "{\"etl\": {\"priority\": 10}}",
            "{\"what\": {}}",
            "{\"etl\": 5}",
            "[]",
            "{",
        ],
    ),
    (
        "SCHEDULES",
        "schedules",
        &[
            "[]",
            "[{\"id\": \"a\", \"cron\": \"* * * * *\", \"job\": {}}]",
            "[{\"id\": \"a\", \"cron\": \"x\", \"job\": {}}]",
            "[{\"id\": \"a\"}]",
            "[5]",
            "{}",
        ],
    ),
    ("LEDGER_KEEP_DAYS", "db.keep_days", &["0", "30", "36501"]),
    ("JOB_QUEUE", "queue.name", &["q", "{}", "a b"]),
];

#[derive(Clone, Debug)]
struct Input {
    environment: Vec<(String, String)>,
    file: String,
}

fn setting() -> impl Strategy<Value = (usize, String)> {
    (0..SETTINGS.len(), any::<Index>(), "\\PC{0,10}", 0..10_u8).prop_map(
        |(at, good, other, chance)| {
            let values = SETTINGS[at].2;
            let value =
                if chance == 0 { other } else { values[good.index(values.len())].to_owned() };
            (at, value)
        },
    )
}

/// As YAML, one group for each setting; a repeated group is a fault of the file.
fn yaml(settings: &[(usize, String)]) -> String {
    let mut text = String::new();
    for (at, value) in settings {
        match SETTINGS[*at].1.split_once('.') {
            Some((group, name)) => text.push_str(&format!("{group}:\n  {name}: {value}\n")),
            None => text.push_str(&format!("{}: {value}\n", SETTINGS[*at].1)),
        }
    }
    text
}

const FILES: &[&str] = &[
    "",
    "executor:\n  concurrency: 4\n",
    "executor.concurrency: 4\n",
    "schedules:\n  - id: a\n    cron: '0 9 * * *'\n    job: {target: t}\n",
    "redis: {url: 'redis://:c4n4ry@h'}\n",
    "task_types:\n  etl: {timeout: 2h, retry_on: transient}\n",
    "a: &a [*a]\n",
    "unknown: 1\nexecutor:\n  concurency: 3\n",
    "- 1\n- 2\n",
    "mode: cron\ncron:\n  timezone: UTC\n",
];

fn inputs() -> impl Strategy<Value = Input> {
    let environment = vec(setting(), 0..5).prop_map(|settings| {
        settings.into_iter().map(|(at, value)| (SETTINGS[at].0.to_owned(), value)).collect()
    });
    let file = prop_oneof![
        2 => Just(String::new()),
        3 => vec(setting(), 0..4).prop_map(|settings| yaml(&settings)),
        1 => spoiled_text(vec(setting(), 0..3).prop_map(|settings| yaml(&settings))),
        2 => spoiled_text(select(FILES)),
    ];
    (environment, file).prop_map(|(environment, file)| Input { environment, file })
}

/// A file of this process's own, in memory where the system has such a place.
fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() { memory } else { std::env::temp_dir() };
    dir.join(format!("executor-fuzz-{}.yaml", std::process::id()))
}

struct Bench {
    file: PathBuf,
    keys: BTreeSet<String>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn keys(loaded: &Loaded) -> BTreeSet<String> {
    loaded.report.iter().map(|line| line.key.clone()).collect()
}

fn check_settings(loaded: &Loaded, bench: &Bench) -> Result<(), TestCaseError> {
    let settings = &loaded.settings;
    prop_assert!((1..=1024).contains(&settings.concurrency));
    prop_assert!(settings.heartbeat_interval >= Duration::from_millis(100));
    prop_assert!(!settings.shutdown_grace.is_zero());
    prop_assert!(settings.retry.backoff_min <= settings.retry.backoff_max);
    prop_assert!((64..=524_288).contains(&settings.result_max_bytes));
    prop_assert!(!settings.executor_id.is_empty() && settings.ledger_path.is_absolute());
    prop_assert!(settings.retry.max_attempts.is_none_or(|n| (1..=100).contains(&n)));
    for kind in settings.task_types.values() {
        prop_assert!(kind.priority.is_none_or(|n| (1..=9).contains(&n)));
    }
    let ids: BTreeSet<&String> = settings.schedules.iter().map(|schedule| &schedule.id).collect();
    prop_assert_eq!(ids.len(), settings.schedules.len());
    // Each setting has its one line.
    prop_assert_eq!(&keys(loaded), &bench.keys);
    prop_assert_eq!(loaded.report.len(), bench.keys.len());
    let report = serde_json::to_string(&loaded.report).unwrap();
    prop_assert!(!report.contains(CANARY), "{report}");
    let shown = format!("{settings:?}");
    prop_assert!(!shown.contains(CANARY), "{}", shown);
    Ok(())
}

/// Every password still stands where one is known: in a URL, before its host.
fn intact(file: &str) -> bool {
    file.match_indices(CANARY).all(|(at, _)| {
        let line = file[..at].rsplit(['\n', '\r']).next().unwrap_or_default();
        line.contains("//") && file[at + CANARY.len()..].starts_with('@')
    })
}

fn check(input: &Input, bench: &Bench) -> Result<(), TestCaseError> {
    std::fs::write(&bench.file, &input.file).unwrap();
    let flags = Flags { file: Some(bench.file.clone()), overrides: Vec::new() };
    let load = || config::load(&flags, &Environment::from_pairs(input.environment.clone()));
    let loaded = load();
    match (&loaded, load()) {
        (Ok(loaded), Ok(again)) => {
            prop_assert_eq!(format!("{:?}", loaded.settings), format!("{:?}", again.settings));
            prop_assert_eq!(&loaded.report, &again.report);
            check_settings(loaded, bench)
        }
        (Err(errors), Err(again)) => {
            prop_assert_eq!(errors, &again);
            let text = errors.to_string();
            prop_assert!(errors.count() > 0);
            prop_assert_eq!(text.lines().count(), errors.count(), "{}", text);
            prop_assert!(!intact(&input.file) || !text.contains(CANARY), "{text}");
            let file = bench.file.display().to_string();
            for line in text.lines() {
                let named = line.contains(&file)
                    || SETTINGS
                        .iter()
                        .any(|(name, key, _)| line.contains(name) && line.contains(key));
                prop_assert!(named, "it names nothing: {line}");
            }
            Ok(())
        }
        (one, other) => {
            prop_assert!(false, "{one:?} {other:?}");
            Ok(())
        }
    }
}

#[test]
fn configurations() {
    let plain = config::load(&Flags::default(), &Environment::default()).unwrap();
    let bench = Bench { file: place(), keys: keys(&plain) };
    fuzz("config", &inputs(), |input| check(&input, &bench));
}
