//! What a Redis can do beside going away: lose what it had, kick clients out, load, refuse to write,
//! forget scripts, forbid, stand still, leave connections half open.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Executor, Proxy, RedisServer, eventually, within};

/// How long after its return Redis is consumed again (SPEC 9).
const BACK: Duration = Duration::from_secs(5);

fn start(redis: &RedisServer) -> Executor {
    let mut executor = Executor::new(Some(redis));
    executor.set("HEARTBEAT_INTERVAL", "500ms").set("CONCURRENCY", "4").serve();
    executor
}

fn told(redis: &RedisServer, id: &str) {
    eventually(&format!("the hash of {id} to tell of the end"), || {
        (redis.hash(&format!("executor:job:{id}")).get("status")? == "COMPLETED").then_some(())
    });
}

fn push(redis: &RedisServer, id: &str) {
    redis.push(&json!({"job_id": id, "target": "tasks.good.noop"}));
}

/// Pushes a job and waits for it to be taken, at most so long as Redis may take to be used again.
fn is_back(redis: &RedisServer, executor: &Executor, id: &str) {
    push(redis, id);
    within(BACK, "the job to be taken", || executor.job(id));
    told(redis, id);
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
    executor.line("redis_back", |line| line["event"] == "redis_back");
}

/// A trigger is heard: its row is there (of an experiment that is not).
fn is_heard(redis: &RedisServer, executor: &Executor, experiment: &str, patience: Duration) {
    let message = json!({"experiment_id": experiment}).to_string();
    within(patience, "a trigger to be heard", || {
        let heard: i64 = redis.run(&["PUBLISH", "fullsend:execute_now", &message]);
        let sql = format!("SELECT 1 FROM jobs WHERE experiment_id = '{experiment}'");
        (heard > 0 && !executor.rows(&sql).is_empty()).then_some(())
    });
}

/// All jobs are rows that were run once.
fn ran_once(executor: &Executor, jobs: usize) {
    let rows = executor.rows("SELECT * FROM jobs WHERE status = 'COMPLETED' AND attempts = 1");
    assert_eq!(rows.len(), jobs);
    assert_eq!(executor.rows("SELECT 1 FROM jobs WHERE task_type IS NOT NULL").len(), jobs);
}

#[test]
fn a_redis_that_comes_back_empty_is_used_again_and_told_the_rest() {
    let mut redis = RedisServer::start();
    let executor = start(&redis);
    let go = executor.dir.path().join("go");
    for id in ["a", "b", "c", "d", "e"] {
        redis
            .push(&json!({"job_id": id, "target": "tasks.good.waits_for", "params": {"path": go}}));
    }
    executor.until("e", "QUEUED");
    redis.pause();
    executor.line("redis_lost", |line| line["event"] == "redis_lost");
    redis.resume_empty();
    push(&redis, "later");
    within(BACK, "the job to be taken", || executor.job("later"));
    std::fs::write(&go, "").unwrap();
    for id in ["a", "b", "c", "d", "e", "later"] {
        told(&redis, id);
    }
    ran_once(&executor, 6);
    is_heard(&redis, &executor, "unknown", BACK);
    eventually("the heartbeat to stand again", || {
        let keys: Vec<String> = redis.run(&["KEYS", "executor:heartbeat:*"]);
        (keys.len() == 1).then_some(())
    });
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 1));
}

