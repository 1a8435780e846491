//! From a Redis list to a finished row: what is told, what is refused, what goes first.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Executor, RedisServer, eventually};

/// Bytes that decide themselves from a seed: the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.roll(most);
        (0..length).map(|_| u8::try_from(self.roll(256)).unwrap()).collect()
    }

    fn mutate(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.roll(3) {
            let at = self.roll(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match self.roll(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(self.roll(256)).unwrap()),
                2 if !bytes.is_empty() => bytes[at] ^= 1 << self.roll(8),
                3 if !bytes.is_empty() => drop(bytes.remove(at)),
                _ => bytes.extend_from_within(..at),
            }
        }
        bytes
    }
}

/// Payloads with something odd about each.
const ODD: &[&str] = &[
    "",
    " ",
    "null",
    "[]",
    "{}",
    "\u{feff}{}",
    r#"{"target": "tasks.good.echo", "params": {"a": "\ud800"}}"#,
    r#"{"target": "tasks.good.echo", "params": {"a": "\u0000"}}"#,
    r#"{"target": "tasks.good.echo", "params": {"a": 1e999}}"#,
    r#"{"target": "tasks.good.echo", "params": {"a": 1, "a": 2}}"#,
    r#"{"target": "tasks.good.echo", "params": {"": 1}}"#,
    r#"{"target": "tasks.good.echo", "params": {"a": 123456789012345678901234567890}}"#,
    r#"{"target": "tasks.good.echo", "params": []}"#,
    r#"{"target": "tasks.good.echo", "job_id": ""}"#,
    r#"{"target": "tasks.good.echo", "job_id": "\u0000"}"#,
    r#"{"target": "tasks.good.echo", "idempotency_key": "\u0000"}"#,
    r#"{"target": "tasks.good.echo", "idempotency_key": ""}"#,
    r#"{"target": "tasks.good.echo", "timeout_seconds": 1e-320}"#,
    r#"{"target": "tasks.good.echo", "timeout_seconds": 1e308}"#,
    r#"{"target": "tasks.good.echo", "run_at": "0000-01-01T00:00:00Z"}"#,
    r#"{"target": "tasks.good.echo", "run_at": "-009999-01-01T00:00:00Z"}"#,
    r#"{"target": "tasks.good.echo", "priority": 1e0}"#,
    r#"{"target": "tasks.good.echo", "max_attempts": -1}"#,
    r#"{"target": "tasks.good.echo", "id": "a", "job_id": "b"}"#,
    r#"{"target": "../../etc/passwd"}"#,
    r#"{"target": "tasks..good"}"#,
    r#"{"target": "os.system", "task_type": "ETL"}"#,
    r#"{"module_path": "os", "method_name": "system"}"#,
    r#"{"experiment_id": ""}"#,
    r#"{"experiment_id": "\u0000"}"#,
];

#[test]
fn a_pushed_job_is_run_and_told() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let events = redis.subscribe("executor:job_events");
    redis.push(&json!({"job_id": "a", "target": "tasks.good.add", "params": {"a": 2, "b": 3},
        "task_type": "event"}));
    let row = executor.until("a", "COMPLETED");
    assert_eq!((&row["result"], &row["attempts"]), (&json!("5"), &json!(1)));
    assert_eq!((&row["source"], &row["priority"]), (&json!("queue"), &json!(9)));
    let hash = eventually("the hash to tell of the end", || {
        let hash = redis.hash("executor:job:a");
        (hash.get("status")? == "COMPLETED").then_some(hash)
    });
    assert_eq!((hash["result"].as_str(), hash["attempts"].as_str()), ("5", "1"));
    assert_eq!(json!(hash["executor_id"]), row["executor_id"]);
    assert_eq!(json!(hash["started_at"]), row["started_at"]);
    assert_eq!(json!(hash["finished_at"]), row["finished_at"]);
    assert!(!hash.contains_key("error") && !hash.contains_key("error_type"), "{hash:?}");
    let ttl: i64 = redis.run(&["TTL", "executor:job:a"]);
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    let patience = crate::support::PATIENCE;
    let told: Vec<Value> = (0..2).map(|_| events.recv_timeout(patience).unwrap()).collect();
    let common = json!({"job_id": "a", "attempts": 1, "executor_id": row["executor_id"],
        "started_at": row["started_at"], "error_type": null, "error": null});
    let with = |more: Value| {
        let mut whole = common.clone();
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        whole
    };
    let began = with(json!({"status": "RUNNING", "finished_at": null, "result": null}));
    let ended =
        with(json!({"status": "COMPLETED", "finished_at": row["finished_at"], "result": 5}));
    assert_eq!(told, [began, ended]);
}

