//! Health over real HTTP.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::support::{Executor, RedisServer};

#[test]
fn pages_answer_what_they_should() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let (status, body) = executor.healthz();
    assert_eq!(status, 200);
    assert_eq!(body["status"], "ok");
    assert_eq!(body["checks"], json!({"redis": "ok", "ledger": "ok"}));
    assert_eq!(executor.get("/livez").0, 200);
    let (status, text) = executor.get("/metrics");
    assert_eq!(status, 200);
    for line in ["executor_slots 2\n", "executor_running 0\n", "executor_redis_up 1\n", "# EOF\n"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert_eq!(executor.get("/healthz?verbose=1").0, 200);
    assert_eq!(executor.get("/elsewhere").0, 404);
    assert_eq!(executor.ask("POST", "/healthz").0, 405);
    assert_eq!(executor.ask("HEAD", "/healthz"), (200, String::new()));
    assert_eq!(executor.get(&format!("/{}", "x".repeat(20_000))).0, 431);
}

#[test]
fn a_drain_is_unavailable_but_alive() {
    let redis = RedisServer::start();
    let mut executor = Executor::start(&redis);
    let go = executor.dir.path().join("go");
    redis.push(&json!({"job_id": "a", "target": "tasks.good.waits_for", "params": {"path": go}}));
    executor.until("a", "RUNNING");
    executor.signal(libc::SIGTERM);
    executor.line("draining", |line| line["event"] == "draining");
    let (status, body) = executor.healthz();
    assert_eq!((status, &body["status"]), (503, &json!("draining")));
    assert_eq!(executor.get("/livez").0, 200);
    redis.push(&json!({"job_id": "b", "target": "tasks.good.noop"}));
    std::fs::write(go, "").unwrap();
    assert_eq!(executor.wait().code(), Some(0));
    assert_eq!(executor.job("a").unwrap()["status"], "COMPLETED");
    assert_eq!(redis.hash("executor:job:a")["status"], "COMPLETED");
    assert!(executor.job("b").is_none(), "nothing is taken while draining");
    assert_eq!(redis.run::<i64>(&["LLEN", "executor:jobs"]), 1);
}

#[test]
fn a_port_in_use_is_said_at_the_start() {
    let one = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = one.local_addr().unwrap().to_string();
    let mut executor = Executor::new(None);
    executor.set("HTTP_ADDR", &address).serve_unready();
    assert_eq!(executor.wait().code(), Some(2));
    let line = executor.line("start_failed", |line| line["event"] == "start_failed");
    let text = line["error"].as_str().unwrap();
    assert!(text.contains(&format!("cannot listen on {address} (HTTP_ADDR)")), "{text}");
}

#[test]
fn a_thousand_half_open_connections_do_not_matter() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(4096.min(hard)), hard).unwrap();
    let mut executor = Executor::new(None);
    executor.serve();
    let address = executor.http();
    let half: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            // The oldest are cut off while this goes on.
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ");
            stream
        })
        .collect();
    for _ in 0..5 {
        let asked = Instant::now();
        assert_eq!(executor.get("/healthz").0, 200);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    drop(half);
    assert_eq!(executor.get("/healthz").0, 200);
}
