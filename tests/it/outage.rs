//! Redis goes and comes back, replies are lost, the ledger refuses: every job is one row all the same.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Executor, Proxy, RedisServer, eventually, within};

/// How long after its return Redis is consumed again (SPEC 9).
const BACK: Duration = Duration::from_secs(5);

#[test]
fn jobs_in_the_ledger_run_on_while_redis_is_away() {
    let mut redis = RedisServer::start();
    let mut executor = Executor::new(Some(&redis));
    executor.set("CONCURRENCY", "1").serve();
    for outage in 1..=2 {
        let go = executor.dir.path().join(format!("go{outage}"));
        let [running, waiting, later] =
            ["running", "waiting", "later"].map(|n| format!("{n}{outage}"));
        for id in [&running, &waiting] {
            redis.push(&json!({"job_id": id, "target": "tasks.good.waits_for",
                "params": {"path": go}}));
        }
        executor.until(&running, "RUNNING");
        executor.until(&waiting, "QUEUED");
        redis.pause();
        eventually("the outage to be told", || {
            (executor.count("redis_lost") == outage).then_some(())
        });
        let (status, body) = executor.healthz();
        assert_eq!((status, &body["status"]), (503, &json!("unavailable")));
        assert_eq!(body["checks"]["redis"], "Redis does not answer");
        assert_eq!(body["checks"]["ledger"], "ok");
        assert_eq!(executor.get("/livez").0, 200);
        std::fs::write(&go, "").unwrap();
        executor.until(&running, "COMPLETED");
        executor.until(&waiting, "COMPLETED");
        redis.resume();
        let back = Instant::now();
        redis.push(&json!({"job_id": later, "target": "tasks.good.noop"}));
        within(BACK, "a job pushed after the return to have begun", || {
            executor.job(&later).filter(|row| row["attempts"] == 1)
        });
        assert!(back.elapsed() < BACK);
        for id in [&running, &waiting, &later] {
            eventually("the hash to tell of the end", || {
                let hash = redis.hash(&format!("executor:job:{id}"));
                (hash.get("status")? == "COMPLETED").then_some(())
            });
        }
        eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
        eventually("the end of the outage to be told", || {
            (executor.count("redis_back") == outage).then_some(())
        });
        assert_eq!(executor.count("redis_lost"), outage);
    }
}

#[test]
fn a_start_without_redis_waits_for_it() {
    let mut redis = RedisServer::start();
    redis.pause();
    let executor = Executor::start(&redis);
    assert_eq!(executor.healthz().0, 503);
    redis.resume();
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    within(BACK, "the job to be taken", || executor.job("a"));
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
    executor.line("redis_back", |line| line["event"] == "redis_back");
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 1));
}

#[test]
fn a_frozen_redis_is_one_outage() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    redis.push(&json!({"job_id": "a", "target": "tasks.good.waits_for",
        "params": {"path": executor.dir.path().join("go")}}));
    executor.until("a", "RUNNING");
    redis.freeze();
    // Long before that is called an outage.
    let (status, body) = executor.healthz();
    assert_eq!((status, executor.count("redis_lost")), (503, 0), "{body}");
    assert!(body["checks"]["redis"].as_str().unwrap().contains("within 1s"), "{body}");
    executor.line("redis_lost", |line| line["event"] == "redis_lost");
    std::fs::write(executor.dir.path().join("go"), "").unwrap();
    executor.until("a", "COMPLETED");
    // Long enough for every question that was under way to have missed its time.
    let before = executor.count("heartbeat");
    eventually("heartbeats", || (executor.count("heartbeat") > before + 1).then_some(()));
    redis.thaw();
    redis.push(&json!({"job_id": "b", "target": "tasks.good.noop"}));
    within(BACK, "the job to be taken", || executor.job("b"));
    for id in ["a", "b"] {
        eventually("the hash to tell of the end", || {
            let hash = redis.hash(&format!("executor:job:{id}"));
            (hash.get("status")? == "COMPLETED").then_some(())
        });
    }
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
    executor.line("redis_back", |line| line["event"] == "redis_back");
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 1));
}

#[test]
fn a_full_redis_is_one_outage() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    executor.until("a", "COMPLETED");
    let before = executor.count("heartbeat");
    redis.push(&json!({"job_id": "b", "target": "tasks.good.sleeps", "params": {"seconds": 0.5}}));
    executor.until("b", "RUNNING");
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    executor.until("b", "COMPLETED");
    executor.line("redis_lost", |line| line["event"] == "redis_lost");
    // It answers PING all the time: the outage must not seem to be over.
    eventually("two heartbeats", || (executor.count("heartbeat") > before + 2).then_some(()));
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 0));
    assert_eq!(executor.healthz().0, 503);
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("the hash to tell of the end", || {
        (redis.hash("executor:job:b").get("status")? == "COMPLETED").then_some(())
    });
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
    executor.line("redis_back", |line| line["event"] == "redis_back");
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 1));
}