#[test]
fn a_hash_of_the_wrong_type_keeps_nobody_else_from_being_told() {
    let redis = RedisServer::start();
    redis.run::<()>(&["SET", "executor:job:b", "not a hash"]);
    let mut executor = Executor::new(Some(&redis));
    // A slot for each, so that none is told to be waiting.
    executor.set("CONCURRENCY", "3").serve();
    let events = redis.subscribe("executor:job_events");
    for id in ["a", "b", "c"] {
        redis.push(&json!({"job_id": id, "target": "tasks.good.noop", "task_type": "event"}));
    }
    for id in ["a", "c"] {
        eventually("the hash to tell of the end", || {
            let hash = redis.hash(&format!("executor:job:{id}"));
            (hash.get("status")? == "COMPLETED").then_some(())
        });
    }
    // Events are told all the same, each once and in order for each job.
    let told: Vec<Value> =
        (0..6).map(|_| events.recv_timeout(crate::support::PATIENCE).unwrap()).collect();
    for id in ["a", "b", "c"] {
        let of: Vec<_> = told.iter().filter(|e| e["job_id"] == id).map(|e| &e["status"]).collect();
        assert_eq!(of, ["RUNNING", "COMPLETED"], "{id}");
    }
    executor.line("message_refused", |line| line["event"] == "message_refused");
    assert_eq!(executor.count("redis_lost"), 0);
    eventually("the outbox to be empty", || {
        (executor.rows("SELECT count(*) AS n FROM outbox")[0]["n"] == 0).then_some(())
    });
}

#[test]
fn a_queue_of_the_wrong_type_is_told_once_and_recovers() {
    let redis = RedisServer::start();
    redis.run::<()>(&["SET", "executor:jobs", "not a list"]);
    let executor = Executor::start(&redis);
    executor.line("queue_unreadable", |line| line["event"] == "queue_unreadable");
    let text = eventually("/healthz to say so", || {
        let (status, body) = executor.healthz();
        (status == 503).then(|| body["checks"]["redis"].as_str().unwrap().to_owned())
    });
    assert!(text.contains("WRONGTYPE"), "{text}");
    // Long enough for two more rounds, each of which writes nothing: told by its own heartbeat.
    redis.run::<()>(&["DEL", "executor:jobs"]);
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    executor.until("a", "COMPLETED");
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
    assert_eq!((executor.count("queue_unreadable"), executor.count("redis_lost")), (1, 0));
}