#[test]
fn clients_that_are_kicked_out_come_back_and_lose_nothing() {
    let redis = RedisServer::start();
    let executor = start(&redis);
    let mut jobs = 0;
    for _ in 0..15 {
        for _ in 0..4 {
            push(&redis, &format!("{jobs}"));
            jobs += 1;
        }
        for kind in ["normal", "pubsub"] {
            redis.run::<i64>(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
    }
    for n in 0..jobs {
        told(&redis, &format!("{n}"));
    }
    ran_once(&executor, jobs);
    is_heard(&redis, &executor, "unknown", BACK);
    assert_eq!((executor.count("redis_lost"), executor.count("message_refused")), (0, 0));
    let keys: Vec<String> = redis.run(&["KEYS", "executor:accepting:*"]);
    eventually("the notes to be forgotten", || {
        keys.iter().all(|key| redis.run::<i64>(&["HLEN", key]) == 0).then_some(())
    });
}

#[test]
fn a_redis_that_loads_is_one_outage() {
    let mut redis = RedisServer::start();
    let executor = start(&redis);
    push(&redis, "before");
    told(&redis, "before");
    redis.run::<()>(&["CONFIG", "SET", "appendonly", "no"]);
    redis.run::<()>(&["EVAL", "for i = 1, 1000 do redis.call('SET', 'filler:' .. i, i) end", "0"]);
    push(&redis, "waiting");
    executor.until("waiting", "COMPLETED");
    redis.run::<()>(&["SAVE"]);
    redis.pause();
    executor.line("redis_lost", |line| line["event"] == "redis_lost");
    // Three milliseconds for each key, and an ear for clients between them.
    redis.resume_slowly(&[
        "--appendonly",
        "no",
        "--key-load-delay",
        "3000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let mut loading = false;
    eventually("redis to have loaded", || {
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_connection().ok()?;
        match redis::cmd("GET").arg("filler:1").query::<String>(&mut connection) {
            Err(error) => {
                loading |= error.code() == Some("LOADING");
                None
            }
            Ok(_) => Some(()),
        }
    });
    assert!(loading, "it never said LOADING");
    is_back(&redis, &executor, "after");
    ran_once(&executor, 3);
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 1));
}

/// Redis refuses writes after `begin`, and takes them again after `end`: one outage, nothing lost.
fn refuses_writes(begin: &[&[&str]], end: &[&[&str]]) {
    let redis = RedisServer::start();
    let executor = start(&redis);
    push(&redis, "before");
    told(&redis, "before");
    let go = executor.dir.path().join("go");
    redis.push(&json!({"job_id": "a", "target": "tasks.good.waits_for", "params": {"path": go}}));
    executor.until("a", "RUNNING");
    for words in begin {
        redis.run::<()>(words);
    }
    std::fs::write(&go, "").unwrap();
    executor.until("a", "COMPLETED");
    executor.line("redis_lost", |line| line["event"] == "redis_lost");
    let before = executor.count("heartbeat");
    eventually("two heartbeats", || (executor.count("heartbeat") > before + 6).then_some(()));
    let (status, body) = executor.healthz();
    assert_eq!(status, 503, "{body}");
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 0));
    for words in end {
        redis.run::<()>(words);
    }
    is_back(&redis, &executor, "after");
    told(&redis, "a");
    ran_once(&executor, 3);
    assert_eq!((executor.count("redis_lost"), executor.count("redis_back")), (1, 1));
    assert_eq!((executor.count("message_refused"), executor.count("queue_unreadable")), (0, 0));
}

#[test]
fn a_demoted_redis_is_one_outage() {
    refuses_writes(&[&["REPLICAOF", "127.0.0.1", "1"]], &[&["REPLICAOF", "NO", "ONE"]]);
}

#[test]
fn a_replica_without_its_master_is_one_outage() {
    refuses_writes(
        &[&["CONFIG", "SET", "replica-serve-stale-data", "no"], &["REPLICAOF", "127.0.0.1", "1"]],
        &[&["REPLICAOF", "NO", "ONE"]],
    );
}

#[test]
fn a_redis_without_enough_replicas_is_one_outage() {
    refuses_writes(
        &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
    );
}

#[test]
fn scripts_that_are_forgotten_are_loaded_again() {
    let redis = RedisServer::start();
    let executor = start(&redis);
    for n in 0..60 {
        push(&redis, &format!("{n}"));
        redis.run::<()>(&["SCRIPT", "FLUSH"]);
    }
    for n in 0..60 {
        told(&redis, &format!("{n}"));
    }
    ran_once(&executor, 60);
    is_heard(&redis, &executor, "unknown", BACK);
    for event in ["redis_lost", "message_refused", "queue_unreadable", "heartbeat_refused"] {
        assert_eq!(executor.count(event), 0, "{event}");
    }
}

#[test]
fn half_open_connections_are_given_up_and_made_anew() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis);
    let mut executor = Executor::new(Some(&redis));
    executor.set("REDIS_URL", &proxy.url()).serve();
    push(&redis, "before");
    told(&redis, "before");
    for round in 0..2 {
        proxy.half_open();
        let begun = Instant::now();
        let id = format!("{round}");
        push(&redis, &id);
        // Redis is there all the time; that nothing comes must be noticed first.
        within(2 * BACK, "the job to be taken", || executor.job(&id));
        told(&redis, &id);
        is_heard(&redis, &executor, &format!("unknown{round}"), 2 * BACK);
        eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
        assert!(begun.elapsed() < 2 * BACK, "{:?}", begun.elapsed());
    }
    ran_once(&executor, 3);
}