/// Loses one reply, once Redis has done what was asked, and checks that nothing came of it.
fn lose_one(request: (&'static str, &'static str), done: impl Fn(&RedisServer) -> bool) {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis);
    let mut executor = Executor::new(Some(&redis));
    executor.set("REDIS_URL", &proxy.url()).serve();
    // So that the scripts are known to Redis.
    redis.push(&json!({"job_id": "first", "target": "tasks.good.noop"}));
    eventually("the first job to be told", || {
        (redis.hash("executor:job:first").get("status")? == "COMPLETED").then_some(())
    });
    proxy.lose_reply(request);
    let starts = executor.dir.path().join("starts");
    redis.push(&json!({"job_id": "a", "target": "tasks.good.touches",
        "params": {"path": starts}}));
    redis.push_bytes(b"no job");
    proxy.cut_once("redis to have done what was asked", || done(&redis));
    executor.until("a", "COMPLETED");
    redis.push(&json!({"job_id": "last", "target": "tasks.good.noop"}));
    for id in ["a", "last"] {
        eventually("the hash to tell of the end", || {
            let hash = redis.hash(&format!("executor:job:{id}"));
            (hash.get("status")? == "COMPLETED").then_some(())
        });
    }
    eventually("the notes to be forgotten", || (noted(&redis) == 0).then_some(()));
    let ids: Vec<_> = executor
        .rows("SELECT id FROM jobs ORDER BY seq")
        .into_iter()
        .map(|r| r["id"].clone())
        .collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(executor.count("bad_payload"), 1);
    assert_eq!(std::fs::read_to_string(starts).unwrap().lines().count(), 1);
    assert_eq!(executor.count("redis_lost"), 0, "Redis was never away");
}

/// How many jobs are noted as being accepted.
fn noted(redis: &RedisServer) -> i64 {
    let keys: Vec<String> = redis.run(&["KEYS", "executor:accepting:*"]);
    keys.iter().map(|key| redis.run::<i64>(&["HLEN", key])).sum()
}

#[test]
fn the_reply_to_a_take_is_lost() {
    lose_one(("EVALSHA", "executor:accepting"), |redis| noted(redis) >= 1);
}

#[test]
fn the_reply_to_forgetting_a_note_is_lost() {
    lose_one(("HDEL", "executor:accepting"), |redis| noted(redis) == 0);
}

#[test]
fn the_reply_to_a_message_is_lost() {
    lose_one(("PUBLISH", "executor:job_events"), |redis| {
        redis.hash("executor:job:a").contains_key("status")
    });
}

#[test]
fn a_ledger_that_refuses_loses_nothing() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 0..5 {
        redis.push(&json!({"job_id": format!("{n}"), "target": "tasks.good.noop"}));
    }
    executor.line("ledger_lost", |line| line["event"] == "ledger_lost");
    let (status, body) = executor.healthz();
    assert_eq!((status, &body["checks"]["redis"]), (503, &json!("ok")));
    assert_ne!(body["checks"]["ledger"], "ok");
    let waiting: i64 = redis.run(&["LLEN", "executor:jobs"]);
    assert!(noted(&redis) > 0 && noted(&redis) + waiting == 5, "{} {waiting}", noted(&redis));
    db.execute_batch("ROLLBACK").unwrap();
    for n in 0..5 {
        executor.until(&n.to_string(), "COMPLETED");
    }
    eventually("the notes to be forgotten", || (noted(&redis) == 0).then_some(()));
    assert_eq!(executor.rows("SELECT count(*) AS n FROM jobs")[0]["n"], 5);
    assert_eq!(executor.rows("SELECT count(*) AS n FROM attempts")[0]["n"], 5);
    assert_eq!((executor.count("ledger_lost"), executor.count("redis_lost")), (1, 0));
    eventually("the end of the outage", || (executor.count("ledger_back") == 1).then_some(()));
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
}

#[test]
fn what_a_killed_executor_had_only_noted_is_taken_up_by_the_next() {
    let redis = RedisServer::start();
    let mut executor = Executor::start(&redis);
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    redis.push_bytes(b"no job");
    eventually("a job to be noted", || (noted(&redis) > 0).then_some(()));
    executor.kill();
    assert!(noted(&redis) > 0);
    db.execute_batch("ROLLBACK").unwrap();
    assert!(executor.rows("SELECT * FROM jobs").is_empty());
    executor.serve();
    executor.until("a", "COMPLETED");
    eventually("the notes to be forgotten", || (noted(&redis) == 0).then_some(()));
    eventually("both rows", || {
        (executor.rows("SELECT count(*) AS n FROM jobs")[0]["n"] == 2).then_some(())
    });
    assert_eq!(redis.run::<i64>(&["LLEN", "executor:jobs"]), 0);
}

#[test]
fn a_note_of_what_is_written_down_already_is_only_forgotten() {
    let redis = RedisServer::start();
    let mut executor = Executor::new(Some(&redis));
    executor.set("HEARTBEAT_INTERVAL", "200ms").serve();
    let payload = json!({"job_id": "a", "target": "tasks.good.noop"});
    redis.push(&payload);
    executor.until("a", "COMPLETED");
    // As a crash between the commit and the forgetting leaves it.
    let receipt = executor.job("a").unwrap()["receipt"].as_str().unwrap().to_owned();
    let id = &executor.rows("SELECT value FROM meta WHERE name = 'ledger_id'")[0]["value"];
    let key = format!("executor:accepting:{}", id.as_str().unwrap());
    redis.run::<()>(&["HSET", &key, &receipt, &format!("2{payload}")]);
    eventually("the note to be forgotten", || (noted(&redis) == 0).then_some(()));
    assert_eq!(executor.rows("SELECT count(*) AS n FROM jobs")[0]["n"], 1);
    assert_eq!(executor.rows("SELECT count(*) AS n FROM attempts")[0]["n"], 1);
    assert_eq!(executor.count("job_duplicate"), 0);
}
