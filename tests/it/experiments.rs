//! Experiments over Redis: the requirement's own tests as they stand there, states, metrics while the
//! tool runs, triggers in a burst, cron and speedrun, one leader of several executors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Executor, PATIENCE, RedisServer, Row, eventually, within};

/// Messages of channels, as they come.
struct Listener {
    connection: redis::Connection,
}

impl Listener {
    fn new(redis: &RedisServer) -> Self {
        Self { connection: redis.connect() }
    }

    /// Takes messages until `until` is content with all of them so far.
    fn gather(
        mut self,
        channels: &[&str],
        act: impl FnOnce(),
        until: impl Fn(&[(Instant, String, Value)]) -> bool,
    ) -> Vec<(Instant, String, Value)> {
        self.connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut subscription = self.connection.as_pubsub();
        for channel in channels {
            subscription.subscribe(channel).unwrap();
        }
        act();
        let mut found = Vec::new();
        while !until(&found) {
            let message = subscription.get_message().expect("a message in time");
            let text: String = message.get_payload().unwrap();
            let body = serde_json::from_str(&text).unwrap();
            found.push((Instant::now(), message.get_channel_name().to_owned(), body));
        }
        found
    }
}

fn tool(executor: &Executor, name: &str, text: &str) {
    let tools = executor.dir.path().join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    std::fs::write(tools.join(format!("{name}.py")), text).unwrap();
}

/// An executor with a directory of tools of its own.
fn executor(redis: &RedisServer, settings: &[(&str, &str)]) -> Executor {
    let mut executor = Executor::new(Some(redis));
    let tools = executor.dir.path().join("tools");
    executor.set("TOOLS_PATH", tools.to_str().unwrap());
    for (name, value) in settings {
        executor.set(name, value);
    }
    tool(&executor, "test_tool", "def test_tool(): return {\"status\": \"ok\"}\n");
    executor
}

/// Three executors on one Redis, each with a ledger of its own.
fn three(redis: &RedisServer, settings: &[(&str, &str)]) -> Vec<Executor> {
    let serving = |n: usize| {
        let mut executor = executor(redis, settings);
        executor.set("EXECUTOR_ID", &format!("node{n}"));
        executor.serve();
        executor
    };
    (0..3).map(serving).collect()
}

fn state(redis: &RedisServer, id: &str) -> String {
    redis
        .run::<Option<String>>(&["HGET", &format!("experiments:{id}"), "state"])
        .unwrap_or_default()
}

fn leads(executor: &Executor) {
    executor.line("leading", |line| line["event"] == "leading");
}

fn trigger(redis: &RedisServer, message: &str) {
    redis.run::<i64>(&["PUBLISH", "fullsend:execute_now", message]);
}

fn run_hash(redis: &RedisServer, id: &str) -> BTreeMap<String, String> {
    let keys: Vec<String> = redis.run(&["KEYS", &format!("experiment_runs:{id}:*")]);
    assert_eq!(keys.len(), 1, "{keys:?}");
    redis.run(&["HGETALL", &keys[0]])
}

