//! `executor backup`: a whole copy of one moment, from which an executor can serve.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Disk, Executor, RedisServer, eventually};

fn open(path: &Path) -> rusqlite::Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    rusqlite::Connection::open_with_flags(path, flags).unwrap()
}

fn ask<T: rusqlite::types::FromSql>(path: &Path, sql: &str) -> T {
    open(path).query_row(sql, [], |row| row.get(0)).unwrap()
}

/// What is in the directory of a copy beside the copy: nothing of ours may stay.
fn left_behind(copy: &Path) -> Vec<String> {
    let name = copy.file_name().unwrap().to_str().unwrap();
    std::fs::read_dir(copy.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|found| found.starts_with(name) && found != name)
        .collect()
}

fn backup(executor: &Executor, copy: &Path) -> Value {
    executor.json(&["backup", "--json", copy.to_str().unwrap()])
}

#[test]
fn a_copy_made_under_load_is_whole_and_can_be_served() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let over = AtomicBool::new(false);
    let copies: Vec<PathBuf> =
        (0..3).map(|n| executor.dir.path().join(format!("copy{n}.db"))).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..600 {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                redis.push(&json!({"job_id": format!("{n:06}"), "target": "tasks.good.noop"}));
                // Fifty a second, or as many as this machine can do.
                std::thread::sleep(Duration::from_millis(20));
                let under_way = "SELECT 1 FROM jobs WHERE status IN ('QUEUED', 'RUNNING')";
                eventually("jobs to end", || (executor.rows(under_way).len() < 30).then_some(()));
            }
        });
        for (n, copy) in (1..).zip(&copies) {
            eventually("jobs to have run", || {
                (executor.rows("SELECT 1 FROM jobs WHERE status = 'COMPLETED'").len() >= n * 30)
                    .then_some(())
            });
            let before = executor.rows("SELECT id, status, attempts FROM jobs ORDER BY seq");
            let told = backup(&executor, copy);
            assert_eq!(ask::<String>(copy, "PRAGMA integrity_check"), "ok");
            assert_eq!(told["jobs"], ask::<i64>(copy, "SELECT count(*) FROM jobs"));
            assert_eq!(told["bytes"], copy.metadata().unwrap().len());
            for row in before {
                let sql =
                    format!("SELECT status FROM jobs WHERE id = '{}'", row["id"].as_str().unwrap());
                let status: String = ask(copy, &sql);
                assert!(status == "COMPLETED" || row["status"] != "COMPLETED", "{row:?} {status}");
            }
            assert_eq!(left_behind(copy), Vec::<String>::new());
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(executor.count("ledger_lost"), 0);
    // Another executor, another Redis: what the copy has is all there is.
    let other_redis = RedisServer::start();
    let mut other = Executor::new(Some(&other_redis));
    let jobs: i64 = ask(&copies[2], "SELECT count(*) FROM jobs");
    other.set_ledger(copies[2].clone()).serve();
    other_redis.push(&json!({"job_id": "new", "target": "tasks.good.noop"}));
    eventually("all jobs to be COMPLETED", || {
        let sql = "SELECT count(*) AS n FROM jobs WHERE status = 'COMPLETED'";
        (other.rows(sql)[0]["n"] == jobs + 1).then_some(())
    });
    let id = |executor: &Executor| {
        executor.rows("SELECT value FROM meta WHERE name = 'ledger_id'")[0]["value"].clone()
    };
    assert_ne!(id(&executor), id(&other));
}