#[test]
fn what_is_no_job_is_kept_and_the_next_one_runs() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let large = format!(r#"{{"job_id": "large", "x": "{}"}}"#, "y".repeat(2 * 1024 * 1024));
    redis.push_bytes(large.as_bytes());
    redis.push_bytes(b"\xff\xfe not UTF-8");
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    executor.until("a", "COMPLETED");
    let rows = executor.rows(
        "SELECT status, error_type, typeof(payload) AS kind, length(payload) AS size,
            substr(payload, 1, 18) AS head FROM jobs WHERE id <> 'a' ORDER BY seq",
    );
    let expected = [("text", 1024 * 1024), ("blob", 12)];
    assert_eq!(rows.len(), 2, "{rows:?}");
    for (row, (kind, size)) in rows.iter().zip(expected) {
        assert_eq!(row["status"], "FAILED");
        assert_eq!(row["error_type"], "InvalidPayloadError");
        assert_eq!((&row["kind"], &row["size"]), (&json!(kind), &json!(size)));
    }
    assert_eq!(rows[0]["head"], r#"{"job_id": "large""#);
    assert_eq!(executor.count("bad_payload"), 2);
}

#[test]
fn ten_thousand_odd_payloads_are_one_row_each() {
    const COUNT: usize = 10_000;
    let redis = RedisServer::start();
    let mut executor = Executor::new(Some(&redis));
    executor.set("LOG_LEVEL", "info").serve();
    let mut dice = Dice(7);
    let payloads: Vec<Vec<u8>> = (0..COUNT)
        .map(|n| match n % 20 {
            0..6 => dice.bytes(200),
            6 => ODD[dice.roll(ODD.len())].as_bytes().to_vec(),
            7 => dice.mutate(ODD[n / 20 % ODD.len()].as_bytes().to_vec()),
            8 => vec![b"[{\"1"[dice.roll(4)]; 1 + dice.roll(5000)],
            _ => {
                let job = json!({"job_id": format!("{n}"), "task_type": "etl", "params": {"n": n},
                    "module_path": if n % 20 == 9 { "tasks.good" } else { "elsewhere.good" },
                    "method_name": "echo", "priority": 5, "retry_on": "all", "max_attempts": 1,
                    "timeout_seconds": 20, "idempotency_key": format!("k{}", n / 2)});
                dice.mutate(job.to_string().into_bytes())
            }
        })
        .collect();
    for chunk in payloads.chunks(1000) {
        redis.push_all(chunk.iter().map(Vec::as_slice));
    }
    redis.push(&json!({"job_id": "good", "target": "tasks.good.noop", "priority": 9}));
    executor.until("good", "COMPLETED");
    let count = |what: &str| {
        executor.rows(&format!("SELECT count(*) AS n FROM jobs {what}"))[0]["n"].as_u64().unwrap()
    };
    assert_eq!(count(""), COUNT as u64 + 1);
    eventually("every row to be terminal", || {
        (count("WHERE status IN ('QUEUED', 'RUNNING')") == 0).then_some(())
    });
    assert!(count("WHERE status = 'COMPLETED'") > 100, "some must be good");
    assert_eq!(redis.run::<i64>(&["LLEN", "executor:jobs"]), 0);
    eventually("the notes to be forgotten", || {
        redis.run::<Vec<String>>(&["KEYS", "executor:accepting:*"]).is_empty().then_some(())
    });
    assert_eq!((executor.count("redis_lost"), executor.count("accept_delayed")), (0, 0));
}

#[test]
fn what_redis_says_of_a_tool_holds_for_its_jobs() {
    let redis = RedisServer::start();
    let mut executor = Executor::new(Some(&redis));
    let tools = executor.dir.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    let text = "import time\ndef slow():\n    time.sleep(60)\n";
    std::fs::write(tools.join("slow.py"), text).unwrap();
    executor.set("TOOLS_PATH", tools.to_str().unwrap()).serve();
    redis::cmd("HSET")
        .arg("tools:slow")
        .arg(&["timeout", "0.3", "max_attempts", "2"])
        .arg("description")
        .arg(b"\xff not UTF-8".as_slice())
        .exec(&mut redis.connect())
        .unwrap();
    redis.push(&json!({"job_id": "a", "target": "slow"}));
    redis
        .push(&json!({"job_id": "b", "target": "slow", "timeout_seconds": 0.2, "max_attempts": 1}));
    let row = executor.ended("a");
    assert_eq!((&row["error_type"], &row["attempts"]), (&json!("ToolTimeoutError"), &json!(2)));
    assert_eq!((&row["timeout_seconds"], &row["max_attempts"]), (&json!(0.3), &json!(2)));
    let row = executor.ended("b");
    assert_eq!((&row["timeout_seconds"], &row["attempts"]), (&json!(0.2), &json!(1)));
}

/// One slot, taken by a job that ends once the file `go` is there.
fn one_busy_slot(redis: &RedisServer) -> Executor {
    let mut executor = Executor::new(Some(redis));
    executor.set("CONCURRENCY", "1").serve();
    redis.push(&json!({"job_id": "busy", "target": "tasks.good.waits_for",
        "params": {"path": executor.dir.path().join("go")}}));
    executor.until("busy", "RUNNING");
    executor
}

fn go(executor: &Executor) {
    std::fs::write(executor.dir.path().join("go"), "").unwrap();
}

/// Pushes a job that notes its start.
fn push_noting(redis: &RedisServer, executor: &Executor, id: &str, priority: u8) {
    let path = executor.dir.path().join("starts");
    redis.push(&json!({"job_id": id, "target": "tasks.good.touches", "priority": priority,
        "params": {"path": path}}));
}

/// The ids in order of their starts.
fn starts(executor: &Executor) -> Vec<String> {
    let text = std::fs::read_to_string(executor.dir.path().join("starts")).unwrap();
    let by_pid = executor.rows("SELECT job_id, pid FROM attempts");
    text.lines()
        .map(|pid| by_pid.iter().find(|row| row["pid"].as_i64() == pid.parse().ok()).unwrap())
        .map(|row| row["job_id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn priority_goes_first_and_every_tenth_start_is_the_oldest() {
    let redis = RedisServer::start();
    let executor = one_busy_slot(&redis);
    push_noting(&redis, &executor, "old", 1);
    push_noting(&redis, &executor, "later", 2);
    let high: Vec<String> = (0..12).map(|n| format!("high{n}")).collect();
    for id in &high {
        push_noting(&redis, &executor, id, 9);
    }
    executor.until("high11", "QUEUED");
    go(&executor);
    executor.until("later", "COMPLETED");
    executor.until("old", "COMPLETED");
    // The busy one was the first start, so the oldest has its turn after eight others.
    let mut expected = high;
    expected.insert(8, "old".into());
    expected.push("later".into());
    assert_eq!(starts(&executor), expected);
}

#[test]
fn a_job_waits_for_its_time() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let run_at = jiff::Timestamp::now() + Duration::from_secs(2);
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop", "run_at": run_at.to_string()}));
    let row = executor.until("a", "QUEUED");
    assert_eq!(row["attempts"], 0);
    let row = executor.until("a", "COMPLETED");
    let started: jiff::Timestamp = row["started_at"].as_str().unwrap().parse().unwrap();
    assert!(started.as_millisecond() >= run_at.as_millisecond(), "{started} {run_at}");
    let late = started.duration_since(run_at).as_millis();
    assert!(late < 1000, "{late} ms late");
}

#[test]
fn a_key_runs_once_and_followers_take_over_the_result() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let path = executor.dir.path().join("go");
    let mut job = json!({"target": "tasks.good.waits_for", "idempotency_key": "k",
        "params": {"path": path}});
    for id in ["first", "second"] {
        job["job_id"] = id.into();
        redis.push(&job);
    }
    let row = executor.until("second", "QUEUED");
    assert_eq!((&row["duplicate"], &row["duplicate_of"]), (&json!(1), &json!("first")));
    go(&executor);
    executor.until("first", "COMPLETED");
    executor.until("second", "COMPLETED");
    job["job_id"] = "third".into();
    redis.push(&job);
    executor.until("third", "COMPLETED");
    for id in ["second", "third"] {
        let row = executor.job(id).unwrap();
        assert_eq!((&row["result"], &row["attempts"]), (&json!("true"), &json!(0)), "{id}");
        assert_eq!((&row["duplicate"], &row["duplicate_of"]), (&json!(1), &json!("first")));
        eventually("the hash to tell", || {
            let hash = redis.hash(&format!("executor:job:{id}"));
            (hash.get("status")? == "COMPLETED" && hash.get("result")? == "true").then_some(())
        });
    }
}

#[test]
fn the_oldest_follower_of_a_failed_job_runs() {
    let redis = RedisServer::start();
    let executor = one_busy_slot(&redis);
    let path = executor.dir.path().join("tries");
    for id in ["first", "second", "third"] {
        // The first try fails, and is the leader's only one.
        redis.push(&json!({"job_id": id, "target": "tasks.bad.fails_until", "max_attempts": 1,
            "params": {"path": path, "n": 1}, "idempotency_key": "k"}));
    }
    executor.until("third", "QUEUED");
    go(&executor);
    assert_eq!(executor.ended("first")["status"], "FAILED");
    let row = executor.until("second", "COMPLETED");
    assert_eq!((&row["duplicate"], &row["attempts"]), (&json!(0), &json!(1)));
    assert_eq!(row["duplicate_of"], Value::Null);
    let row = executor.until("third", "COMPLETED");
    assert_eq!((&row["duplicate_of"], &row["attempts"]), (&json!("second"), &json!(0)));
}

#[test]
fn a_job_id_seen_before_runs_under_a_fresh_one() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let path = executor.dir.path().join("starts");
    for _ in 0..2 {
        redis.push(&json!({"job_id": "a", "target": "tasks.good.touches",
            "params": {"path": path}}));
    }
    let row = eventually("the second to end", || {
        let rows = executor.rows("SELECT * FROM jobs WHERE duplicate_of = 'a'");
        rows.into_iter().find(|row| row["status"] == "COMPLETED")
    });
    assert_eq!((&row["duplicate"], &row["attempts"]), (&json!(1), &json!(1)));
    executor.until("a", "COMPLETED");
    assert_eq!(lines_of(&path), 2);
}

fn lines_of(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}
