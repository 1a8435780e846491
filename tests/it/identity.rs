//! Several executors on one Redis: whose name it is, and who gets which job.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Executor, RedisServer, eventually};

const KEY: &str = "executor:heartbeat:same";

fn named(redis: &RedisServer, name: &str, interval: &str) -> Executor {
    let mut executor = Executor::new(Some(redis));
    executor.set("EXECUTOR_ID", name).set("HEARTBEAT_INTERVAL", interval);
    executor
}

fn is_refused(executor: &mut Executor) {
    executor.serve_unready();
    assert_eq!(executor.wait().code(), Some(4));
    let line = executor.line("start_failed", |line| line["event"] == "start_failed");
    let text = line["error"].as_str().unwrap();
    assert!(text.contains("another living executor is called same"), "{text}");
}

#[test]
fn a_heartbeat_tells_and_goes_with_a_clean_stop() {
    let redis = RedisServer::start();
    let mut executor = named(&redis, "same", "2s");
    executor.serve();
    let hash = redis.hash(KEY);
    assert_eq!((hash["running"].as_str(), hash["slots"].as_str()), ("0", "2"));
    assert!(hash["timestamp"].parse::<jiff::Timestamp>().is_ok(), "{hash:?}");
    let left: i64 = redis.run(&["PTTL", KEY]);
    assert!((1..=6000).contains(&left), "{left}");
    redis.push(&json!({"job_id": "a", "target": "tasks.good.waits_for",
        "params": {"path": executor.dir.path().join("go")}}));
    eventually("the heartbeat to tell of the run", || {
        (redis.hash(KEY).get("running")? == "1").then_some(())
    });
    std::fs::write(executor.dir.path().join("go"), "").unwrap();
    executor.until("a", "COMPLETED");
    assert_eq!(executor.terminate(), Some(0));
    assert_eq!(redis.run::<i64>(&["EXISTS", KEY]), 0);
    assert_eq!(redis.run::<i64>(&["ZCARD", "executor:queue_members:executor:jobs"]), 0);
}

#[test]
fn a_name_belongs_to_one_living_executor() {
    let redis = RedisServer::start();
    let (mut one, mut other) = (named(&redis, "same", "1s"), named(&redis, "same", "1s"));
    one.serve();
    is_refused(&mut other);
    one.kill();
    // Its own ledger: at once, though the key still stands.
    assert_eq!(redis.run::<i64>(&["EXISTS", KEY]), 1);
    one.serve();
    one.kill();
    redis.run::<()>(&["PEXPIRE", KEY, "20000"]);
    is_refused(&mut other);
    redis.run::<()>(&["PEXPIRE", KEY, "1"]);
    eventually("the key to expire", || (redis.run::<i64>(&["EXISTS", KEY]) == 0).then_some(()));
    other.serve();
    is_refused(&mut one);
}

#[test]
fn of_two_that_start_at_once_one_gets_the_name() {
    let redis = RedisServer::start();
    let mut both = [named(&redis, "same", "1s"), named(&redis, "same", "1s")];
    for executor in &mut both {
        executor.serve_unready();
    }
    for executor in &both {
        executor
            .line("ready or refused", |l| l["event"] == "ready" || l["event"] == "start_failed");
    }
    let ready: usize = both.iter().map(|executor| executor.count("ready")).sum();
    assert_eq!(ready, 1);
}