#[test]
fn messages_that_are_forbidden_are_kept_and_hold_up_no_others() {
    let redis = RedisServer::start();
    let mut executor = start(&redis);
    push(&redis, "before");
    told(&redis, "before");
    let (events, results) =
        (redis.subscribe("executor:job_events"), redis.subscribe("fullsend:experiment_results"));
    redis.run::<()>(&[
        "ACL",
        "SETUSER",
        "default",
        "resetchannels",
        "&fullsend:*",
        "&executor:leader*",
    ]);
    // Whoever was subscribed to what is forbidden now has been put out.
    drop(events);
    for id in ["a", "b", "c"] {
        push(&redis, id);
        executor.until(id, "COMPLETED");
    }
    let line = executor.line("messages_held", |line| line["event"] == "messages_held");
    assert!(line["error"].as_str().unwrap().contains("channels"), "{line:?}");
    let body = eventually("/healthz to tell of it", || {
        let (status, body) = executor.healthz();
        (status == 503).then_some(body)
    });
    assert!(body["checks"]["redis"].as_str().unwrap().contains("forbids"), "{body}");
    // What is not forbidden goes on.
    is_heard(&redis, &executor, "unknown", BACK);
    let result = results.recv_timeout(BACK).unwrap();
    assert_eq!(result["experiment_id"], "unknown");
    assert_eq!(executor.count("messages_held"), 1);
    // They are on disk.
    executor.kill();
    executor.serve();
    executor.line("messages_held", |line| line["event"] == "messages_held");
    redis.run::<()>(&["ACL", "SETUSER", "default", "allchannels"]);
    let events = redis.subscribe("executor:job_events");
    let mut heard: Vec<(String, String)> = Vec::new();
    while heard.iter().filter(|(_, status)| status == "COMPLETED").count() < 3 {
        let event = events.recv_timeout(2 * BACK).unwrap();
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        if text("job_id") != "before" && text("job_id").len() == 1 {
            heard.push((text("job_id"), text("status")));
        }
    }
    for id in ["a", "b", "c"] {
        let of_one = heard.iter().filter(|(job, _)| job == id).map(|(_, status)| status.as_str());
        let order: Vec<&str> = of_one.collect();
        assert_eq!(order.last(), Some(&"COMPLETED"), "{heard:?}");
        assert!(order.windows(2).all(|pair| pair != ["COMPLETED", "RUNNING"]), "{heard:?}");
    }
    executor.line("messages_released", |line| line["event"] == "messages_released");
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
    eventually("the outbox to be empty", || {
        executor.rows("SELECT 1 FROM outbox").is_empty().then_some(())
    });
    assert_eq!((executor.count("message_refused"), executor.count("redis_lost")), (0, 0));
}

#[test]
fn a_queue_that_may_not_be_read_is_said_and_read_once_it_may() {
    let redis = RedisServer::start();
    let executor = start(&redis);
    push(&redis, "before");
    told(&redis, "before");
    redis.run::<()>(&["ACL", "SETUSER", "default", "-rpop"]);
    push(&redis, "a");
    let line = executor.line("queue_unreadable", |line| line["event"] == "queue_unreadable");
    assert!(line["error"].as_str().unwrap().contains("can't run"), "{line:?}");
    eventually("/healthz to tell of it", || (executor.healthz().0 == 503).then_some(()));
    let before = executor.count("heartbeat");
    eventually("heartbeats", || (executor.count("heartbeat") > before + 4).then_some(()));
    assert_eq!(executor.job("a"), None);
    assert_eq!(executor.count("queue_unreadable"), 1);
    redis.run::<()>(&["ACL", "SETUSER", "default", "+rpop"]);
    within(BACK, "the job to be taken", || executor.job("a"));
    told(&redis, "a");
    executor.line("queue_readable", |line| line["event"] == "queue_readable");
    eventually("/healthz to be well", || (executor.healthz().0 == 200).then_some(()));
    ran_once(&executor, 2);
}
