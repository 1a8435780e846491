//! Retries and results: what a row shows while a job waits, after a crash of the executor, and of what was
//! returned.

use std::time::Duration;

use executor::clock::Timestamp;
use serde_json::{Value, json};

use crate::support::{BOTH, Bench, Row, eventually, noted, text, value_of};

fn time(row: &Row, column: &str) -> Timestamp {
    text(row, column).parse().unwrap()
}

fn until_waiting(bench: &Bench, id: &str, failures: i64) -> Row {
    eventually(&format!("{id} to wait after failure {failures}"), || {
        bench
            .executor
            .job(id)
            .filter(|row| row["status"] == "QUEUED" && row["failures"] == failures)
    })
}

#[test]
fn a_job_is_tried_again_after_growing_delays() {
    let bench = Bench::start(
        "forkserver",
        &[("RETRY_BACKOFF_MIN", "200ms"), ("RETRY_BACKOFF_MAX", "500ms")],
    );
    let path = bench.path("tries");
    bench.push(
        "again",
        "tasks.bad:fails_until",
        json!({"path": path, "n": 3}),
        json!({"max_attempts": 4}),
    );
    let waiting = until_waiting(&bench, "again", 1);
    assert_eq!((&waiting["attempts"], &waiting["finished_at"]), (&json!(1), &json!(null)));
    assert_eq!(waiting["error"], "attempt 1 of 3 that fail");
    let row = bench.executor.ended("again");
    assert_eq!(row["status"], "COMPLETED", "{row:#?}");
    assert_eq!(
        (&row["attempts"], &row["failures"], &row["result"]),
        (&json!(4), &json!(3), &json!("4"))
    );
    assert_eq!(row["error_type"], json!(null), "a job that succeeded has no error");
    let attempts = bench.executor.attempts("again");
    assert_eq!(attempts.len(), 4);
    for (n, (least, most)) in [(200, 220), (400, 440), (500, 550)].into_iter().enumerate() {
        assert_eq!(
            (&attempts[n]["outcome"], &attempts[n]["error_type"]),
            (&json!("failed"), &json!("RuntimeError"))
        );
        let pause =
            time(&attempts[n + 1], "started_at").duration_since(time(&attempts[n], "finished_at"));
        let millis = i64::try_from(pause.as_millis()).unwrap();
        assert!(millis >= least, "{n}: {millis} ms");
        // What the machine adds is not ours; the planned time is, and is looked at below.
        assert!(millis < most + 2000, "{n}: {millis} ms");
    }
    let planned = time(&waiting, "run_at").duration_since(time(&attempts[0], "finished_at"));
    assert!((200..=240).contains(&planned.as_millis()), "{planned:?}");
    assert_eq!(attempts[3]["outcome"], "succeeded");
}

#[test]
fn a_job_that_never_succeeds_ends_after_its_attempts() {
    let bench = Bench::start("forkserver", &[]);
    let path = bench.path("tries");
    let row = bench.run(
        "never",
        "tasks.bad:fails_until",
        json!({"path": path, "n": 99}),
        json!({"max_attempts": 3}),
    );
    assert_eq!(
        (&row["status"], &row["attempts"], &row["failures"]),
        (&json!("FAILED"), &json!(3), &json!(3))
    );
    assert_eq!(row["error"], "attempt 3 of 99 that fail");
    assert_eq!(noted(&path).len(), 3);
    // Without a number of its own: three, whatever kind of failure it is.
    for (id, target) in [("crash", "tasks.bad:segfaults"), ("late", "tasks.bad:hangs")] {
        let row =
            bench.run(id, target, json!({}), json!({"max_attempts": null, "timeout_seconds": 0.3}));
        assert_eq!((&row["status"], &row["attempts"]), (&json!("FAILED"), &json!(3)), "{row:#?}");
    }
    // What another try cannot help is not tried again.
    for (id, target, error_type) in [
        ("absent", "tasks.absent:run", "ToolNotFoundError"),
        ("none", "tasks.good:absent", "ToolError"),
        ("unfit", "tasks.good:add", "InvalidParametersError"),
        ("other", "tasks.reexports:system", "ModuleNotAllowedError"),
        ("opaque", "tasks.bad:returns_unserialisable", "ResultNotSerializableError"),
    ] {
        let row = bench.run(id, target, json!({}), json!({"max_attempts": 5}));
        assert_eq!(
            (&row["error_type"], &row["attempts"]),
            (&json!(error_type), &json!(1)),
            "{row:#?}"
        );
    }
}

#[test]
fn transient_failures_alone_are_retried_where_asked() {
    let bench = Bench::start("forkserver", &[("CONCURRENCY", "4")]);
    let cases = [
        ("raises_transient", 2),
        ("raises_transient_cause", 2),
        ("raises_transient_reason", 2),
        ("raises", 1),
        ("segfaults", 1),
        ("hangs", 1),
    ];
    let more = json!({"max_attempts": 2, "retry_on": "transient", "timeout_seconds": 0.5});
    for (name, _) in cases {
        bench.push(name, &format!("tasks.bad:{name}"), json!({}), more.clone());
    }
    for (name, attempts) in cases {
        let row = bench.executor.ended(name);
        assert_eq!(
            (&row["status"], &row["attempts"]),
            (&json!("FAILED"), &json!(attempts)),
            "{row:#?}"
        );
    }
}