#[test]
fn two_executors_share_a_queue() {
    const JOBS: usize = 60;
    let redis = RedisServer::start();
    let mut both = [named(&redis, "one", "200ms"), named(&redis, "two", "200ms")];
    for executor in &mut both {
        executor.serve();
    }
    // A heartbeat after both are there tells each of the other.
    for executor in &both {
        let before = executor.count("heartbeat");
        eventually("two heartbeats", || (executor.count("heartbeat") > before + 1).then_some(()));
    }
    let jobs: Vec<String> = (0..JOBS)
        .map(|n| {
            json!({"job_id": format!("{n}"), "target": "tasks.good.sleeps",
                "params": {"seconds": 0.05}})
            .to_string()
        })
        .collect();
    redis.push_all(jobs.iter().map(String::as_bytes));
    let count = |executor: &Executor, what: &str| {
        let sql = format!("SELECT count(*) AS n FROM jobs WHERE status = '{what}'");
        executor.rows(&sql)[0]["n"].as_u64().unwrap()
    };
    eventually("all jobs to end", || {
        for executor in &both {
            let waiting = count(executor, "QUEUED");
            assert!(waiting <= 4, "{waiting} are hoarded by an executor of two slots");
        }
        let done: u64 = both.iter().map(|executor| count(executor, "COMPLETED")).sum();
        (done == JOBS as u64).then_some(())
    });
    let ids: Vec<BTreeSet<String>> = both
        .iter()
        .map(|executor| executor.rows("SELECT id FROM jobs"))
        .map(|rows| rows.iter().map(|row| row["id"].to_string()).collect())
        .collect();
    assert!(ids[0].is_disjoint(&ids[1]));
    assert_eq!(ids[0].len() + ids[1].len(), JOBS);
    assert!(ids.iter().all(|ids| ids.len() >= JOBS / 6), "{} {}", ids[0].len(), ids[1].len());
}

#[test]
fn jobs_for_later_do_not_keep_the_door_shut() {
    let redis = RedisServer::start();
    let mut both = [named(&redis, "one", "200ms"), named(&redis, "two", "200ms")];
    for executor in &mut both {
        executor.serve();
    }
    for executor in &both {
        let before = executor.count("heartbeat");
        eventually("two heartbeats", || (executor.count("heartbeat") > before + 1).then_some(()));
    }
    let later = json!({"target": "tasks.good.noop", "run_at": "2999-01-01T00:00:00Z"}).to_string();
    redis.push_all((0..40).map(|_| later.as_bytes()));
    redis.push(&json!({"job_id": "now", "target": "tasks.good.noop"}));
    eventually("the job behind them to run", || {
        both.iter().find_map(|e| e.job("now")).filter(|row| row["status"] == "COMPLETED")
    });
}

#[test]
fn of_two_that_began_while_redis_was_away_one_ends() {
    let mut redis = RedisServer::start();
    redis.pause();
    let mut both = [named(&redis, "same", "500ms"), named(&redis, "same", "500ms")];
    for executor in &mut both {
        executor.serve();
    }
    redis.resume();
    let loser = eventually("one to find its name taken", || {
        both.iter().position(|executor| executor.count("identity_taken") > 0)
    });
    assert_eq!(both[loser].wait().code(), Some(4));
    assert_eq!(both[loser].count("draining"), 1);
    let other = &both[1 - loser];
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    other.until("a", "COMPLETED");
    assert_eq!(other.count("identity_taken"), 0);
    assert_eq!(redis.run::<i64>(&["EXISTS", KEY]), 1);
}

#[test]
fn executors_share_a_backlog_from_the_first_moment_on() {
    let redis = RedisServer::start();
    // Long between two heartbeats: the first to come has not heard of the second by itself.
    let executors: Vec<Executor> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let mut executor = Executor::new(Some(&redis));
            executor.set("EXECUTOR_ID", name).set("CONCURRENCY", "1");
            executor.set("HEARTBEAT_INTERVAL", "1h").serve();
            executor
        })
        .collect();
    let payload = json!({"target": "tasks.good.sleeps", "params": {"seconds": 0.02}}).to_string();
    redis.push_all(std::iter::repeat_n(payload.as_bytes(), 100));
    let ended = "SELECT id FROM jobs WHERE status = 'COMPLETED'";
    let done = || -> Vec<usize> { executors.iter().map(|e| e.rows(ended).len()).collect() };
    eventually("all jobs to be done", || (done().iter().sum::<usize>() == 100).then_some(()));
    assert!(done().iter().all(|done| *done >= 25), "{:?}", done());
}