#[test]
fn the_integration_test_of_the_requirement_passes_as_it_stands() {
    let redis = RedisServer::start();
    let mut executor = executor(&redis, &[("SCHEDULE_MODE", "cron")]);
    redis.run::<i64>(&["HSET", "experiments:exp_test", "tool", "test_tool", "state", "ready"]);
    redis.run::<()>(&["SET", "schedules:exp_test", "* * * * *"]);
    executor.serve();
    let runs = within(Duration::from_secs(65), "a run within a minute", || {
        let keys: Vec<String> = redis.run(&["KEYS", "experiment_runs:exp_test:*"]);
        let done = state(&redis, "exp_test") == "run";
        (done && !keys.is_empty()).then_some(keys)
    });
    let run: BTreeMap<String, String> = redis.run(&["HGETALL", &runs[0]]);
    assert_eq!(run["status"], "completed");
    assert_eq!(run["result_summary"], r#"{"status":"ok"}"#);
    let due = executor.line("fired", |line| line["event"] == "schedule_fired");
    let started: jiff::Timestamp = run["started_at"].parse().unwrap();
    let due: jiff::Timestamp = due["due"].as_str().unwrap().parse().unwrap();
    assert!(started.duration_since(due) < jiff::SignedDuration::from_secs(1), "{started} {due}");
}

#[test]
fn metrics_arrive_in_order_while_the_tool_runs() {
    let redis = RedisServer::start();
    let mut executor = executor(&redis, &[]);
    tool(
        &executor,
        "slow",
        "import time\nfrom executor_shim import emit, progress\n\ndef slow(n=3):\n    emit('begun', n=n)\n    for i in range(n):\n        emit('item', at=time.time())\n        yield i\n        progress(i + 1, n)\n        time.sleep(0.5)\n",
    );
    let document = r#"{ "name": "keep me", "state": "ready", "execution": {"tool": "slow", "params": {"n": 3}}, "empty": [] }"#;
    redis.run::<()>(&["SET", "experiments:a:b", document]);
    executor.serve();
    leads(&executor);
    let found = Listener::new(&redis).gather(
        &["fullsend:metrics", "fullsend:experiment_results"],
        || trigger(&redis, r#"{"experiment_id": "a:b"}"#),
        |found| found.iter().any(|(_, channel, _)| channel == "fullsend:experiment_results"),
    );
    let events: Vec<&str> =
        found.iter().filter_map(|(_, _, body)| body["event"].as_str()).collect();
    assert_eq!(events[..2], ["run_started", "begun"]);
    let items: Vec<_> =
        found.iter().filter(|(_, _, body)| body["event"] == "items_processed").collect();
    let counts: Vec<_> = items.iter().map(|(_, _, body)| body["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3]);
    for pair in items.windows(2) {
        let gap = pair[1].0.duration_since(pair[0].0);
        assert!(gap > Duration::from_millis(400), "items come while the tool runs: {gap:?}");
    }
    let now = (Instant::now(), std::time::SystemTime::now());
    let late = |(came, _, body): &(Instant, String, Value)| {
        let wall = now.1 - now.0.duration_since(*came);
        let wall = wall.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        wall - body["at"].as_f64().unwrap()
    };
    let mut late: Vec<f64> =
        found.iter().filter(|(_, _, body)| body["event"] == "item").map(late).collect();
    late.sort_by(f64::total_cmp);
    assert!(
        late[1] < 0.1,
        "an item shows within 100 ms, on a busy machine the usual one: {late:?}"
    );
    let result = &found.last().unwrap().2;
    assert_eq!(result["type"], "experiment_completed");
    assert_eq!(
        (&result["status"], &result["result_summary"]),
        (&json!("success"), &json!({"count": 3}))
    );
    let run_id = result["run_id"].as_str().unwrap();
    assert!(run_id.starts_with("a:b:"));
    assert!(found.iter().all(|(_, _, body)| body["run_id"] == run_id));
    let kept: Vec<String> = redis.run(&["LRANGE", "metrics:a:b", "0", "-1"]);
    eventually("the last metric", || {
        let kept: Vec<String> = redis.run(&["LRANGE", "metrics:a:b", "-1", "-1"]);
        kept.first()?.contains("run_completed").then_some(())
    });
    assert!(kept[0].contains("run_started"));
    let after: String = redis.run(&["GET", "experiments:a:b"]);
    assert_eq!(after, document.replace("ready", "run"), "only the state of a document changes");
}

#[test]
fn failures_tell_everything_and_set_the_state() {
    let redis = RedisServer::start();
    let mut executor = executor(&redis, &[]);
    tool(
        &executor,
        "limited",
        "class RateLimitError(Exception):\n    pass\n\ndef limited():\n    error = RateLimitError('Rate limited')\n    error.partial_results = {'emails_sent': 50}\n    raise error\n",
    );
    redis.run::<i64>(&["HSET", "experiments:x", "tool", "limited", "state", "paused"]);
    redis.run::<i64>(&["HSET", "experiments:y", "state", "ready"]);
    redis.run::<i64>(&["LPUSH", "experiments:list", "1"]);
    executor.serve();
    leads(&executor);
    let found = Listener::new(&redis).gather(
        &["fullsend:metrics", "fullsend:experiment_results"],
        || {
            for id in ["x", "y", "nowhere", "list"] {
                trigger(&redis, &json!({"experiment_id": id}).to_string());
            }
            trigger(&redis, "nonsense");
            trigger(&redis, r#"{"target": "test_tool"}"#);
        },
        |found| {
            found.iter().filter(|(_, _, body)| body["type"] == "experiment_failed").count() == 6
        },
    );
    let failed = |id: &str| {
        let of = |(_, _, body): &&(Instant, String, Value)| {
            body["experiment_id"] == id && body["type"] == "experiment_failed"
        };
        found.iter().find(of).unwrap().2.clone()
    };
    let x = failed("x");
    assert_eq!((&x["error"], &x["error_type"]), (&json!("Rate limited"), &json!("RateLimitError")));
    assert_eq!(x["partial_results"], json!({"emails_sent": 50}));
    assert!(
        found
            .iter()
            .any(|(_, _, m)| m["event"] == "partial_completion" && m["items_processed"] == 1)
    );
    eventually("the owner's word", || (state(&redis, "x") == "paused").then_some(()));
    let run = run_hash(&redis, "x");
    assert_eq!((run["status"].as_str(), run["attempts"].as_str()), ("failed", "1"));
    assert!(run["traceback"].contains("raise error"));
    assert!(failed("y")["error"].as_str().unwrap().contains("names no tool"));
    eventually("a failed state", || (state(&redis, "y") == "failed").then_some(()));
    let nowhere = failed("nowhere");
    assert_eq!(
        (&nowhere["error_type"], &nowhere["run_id"]),
        (&json!("ExperimentNotFoundError"), &Value::Null)
    );
    assert!(redis.run::<Vec<String>>(&["KEYS", "experiment_runs:nowhere*"]).is_empty());
    assert!(failed("list")["error"].as_str().unwrap().contains("is a list"));
    let refused: Vec<_> = found
        .iter()
        .filter(|(_, _, m)| {
            m["error_type"] == "InvalidPayloadError" && m["experiment_id"].is_null()
        })
        .collect();
    assert_eq!(refused.len(), 2);
    assert_eq!(executor.rows("SELECT * FROM jobs WHERE status = 'FAILED'").len(), 6);
}

#[test]
fn transient_errors_are_retried_within_one_run() {
    let redis = RedisServer::start();
    let mut executor = executor(&redis, &[]);
    let counter = executor.dir.path().join("count");
    tool(
        &executor,
        "flaky",
        "import pathlib\n\ndef flaky(path):\n    path = pathlib.Path(path)\n    n = len(path.read_text()) if path.exists() else 0\n    path.write_text('x' * (n + 1))\n    if n < 2:\n        raise ConnectionError('not yet')\n    return {'tries': n + 1}\n",
    );
    let params = json!({"path": counter}).to_string();
    redis.run::<i64>(&[
        "HSET",
        "experiments:f",
        "tool",
        "flaky",
        "params",
        &params,
        "state",
        "ready",
    ]);
    executor.serve();
    redis.push(&json!({"experiment_id": "f"}));
    eventually("the end of the run", || (state(&redis, "f") == "run").then_some(()));
    let run = run_hash(&redis, "f");
    assert_eq!((run["attempts"].as_str(), run["status"].as_str()), ("3", "completed"));
    let rows = executor.rows("SELECT * FROM jobs");
    assert_eq!((&rows[0]["source"], &rows[0]["failures"]), (&json!("queue"), &json!(2)));
    assert_eq!(rows[0]["run_id"], json!(run["run_id"]));
}

#[test]
fn a_thousand_triggers_in_one_burst_are_a_thousand_runs() {
    let redis = RedisServer::start();
    let mut executor = executor(&redis, &[("LOG_LEVEL", "info"), ("CONCURRENCY", "4")]);
    for n in 0..20 {
        redis.run::<i64>(&[
            "HSET",
            &format!("experiments:e{n}"),
            "tool",
            "test_tool",
            "state",
            "ready",
        ]);
    }
    executor.serve();
    leads(&executor);
    let mut pipeline = redis::pipe();
    for n in 0..1000 {
        let message = json!({"experiment_id": format!("e{}", n % 20)}).to_string();
        pipeline.publish("fullsend:execute_now", message).ignore();
    }
    pipeline.query::<()>(&mut redis.connect()).unwrap();
    let done = "SELECT run_id FROM jobs WHERE status = 'COMPLETED' AND source = 'trigger'";
    let rows = within(Duration::from_secs(120), "a thousand runs", || {
        let rows = executor.rows(done);
        (rows.len() == 1000).then_some(rows)
    });
    let distinct: BTreeSet<String> = rows.iter().map(|row| row["run_id"].to_string()).collect();
    assert_eq!(distinct.len(), 1000);
    eventually("a thousand run hashes", || {
        let keys: Vec<String> = redis.run(&["KEYS", "experiment_runs:*"]);
        (keys.len() == 1000).then_some(())
    });
}

#[test]
fn speedrun_takes_turns_and_keeps_its_interval() {
    let redis = RedisServer::start();
    let mut executor = executor(
        &redis,
        &[("SCHEDULE_MODE", "speedrun"), ("SPEEDRUN_INTERVAL", "500ms"), ("CONCURRENCY", "4")],
    );
    tool(&executor, "longer", "import time\n\ndef longer():\n    time.sleep(0.8)\n");
    for n in 0..7 {
        redis.run::<i64>(&[
            "HSET",
            &format!("experiments:e{n}"),
            "tool",
            "longer",
            "state",
            "ready",
        ]);
    }
    redis.run::<i64>(&["HSET", "experiments:draft", "tool", "longer", "state", "draft"]);
    executor.serve();
    let by_experiment = "SELECT experiment_id, count(*) AS n FROM jobs GROUP BY 1";
    let rows = eventually("three runs of each", || {
        let rows = executor.rows(by_experiment);
        (rows.len() == 7 && rows.iter().all(|row| row["n"].as_i64() >= Some(3))).then_some(rows)
    });
    assert!(rows.iter().all(|row| row["n"].as_i64() <= Some(4)), "in turn: {rows:?}");
    let born = executor.rows("SELECT DISTINCT created_at AS at FROM jobs ORDER BY 1");
    let times: Vec<jiff::Timestamp> =
        born.iter().map(|row| row["at"].as_str().unwrap().parse().unwrap()).collect();
    let cycles: Vec<f64> = times
        .windows(2)
        .map(|pair| pair[1].duration_since(pair[0]).as_secs_f64())
        .filter(|gap| *gap > 0.2)
        .collect();
    let mean = cycles.iter().sum::<f64>() / cycles.len() as f64;
    assert!((0.45..0.55).contains(&mean), "the interval is kept: {cycles:?}");
}

#[test]
fn a_running_experiment_is_skipped_by_cron_with_a_word() {
    let redis = RedisServer::start();
    let mut executor = executor(&redis, &[("SCHEDULE_MODE", "cron")]);
    tool(&executor, "longer", "import time\n\ndef longer():\n    time.sleep(2.5)\n");
    redis.run::<i64>(&["HSET", "experiments:e", "tool", "longer", "state", "ready"]);
    redis.run::<()>(&["SET", "schedules:e", "* * * * * *"]);
    executor.serve();
    leads(&executor);
    let found = Listener::new(&redis).gather(
        &["fullsend:metrics"],
        || {},
        |found| found.iter().any(|(_, _, body)| body["event"] == "run_completed"),
    );
    let started = found.iter().find(|(_, _, body)| body["event"] == "run_started").unwrap();
    let skipped: Vec<_> =
        found.iter().filter(|(_, _, body)| body["event"] == "run_skipped").collect();
    assert!(skipped.len() >= 2, "{found:?}");
    assert!(skipped.iter().all(|(_, _, body)| body["run_id"] == started.2["run_id"]));
}

#[test]
fn three_executors_fire_each_due_time_once_and_share_the_runs() {
    let redis = RedisServer::start();
    let settings = [("SCHEDULE_MODE", "cron"), ("CONCURRENCY", "1"), ("HEARTBEAT_INTERVAL", "1s")];
    for n in 0..10 {
        redis.run::<i64>(&[
            "HSET",
            &format!("experiments:e{n}"),
            "tool",
            "test_tool",
            "state",
            "ready",
        ]);
        redis.run::<()>(&["SET", &format!("schedules:e{n}"), "* * * * * *"]);
    }
    let mut executors = three(&redis, &settings);
    let all = |executors: &[Executor]| -> Vec<String> {
        let sql = "SELECT run_id FROM jobs WHERE status = 'COMPLETED' AND source = 'cron'";
        let ids = |executor: &Executor| {
            executor.rows(sql).into_iter().map(|row| row["run_id"].to_string())
        };
        executors.iter().flat_map(ids).collect()
    };
    within(Duration::from_secs(60), "200 runs", || (all(&executors).len() >= 200).then_some(()));
    // A clean stop hands over at once, whoever leads.
    let leader =
        executors.iter().position(|e| e.lines().iter().any(|line| line["event"] == "leading"));
    let stopped = executors.remove(leader.expect("one leads")).terminate();
    assert_eq!(stopped, Some(0));
    within(Duration::from_secs(5), "another leads", || {
        let led = executors.iter().any(|e| e.lines().iter().any(|line| line["event"] == "leading"));
        led.then_some(())
    });
    let ids = all(&executors);
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "no due time fired twice");
    for executor in &executors {
        let count = executor.rows("SELECT id FROM jobs").len();
        assert!(count > 10, "the runs are shared: {count}");
    }
}

#[test]
fn a_schedule_of_the_configuration_needs_no_redis() {
    let mut executor = Executor::new(None);
    let schedules = json!([{"id": "s", "cron": "* * * * * *", "job": {"target": "tasks.good:noop", "task_type": "event"}}]);
    executor.set("SCHEDULES", &schedules.to_string());
    executor.serve();
    let rows = eventually("three jobs", || {
        let rows = executor.rows("SELECT * FROM jobs WHERE status = 'COMPLETED'");
        (rows.len() >= 3).then_some(rows)
    });
    assert!(rows.iter().all(|row| row["source"] == "cron"));
    executor.kill();
    let before = executor.rows("SELECT * FROM jobs").len();
    executor.serve();
    eventually("more jobs", || {
        (executor.rows("SELECT * FROM jobs").len() > before + 1).then_some(())
    });
    let receipts = executor.rows("SELECT receipt FROM jobs");
    let distinct: BTreeSet<String> =
        receipts.iter().map(|row| row["receipt"].to_string()).collect();
    assert_eq!(distinct.len(), receipts.len());
}

#[test]
fn a_dead_executors_experiment_is_set_back() {
    let redis = RedisServer::start();
    let settings = [("HEARTBEAT_INTERVAL", "500ms")];
    let mut first = executor(&redis, &settings);
    first.set("EXECUTOR_ID", "first");
    tool(&first, "longer", "import time\n\ndef longer():\n    time.sleep(60)\n");
    redis.run::<i64>(&["HSET", "experiments:e", "tool", "longer", "state", "ready"]);
    first.serve();
    leads(&first);
    trigger(&redis, r#"{"experiment_id": "e"}"#);
    eventually("it to run", || (state(&redis, "e") == "running").then_some(()));
    first.kill();
    let mut second = executor(&redis, &settings);
    second.set("EXECUTOR_ID", "second");
    second.serve();
    eventually("the state before", || (state(&redis, "e") == "ready").then_some(()));
    second.line("rescue", |line| line["event"] == "run_rescued");
}

/// The due times that an executor fired for an experiment.
fn fired(executor: &Executor, id: &str) -> Vec<jiff::Timestamp> {
    executor
        .lines()
        .iter()
        .filter(|line| line["event"] == "schedule_fired" && line["experiment_id"] == id)
        .map(|line| line["due"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// The due times that it saw to: it fired them, or skipped them with a word since the last run is still
/// under way (that of a dead executor until it is rescued).
fn seen(executor: &Executor) -> Vec<jiff::Timestamp> {
    let of = |line: &Row| {
        let event = line["event"].as_str().unwrap();
        ["schedule_fired", "run_skipped"].contains(&event)
    };
    let lines = executor.lines().into_iter().filter(of);
    lines.map(|line| line["due"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_killed_leader_costs_ten_seconds_at_most_and_fires_nothing_twice() {
    let redis = RedisServer::start();
    let settings = [("SCHEDULE_MODE", "cron"), ("HEARTBEAT_INTERVAL", "1s")];
    redis.run::<i64>(&["HSET", "experiments:e", "tool", "test_tool", "state", "ready"]);
    redis.run::<()>(&["SET", "schedules:e", "* * * * * *"]);
    let mut executors = three(&redis, &settings);
    let leader = eventually("a leader that has fired five times", || {
        executors.iter().position(|executor| fired(executor, "e").len() >= 5)
    });
    let mut killed = executors.remove(leader);
    killed.kill();
    let last = *fired(&killed, "e").last().unwrap();
    let next = eventually("another to see to ten due times", || {
        executors.iter().map(seen).find(|times| times.len() >= 10)
    });
    let late = next[0].duration_since(last).as_secs_f64();
    assert!(late <= 11.0, "the times that nobody led for fire once together: {late} s");
    for pair in next[1..].windows(2) {
        assert_eq!(pair[1].duration_since(pair[0]).as_secs(), 1, "none is missing after that");
    }
    let others = executors.iter().flat_map(|executor| fired(executor, "e"));
    let all: Vec<_> = fired(&killed, "e").into_iter().chain(others).collect();
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "none fires twice");
    let led = |executor: &Executor| executor.lines().iter().any(|l| l["event"] == "catching_up");
    assert!(executors.iter().any(led));
}

#[test]
fn a_leader_that_was_stopped_for_a_while_misses_nothing() {
    let redis = RedisServer::start();
    redis.run::<i64>(&["HSET", "experiments:e", "tool", "test_tool", "state", "ready"]);
    redis.run::<()>(&["SET", "schedules:e", "* * * * * *"]);
    let mut executor = executor(&redis, &[("SCHEDULE_MODE", "cron")]);
    executor.serve();
    eventually("two due times", || (fired(&executor, "e").len() >= 2).then_some(()));
    executor.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(3)); // the stall itself
    executor.signal(libc::SIGCONT);
    let times =
        eventually("ten due times", || Some(seen(&executor)).filter(|times| times.len() >= 10));
    for pair in times.windows(2) {
        assert_eq!(pair[1].duration_since(pair[0]).as_secs(), 1, "{times:?}");
    }
}

#[test]
fn nonsense_in_redis_costs_log_lines_and_nothing_else() {
    let redis = RedisServer::start();
    let mut seed = 0x9e37_79b9_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let mut pipeline = redis::pipe();
    for n in 0..300 {
        let junk: Vec<u8> = (0..random() % 60).map(|_| (random() % 256) as u8).collect();
        let (experiment, schedule) = (format!("experiments:j{n}"), format!("schedules:j{n}"));
        match random() % 4 {
            0 => pipeline.set(&experiment, &junk).ignore(),
            1 => pipeline
                .hset(&experiment, "tool", &junk)
                .hset(&experiment, "state", "ready")
                .ignore(),
            2 => pipeline
                .hset(&experiment, "execution", &junk)
                .hset(&experiment, "state", "run")
                .ignore(),
            _ => pipeline.rpush(&experiment, &junk).ignore(),
        };
        match random() % 3 {
            0 => pipeline.set(&schedule, &junk).ignore(),
            1 => pipeline.set(&schedule, format!("* * * * * {}", random() % 99)).ignore(),
            _ => pipeline.sadd(&schedule, &junk).ignore(),
        };
    }
    pipeline.query::<()>(&mut redis.connect()).unwrap();
    redis.run::<i64>(&["HSET", "experiments:good", "tool", "test_tool", "state", "ready"]);
    redis.run::<()>(&["SET", "schedules:good", "* * * * * *"]);
    let mut executor = executor(&redis, &[("SCHEDULE_MODE", "cron")]);
    executor.serve();
    leads(&executor);
    let mut pipeline = redis::pipe();
    for n in 0..100 {
        let junk: Vec<u8> = (0..random() % 60).map(|_| (random() % 256) as u8).collect();
        pipeline
            .publish("fullsend:execute_now", &junk)
            .publish("fullsend:schedules", &junk)
            .ignore();
        pipeline
            .publish("fullsend:execute_now", json!({"experiment_id": format!("j{n}")}).to_string())
            .ignore();
    }
    pipeline.query::<()>(&mut redis.connect()).unwrap();
    executor.line("a bad schedule", |line| line["event"] == "bad_schedule");
    let good = "SELECT * FROM jobs WHERE experiment_id = 'good' AND status = 'COMPLETED'";
    eventually("the good one to run on", || (executor.rows(good).len() >= 5).then_some(()));
    eventually("all triggers to end", || {
        let open =
            executor.rows("SELECT id FROM jobs WHERE source = 'trigger' AND finished_at IS NULL");
        let all = executor.rows("SELECT id FROM jobs WHERE source = 'trigger'");
        (open.is_empty() && all.len() >= 200).then_some(())
    });
    assert_eq!(executor.terminate(), Some(0));
}
