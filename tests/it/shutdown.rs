//! How the daemon ends: runs finish or are put back, nothing more is taken, and the service manager is told.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{BOTH, Bench, PATIENCE, descendants, eventually, has, noted, text};

/// Starts a run that ends once `release` exists, and waits until it is under way.
fn begin(bench: &Bench, id: &str, release: &std::path::Path) {
    let started = bench.path(&format!("{id}.started"));
    bench.push(
        id,
        "tasks.good:waits_for",
        json!({"path": release, "started": started}),
        json!({"timeout_seconds": 60}),
    );
    eventually(&format!("{id} to run"), || started.exists().then_some(()));
}

#[test]
fn a_short_run_finishes_and_nothing_more_is_taken() {
    for (method, signal) in [("spawn", libc::SIGTERM), ("forkserver", libc::SIGINT)] {
        let mut bench = Bench::start(method, &[("CONCURRENCY", "1"), ("SHUTDOWN_GRACE", "20s")]);
        let release = bench.path("release");
        begin(&bench, "short", &release);
        bench.push("waiting", "tasks.good:noop", json!({}), json!({}));
        bench.executor.until("waiting", "QUEUED");
        let all = descendants(bench.executor.pid());
        bench.executor.signal(signal);
        bench.executor.line("draining", |line| has(line, "event", "draining"));
        // The look at the queue that was on its way has been called back.
        eventually("nobody to wait for jobs", || {
            let clients = bench.redis.run::<String>(&["INFO", "clients"]);
            clients.contains("blocked_clients:0\r").then_some(())
        });
        bench.push("late", "tasks.good:noop", json!({}), json!({}));
        let (status, body) = bench.executor.get("/healthz");
        assert_eq!(status, 503, "{body}");
        std::fs::write(&release, "").unwrap();
        assert_eq!(bench.executor.wait().code(), Some(0));
        let row = bench.executor.job("short").unwrap();
        assert_eq!(
            (&row["status"], &row["attempts"]),
            (&json!("COMPLETED"), &json!(1)),
            "{row:#?}"
        );
        let row = bench.executor.job("waiting").unwrap();
        assert_eq!((&row["status"], &row["attempts"]), (&json!("QUEUED"), &json!(0)), "{row:#?}");
        assert_eq!(bench.executor.job("late"), None, "{method}");
        assert_eq!(bench.redis.run::<i64>(&["LLEN", "executor:jobs"]), 1);
        // Redis knows all of it, and the name is free.
        assert_eq!(
            bench.redis.run::<String>(&["HGET", "executor:job:short", "status"]),
            "COMPLETED"
        );
        let keys: Vec<String> = bench.redis.run(&["KEYS", "executor:heartbeat:*"]);
        assert_eq!(keys, Vec::<String>::new());
        assert!(all.iter().all(|pid| !crate::support::alive(*pid)), "{all:?}");
        bench.executor.serve();
        for id in ["waiting", "late"] {
            let row = bench.executor.ended(id);
            assert_eq!(
                (&row["status"], &row["attempts"]),
                (&json!("COMPLETED"), &json!(1)),
                "{row:#?}"
            );
        }
    }
}

#[test]
fn a_long_run_is_put_back_within_the_grace() {
    for method in BOTH {
        let mut bench = Bench::start(method, &[("SHUTDOWN_GRACE", "4s"), ("KILL_GRACE", "2s")]);
        let release = bench.path("release");
        begin(&bench, "long", &release);
        let stubborn = bench.path("stubborn");
        bench.push(
            "stubborn",
            "tasks.bad:ignores_sigterm",
            json!({"path": stubborn}),
            json!({"max_attempts": 3}),
        );
        eventually("the stubborn one", || (noted(&stubborn).len() == 1).then_some(()));
        let begun = Instant::now();
        assert_eq!(bench.executor.terminate(), Some(0));
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(4), "{method}: {taken:?}");
        for id in ["long", "stubborn"] {
            let row = bench.executor.job(id).unwrap();
            let counted =
                (&row["status"], &row["attempts"], &row["failures"], &row["interruptions"]);
            assert_eq!(counted, (&json!("QUEUED"), &json!(1), &json!(0), &json!(0)), "{row:#?}");
            let attempt = bench.attempt(id);
            assert_eq!(
                (&attempt["outcome"], &attempt["error_type"]),
                (&json!("interrupted"), &json!("ShutdownError"))
            );
        }
        assert!(
            text(&bench.attempt("long"), "traceback").contains("in waits_for"),
            "{:#?}",
            bench.attempt("long")
        );
        assert!(!noted(&stubborn)[0].alive());
        std::fs::write(&release, "").unwrap();
        bench.executor.serve();
        let row = bench.executor.ended("long");
        let counted = (&row["status"], &row["attempts"], &row["failures"], &row["interruptions"]);
        assert_eq!(counted, (&json!("COMPLETED"), &json!(2), &json!(0), &json!(0)), "{row:#?}");
    }
}