#[test]
fn a_copy_is_made_without_a_running_executor_and_nothing_is_overwritten() {
    let mut executor = Executor::new(None);
    let missing = executor.output(&["backup", "copy.db"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no ledger at"), "{missing:?}");
    executor.serve();
    let output = executor.output(&["submit", "tasks.good.noop"]);
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    executor.until(&id, "COMPLETED");
    executor.kill();
    let copy = executor.dir.path().join("copy.db");
    let output = executor.output(&["backup", "copy.db"]);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.starts_with("copy.db: 1 jobs, "), "{told}");
    assert_eq!(ask::<String>(&copy, "SELECT status FROM jobs"), "COMPLETED");
    let before = std::fs::read(&copy).unwrap();
    let again = executor.output(&["backup", "copy.db"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("not overwritten"), "{again:?}");
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    std::os::unix::fs::symlink("nowhere", executor.dir.path().join("link")).unwrap();
    assert_eq!(executor.output(&["backup", "link"]).status.code(), Some(1));
    let nowhere = executor.output(&["backup", "no/such/copy.db"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no/such/copy.db"), "{nowhere:?}");
    assert_eq!(left_behind(&copy), Vec::<String>::new());
}

#[test]
fn a_copy_that_does_not_fit_leaves_nothing() {
    let disk = Disk::new();
    let mut executor = Executor::new(None);
    executor.set_ledger(disk.ledger()).serve();
    executor.kill();
    let copy = disk.ledger().with_file_name("copy.db");
    disk.fill_early(&mut executor);
    let output = executor.limited_output(&["backup", copy.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("its disk"), "{output:?}");
    assert!(!copy.exists());
    assert_eq!(left_behind(&copy), Vec::<String>::new());
    disk.free_early(&mut executor);
    backup(&executor, &copy);
}

#[test]
fn a_damaged_ledger_is_not_copied() {
    let mut executor = Executor::new(None);
    executor.serve();
    assert_eq!(executor.terminate(), Some(0));
    let mut bytes = std::fs::read(executor.ledger_path()).unwrap();
    bytes[3 * 4096..6 * 4096].fill(0xa5);
    std::fs::write(executor.ledger_path(), bytes).unwrap();
    let copy = executor.dir.path().join("copy.db");
    let output = executor.output(&["backup", "copy.db"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("damaged"), "{output:?}");
    assert!(!copy.exists());
    assert_eq!(left_behind(&copy), Vec::<String>::new());
}

#[test]
fn a_copy_put_beside_the_log_of_another_is_refused_until_that_is_gone() {
    let mut executor = Executor::new(None);
    executor.serve();
    let copy = executor.dir.path().join("copy.db");
    backup(&executor, &copy);
    executor.kill();
    std::fs::rename(&copy, executor.ledger_path()).unwrap();
    let wal = executor.dir.path().join("ledger.db-wal");
    assert!(wal.metadata().unwrap().len() > 0);
    let output = executor.output(&["serve"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("move it"), "{output:?}");
    std::fs::remove_file(wal).unwrap();
    std::fs::remove_file(executor.dir.path().join("ledger.db-shm")).unwrap();
    executor.serve();
    assert_eq!(executor.healthz().0, 200);
}

#[test]
fn a_restored_copy_takes_over_what_its_dead_original_had_only_noted() {
    let redis = RedisServer::start();
    let mut original = Executor::new(Some(&redis));
    original.set("HEARTBEAT_INTERVAL", "300ms").set("EXECUTOR_ID", "original").serve();
    redis.push(&json!({"job_id": "before", "target": "tasks.good.noop"}));
    original.until("before", "COMPLETED");
    let copy = original.dir.path().join("copy.db");
    backup(&original, &copy);
    let db = rusqlite::Connection::open(original.ledger_path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    let keys = |redis: &RedisServer| redis.run::<Vec<String>>(&["KEYS", "executor:accepting:*"]);
    let notes = || keys(&redis).iter().map(|key| redis.run::<i64>(&["HLEN", key])).sum::<i64>();
    let waiting = || redis.run::<i64>(&["LLEN", "executor:jobs"]);
    eventually("the job to be noted", || ((waiting(), notes()) == (0, 1)).then_some(()));
    let mut restored = Executor::new(Some(&redis));
    restored.set("HEARTBEAT_INTERVAL", "300ms").set("EXECUTOR_ID", "restored").set_ledger(copy);
    restored.serve();
    restored.line("origin_lives", |line| line["event"] == "origin_lives");
    let before = restored.count("heartbeat");
    eventually("heartbeats", || (restored.count("heartbeat") > before + 3).then_some(()));
    assert_eq!(restored.job("a"), None);
    original.kill();
    restored.until("a", "COMPLETED");
    let line = restored.line("origin_taken_over", |line| line["event"] == "origin_taken_over");
    assert_eq!(line["notes"], 1);
    eventually("the notes to be forgotten", || keys(&redis).is_empty().then_some(()));
    assert_eq!(restored.terminate(), Some(0));
    restored.serve();
    eventually("a heartbeat", || (restored.count("heartbeat") > 1).then_some(()));
    assert_eq!(restored.count("origin_taken_over"), 0);
}