#[test]
fn a_waiting_retry_survives_the_death_of_the_executor() {
    for method in BOTH {
        let mut bench =
            Bench::start(method, &[("RETRY_BACKOFF_MIN", "1s"), ("RETRY_BACKOFF_MAX", "1s")]);
        let path = bench.path("tries");
        bench.push(
            "again",
            "tasks.bad:fails_until",
            json!({"path": path, "n": 1}),
            json!({"max_attempts": 3}),
        );
        let before = until_waiting(&bench, "again", 1);
        bench.executor.kill();
        let dead = bench.executor.job("again").unwrap();
        assert_eq!((&dead["status"], &dead["run_at"]), (&json!("QUEUED"), &before["run_at"]));
        bench.executor.serve();
        let row = bench.executor.ended("again");
        assert_eq!(row["status"], "COMPLETED");
        assert_eq!(
            (&row["attempts"], &row["failures"], &row["interruptions"]),
            (&json!(2), &json!(1), &json!(0))
        );
        let second = &bench.executor.attempts("again")[1];
        assert!(time(second, "started_at") >= time(&before, "run_at"));
    }
}

#[test]
fn a_large_result_is_summarised() {
    for method in BOTH {
        let bench = Bench::start(method, &[("RESULT_MAX_BYTES", "2000")]);
        let row = bench.run("big", "tasks.bad:returns_big", json!({"size": 100_000}), json!({}));
        assert_eq!((&row["status"], &row["result_truncated"]), (&json!("COMPLETED"), &json!(1)));
        assert!(row["result_bytes"].as_i64().unwrap() > 100_000, "{row:#?}");
        assert!(text(&row, "result").len() <= 2000);
        let summary = value_of(&row);
        assert_eq!((&summary["count"], &summary["list"]), (&json!(100_000), &json!(100)));
        assert!(summary["text"].as_str().unwrap().starts_with("ttt"));
        let row = bench.run("small", "tasks.bad:returns_big", json!({"size": 100}), json!({}));
        assert_eq!(row["result_truncated"], 0);
        assert_eq!(row["result_bytes"], text(&row, "result").len());
        assert_eq!(value_of(&row)["list"].as_array().unwrap().len(), 100);
        // A gigantic one neither.
        let row =
            bench.run("giant", "tasks.bad:returns_big", json!({"size": 50_000_000}), json!({}));
        assert_eq!((&row["status"], &row["result_truncated"]), (&json!("COMPLETED"), &json!(1)));
        assert!(row["result_bytes"].as_i64().unwrap() > 50_000_000);
    }
}

#[test]
fn values_have_their_documented_form() {
    for method in BOTH {
        let bench = Bench::start(method, &[]);
        assert_eq!(bench.value("nan", "tasks.bad:returns_nan", json!({})), Value::Null);
        let forms = bench.value("forms", "tasks.good:forms", json!({}));
        assert_eq!(
            forms,
            json!({
                "datetime": "2026-02-03T04:05:06+00:00", "date": "2026-02-03", "decimal": "1.50",
                "uuid": "00000000-0000-0000-0000-000000000007", "path": "/a/b", "set": [1, 2, 3], "tuple": [1, "b"],
                "bytes": "/wA=", "dataclass": {"x": 1, "y": [2]}, "infinity": null, "text": "gr\u{fc}n \u{1f600}",
                "number": 12345678901234567890123_i128.to_string().parse::<serde_json::Number>().unwrap(),
            })
        );
        let echo = json!({"a": [1, {"b": null}], "\u{fc}": "\u{0}\n", "c": 1e300, "d": -0.5});
        assert_eq!(bench.value("echo", "tasks.good:echo", echo.clone()), echo);
        let slow =
            bench.value("slow", "tasks.good:generates", json!({"count": 5, "delay_seconds": 0.01}));
        assert_eq!(slow, json!([0, 1, 2, 3, 4]));
    }
}

#[test]
fn a_job_waits_for_its_time() {
    let bench = Bench::start("forkserver", &[]);
    let due = executor::clock::now() + Duration::from_millis(700);
    bench.push(
        "later",
        "tasks.good:noop",
        json!({}),
        json!({"run_at": executor::clock::text(due)}),
    );
    let row = bench.executor.until("later", "QUEUED");
    assert_eq!((&row["attempts"], text(&row, "run_at")), (&json!(0), &*executor::clock::text(due)));
    let row = bench.executor.ended("later");
    let late = time(&row, "started_at").duration_since(due).as_millis();
    assert!((-1..1000).contains(&late), "{late} ms");
}

#[test]
fn progress_is_seen_while_a_job_runs() {
    for method in BOTH {
        let bench = Bench::start(method, &[]);
        let release = bench.path("release");
        bench.push(
            "slow",
            "tasks.good:reports_once",
            json!({"done": 3, "total": 10, "path": release}),
            json!({}),
        );
        let progress = |id: &str| {
            bench.redis.run::<Option<String>>(&["HGET", &format!("executor:job:{id}"), "progress"])
        };
        let told = eventually("the progress", || progress("slow"));
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!((told["done"].as_f64(), told["total"].as_f64()), (Some(3.0), Some(10.0)));
        std::fs::write(&release, "").unwrap();
        assert_eq!(bench.executor.ended("slow")["status"], "COMPLETED");
    }
}

#[test]
fn half_a_surrogate_pair_in_parameters_reaches_the_callable_and_disturbs_nobody() {
    let bench = Bench::start("forkserver", &[]);
    let payload = r#"{"job_id": "half", "task_type": "event", "target": "tasks.good:echo", "parameters": {"value": "a\ud800b"}}"#;
    bench.redis.push_all([payload.as_bytes()]);
    let row = bench.executor.ended("half");
    assert_eq!(row["status"], "COMPLETED", "{row:#?}");
    let shown = bench.executor.json(&["job", "show", "half", "--json"]);
    assert_eq!(shown["id"], "half");
    assert_eq!(bench.executor.json(&["job", "list", "--json"])[0]["id"], "half");
}