#[test]
fn a_long_run_fails_where_that_is_asked_for() {
    let mut bench =
        Bench::start("forkserver", &[("SHUTDOWN_GRACE", "4s"), ("ON_SHUTDOWN", "fail")]);
    let release = bench.path("release");
    begin(&bench, "long", &release);
    assert_eq!(bench.executor.terminate(), Some(0));
    let row = bench.executor.job("long").unwrap();
    assert_eq!(
        (&row["status"], &row["error_type"]),
        (&json!("FAILED"), &json!("ShutdownError")),
        "{row:#?}"
    );
    assert!(text(&row, "traceback").contains("in waits_for"), "{row:#?}");
    assert_eq!(
        bench.redis.run::<String>(&["HGET", "executor:job:long", "error_type"]),
        "ShutdownError"
    );
}

#[test]
fn a_second_signal_kills_at_once() {
    for (first, second) in [(libc::SIGTERM, libc::SIGTERM), (libc::SIGINT, libc::SIGINT)] {
        let mut bench =
            Bench::start("forkserver", &[("SHUTDOWN_GRACE", "60s"), ("KILL_GRACE", "30s")]);
        let path = bench.path("path");
        bench.push(
            "stubborn",
            "tasks.bad:ignores_sigterm",
            json!({"path": path}),
            json!({"max_attempts": 3}),
        );
        eventually("the run", || (noted(&path).len() == 1).then_some(()));
        bench.executor.signal(first);
        bench.executor.line("draining", |line| has(line, "event", "draining"));
        let begun = Instant::now();
        bench.executor.signal(second);
        assert_eq!(bench.executor.wait().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        let row = bench.executor.job("stubborn").unwrap();
        assert_eq!((&row["status"], &row["failures"]), (&json!("QUEUED"), &json!(0)), "{row:#?}");
        assert!(!noted(&path)[0].alive());
    }
}

#[test]
fn a_job_put_back_again_and_again_is_never_failed_for_it() {
    let mut bench = Bench::start("forkserver", &[("SHUTDOWN_GRACE", "60s")]);
    let release = bench.path("release");
    begin(&bench, "long", &release);
    for round in 1..=7 {
        bench.executor.signal(libc::SIGTERM);
        bench.executor.line("draining", |line| has(line, "event", "draining"));
        bench.executor.signal(libc::SIGTERM);
        assert_eq!(bench.executor.wait().code(), Some(0));
        let row = bench.executor.job("long").unwrap();
        assert_eq!(
            (&row["status"], &row["attempts"]),
            (&json!("QUEUED"), &json!(round)),
            "{row:#?}"
        );
        bench.executor.serve();
        bench.executor.until("long", "RUNNING");
        eventually("its start", || {
            let begun = std::fs::read_to_string(bench.path("long.started")).unwrap();
            (begun.lines().count() == round + 1).then_some(())
        });
    }
    std::fs::write(&release, "").unwrap();
    let row = bench.executor.ended("long");
    assert_eq!(
        (&row["status"], &row["failures"], &row["interruptions"]),
        (&json!("COMPLETED"), &json!(0), &json!(0))
    );
}

#[test]
fn a_job_under_which_the_executor_dies_five_times_is_given_up() {
    let mut bench = Bench::start("forkserver", &[]);
    let release = bench.path("release");
    begin(&bench, "poison", &release);
    for deaths in 1..=5 {
        bench.executor.kill();
        bench.executor.serve();
        if deaths < 5 {
            eventually("its next start", || {
                let begun = std::fs::read_to_string(bench.path("poison.started")).unwrap();
                (begun.lines().count() == deaths + 1).then_some(())
            });
            assert_eq!(bench.executor.job("poison").unwrap()["interruptions"], deaths);
        }
    }
    let row = bench.executor.ended("poison");
    assert_eq!(
        (&row["status"], &row["error_type"]),
        (&json!("FAILED"), &json!("ExecutorLostError")),
        "{row:#?}"
    );
    assert_eq!((&row["interruptions"], &row["failures"]), (&json!(5), &json!(0)), "{row:#?}");
    assert!(!text(&row, "traceback").is_empty(), "{row:#?}");
}

#[test]
fn the_service_manager_is_told() {
    let mut bench =
        Bench::new("forkserver", &[("SHUTDOWN_GRACE", "10s"), ("WATCHDOG_USEC", "200000")]);
    let path = bench.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    bench.executor.set("NOTIFY_SOCKET", path.to_str().unwrap());
    bench.executor.serve_unready();
    let next = || {
        let mut message = [0; 1000];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let until = |wanted: &str| loop {
        let message = next();
        if message.lines().any(|line| line == wanted) {
            return message;
        }
    };
    assert_eq!(
        next(),
        "READY=1\nSTATUS=0 of 2 slots running",
        "before readiness there is nothing to tell"
    );
    let begun = Instant::now();
    for _ in 0..5 {
        until("WATCHDOG=1");
    }
    assert!(begun.elapsed() < Duration::from_millis(200) * 5, "{:?}", begun.elapsed());
    let release = bench.path("release");
    begin(&bench, "one", &release);
    until("STATUS=1 of 2 slots running");
    bench.executor.signal(libc::SIGTERM);
    until("STOPPING=1");
    // Draining is not hanging: the watchdog is told until the end.
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    std::fs::write(&release, "").unwrap();
    assert_eq!(bench.executor.wait().code(), Some(0));
}
