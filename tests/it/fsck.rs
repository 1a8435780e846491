//! `executor fsck` says what is wrong, and only that.

use serde_json::{Value, json};

use crate::support::{Bench, Executor};

fn findings(executor: &Executor, code: i32) -> Vec<Value> {
    let output = executor.output(&["fsck", "--json"]);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_ledger_at_work_and_one_at_rest_are_clean() {
    let mut bench = Bench::start("forkserver", &[("HEARTBEAT_INTERVAL", "1s")]);
    let go = bench.path("go");
    bench.run("done", "tasks.good.noop", json!({}), json!({}));
    bench.push("runs", "tasks.good.waits_for", json!({"path": go}), json!({}));
    bench.executor.until("runs", "RUNNING");
    assert_eq!(findings(&bench.executor, 0), [json!(null); 0]);
    bench.executor.kill();
    assert_eq!(findings(&bench.executor, 0), [json!(null); 0]);
    let said = bench.executor.output(&["fsck"]);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(text.contains("2 jobs, 2 attempts") && text.contains("all is well"), "{text}");
    bench.executor.serve();
    std::fs::write(&go, "").unwrap();
    bench.executor.until("runs", "COMPLETED");
    assert_eq!(findings(&bench.executor, 0), [json!(null); 0]);
    assert_eq!(bench.executor.terminate(), Some(0));
    assert_eq!(findings(&bench.executor, 0), [json!(null); 0]);
}

#[test]
fn each_kind_of_fault_is_told_with_what_to_do() {
    let mut bench = Bench::start("forkserver", &[]);
    bench.run("a", "tasks.good.noop", json!({}), json!({}));
    assert_eq!(bench.executor.terminate(), Some(0));
    let db = rusqlite::Connection::open(bench.executor.ledger_path()).unwrap();
    db.execute("UPDATE jobs SET attempts = 2", []).unwrap();
    bench.redis.run::<()>(&["HSET", "executor:job:a", "status", "RUNNING"]);
    let tmp = bench.path("ledger.db.run/tmp/1");
    let mut left =
        std::process::Command::new("sleep").arg("60").env("TMPDIR", tmp).spawn().unwrap();
    let found = findings(&bench.executor, 1);
    let said = bench.executor.output(&["fsck"]);
    left.kill().unwrap();
    left.wait().unwrap();
    let checks: Vec<_> = found.iter().map(|found| found["check"].as_str().unwrap()).collect();
    assert_eq!(checks, ["state", "attempts", "process", "redis"], "{found:#?}");
    for finding in &found {
        assert!(finding["advice"].as_str().is_some_and(|advice| advice.len() > 10), "{finding}");
    }
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!((said.status.code(), text.lines().count()), (Some(1), 4), "{text}");
}

#[test]
fn a_note_that_nobody_writes_down_is_told_while_an_executor_serves() {
    let bench = Bench::start("forkserver", &[("HEARTBEAT_INTERVAL", "1s")]);
    bench.run("a", "tasks.good.noop", json!({}), json!({}));
    let db = rusqlite::Connection::open(bench.executor.ledger_path()).unwrap();
    let id: String = db
        .query_row("SELECT value FROM meta WHERE name = 'ledger_id'", [], |row| row.get(0))
        .unwrap();
    let key = format!("executor:accepting:{id}");
    // One that is read at the next heartbeat is no fault.
    bench.redis.run::<()>(&[
        "HSET",
        &key,
        "r-1",
        "2{\"job_id\": \"b\", \"target\": \"tasks.good.noop\"}",
    ]);
    assert_eq!(findings(&bench.executor, 0), [json!(null); 0]);
    bench.executor.until("b", "COMPLETED");
}

#[test]
fn what_is_no_ledger_is_not_looked_over() {
    let executor = Executor::new(None);
    let missing = executor.output(&["fsck", "--json"]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    std::fs::write(executor.ledger_path(), "no database, and long enough not to be taken for one")
        .unwrap();
    let other = executor.output(&["fsck", "--json"]);
    assert_eq!(other.status.code(), Some(3), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("cannot be opened"), "{other:?}");
}
