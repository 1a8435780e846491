//! The ledger cannot be written, or is damaged: nothing is lost, it is said once, what can come back
//! comes back without hands, and what cannot is refused at the start with what to do.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Disk, Executor, RedisServer, alive, eventually, within};

/// For so long a slow disk takes no write: less than the ledger waits, more than anyone is patient at an exit.
const SLOW: Duration = Duration::from_millis(1500);

/// An executor with its ledger on a disk of its own.
fn on(disk: &Disk, redis: Option<&RedisServer>) -> Executor {
    let mut executor = Executor::new(redis);
    executor.set_ledger(disk.ledger()).set("HEARTBEAT_INTERVAL", "300ms");
    executor
}

/// How many jobs are noted in Redis as being accepted.
fn noted(redis: &RedisServer) -> i64 {
    let keys: Vec<String> = redis.run(&["KEYS", "executor:accepting:*"]);
    keys.iter().map(|key| redis.run::<i64>(&["HLEN", key])).sum()
}

/// Starts a job that ends once `go` exists; the pid of its run.
fn start_waiting(executor: &Executor, redis: &RedisServer, id: &str, go: &Path) -> i64 {
    redis.push(&json!({"job_id": id, "target": "tasks.good.waits_for", "params": {"path": go}}));
    executor.until(id, "RUNNING");
    eventually("its pid to be noted", || executor.attempts(id)[0]["pid"].as_i64())
}

fn wait_until_lost(executor: &Executor) -> String {
    let body = eventually("/healthz to tell of the ledger", || {
        let (status, body) = executor.healthz();
        (status == 503 && body["checks"]["ledger"] != "ok").then_some(body)
    });
    assert_eq!(body["checks"]["redis"], "ok", "{body}");
    executor.line("ledger_lost", |line| line["event"] == "ledger_lost");
    body["checks"]["ledger"].as_str().unwrap().to_owned()
}

fn assert_sound(executor: &Executor) {
    let found = &executor.rows("PRAGMA integrity_check")[0]["integrity_check"];
    assert_eq!(found, "ok");
}

#[test]
fn a_full_disk_keeps_the_endings_and_heals() {
    let (redis, disk) = (RedisServer::start(), Disk::new());
    let mut executor = on(&disk, Some(&redis));
    executor.serve();
    for outage in 1..=3 {
        let go = executor.dir.path().join(format!("go{outage}"));
        let ids = [format!("a{outage}"), format!("b{outage}")];
        let pids = ids.each_ref().map(|id| start_waiting(&executor, &redis, id, &go));
        disk.fill(&executor);
        let why = wait_until_lost(&executor);
        assert!(why.contains("disk"), "{why}");
        let later: Vec<String> = (0..10).map(|n| format!("later{outage}-{n}")).collect();
        for id in &later {
            redis.push(&json!({"job_id": id, "target": "tasks.good.noop"}));
        }
        std::fs::write(&go, "").unwrap();
        for pid in pids {
            eventually("the run to end", || (!alive(pid)).then_some(()));
        }
        let before = executor.count("heartbeat");
        eventually("heartbeats", || (executor.count("heartbeat") > before + 6).then_some(()));
        // Nothing was taken, the endings wait, and nothing was said twice.
        assert_eq!((redis.run::<i64>(&["LLEN", "executor:jobs"]), noted(&redis)), (10, 0));
        for id in &ids {
            assert_eq!(executor.job(id).unwrap()["status"], "RUNNING");
        }
        assert_eq!(executor.healthz().0, 503);
        assert_eq!(executor.get("/livez").0, 200);
        assert_eq!(
            (executor.count("ledger_lost"), executor.count("ledger_back")),
            (outage, outage - 1)
        );
        disk.free(&executor);
        let back = Instant::now();
        within(Duration::from_secs(5), "/healthz to be well", || {
            (executor.healthz().0 == 200).then_some(())
        });
        for id in ids.iter().chain(&later) {
            let row = executor.until(id, "COMPLETED");
            assert_eq!((&row["attempts"], &row["interruptions"]), (&json!(1), &json!(0)), "{id}");
            eventually("the hash to tell of the end", || {
                (redis.hash(&format!("executor:job:{id}")).get("status")? == "COMPLETED")
                    .then_some(())
            });
        }
        assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
        assert_eq!(
            (executor.count("ledger_lost"), executor.count("ledger_back")),
            (outage, outage)
        );
    }
    assert_eq!((executor.count("record_delayed"), executor.count("accept_delayed")), (0, 0));
    assert_eq!(executor.count("redis_lost"), 0);
    assert_eq!(executor.rows("SELECT * FROM meta WHERE name = 'room'"), []);
    assert_sound(&executor);
    assert_eq!(executor.terminate(), Some(0));
}

#[test]
fn a_full_disk_does_not_hold_up_the_exit() {
    let (redis, disk) = (RedisServer::start(), Disk::new());
    let mut executor = on(&disk, Some(&redis));
    executor.set("SHUTDOWN_GRACE", "3s").serve();
    let go = executor.dir.path().join("go");
    let pid = start_waiting(&executor, &redis, "a", &go);
    disk.fill(&executor);
    wait_until_lost(&executor);
    std::fs::write(&go, "").unwrap();
    eventually("the run to end", || (!alive(pid)).then_some(()));
    let begun = Instant::now();
    // Its ending could not be recorded: that is no clean end.
    assert_eq!(executor.terminate(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let line = executor.line("stopped_unrecorded", |line| line["event"] == "stopped_unrecorded");
    assert!(line["error"].as_str().unwrap().contains("1 attempts"), "{line:?}");
    disk.free_early(&mut executor);
    executor.serve();
    let row = executor.until("a", "COMPLETED");
    assert_eq!((&row["attempts"], &row["interruptions"]), (&json!(2), &json!(1)));
    assert_sound(&executor);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_refused_with_what_to_do() {
    let disk = Disk::new();
    let mut executor = on(&disk, None);
    let output = executor.output(&["submit", "tasks.good.noop"]);
    assert!(output.status.success(), "{output:?}");
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    disk.fill_early(&mut executor);
    executor.serve_unready();
    let line = executor.line("start_failed", |line| line["event"] == "start_failed");
    assert!(line["error"].as_str().unwrap().contains("free space"), "{line:?}");
    assert_eq!(executor.wait().code(), Some(3));
    disk.free_early(&mut executor);
    executor.serve();
    executor.until(&id, "COMPLETED");
    assert_eq!(executor.healthz().0, 200);
}

#[test]
fn another_process_that_holds_the_lock_for_seconds_only_delays() {
    let redis = RedisServer::start();
    let executor = Executor::start(&redis);
    let go = executor.dir.path().join("go");
    let pid = start_waiting(&executor, &redis, "a", &go);
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let held = Instant::now();
    std::fs::write(&go, "").unwrap();
    eventually("the run to end", || (!alive(pid)).then_some(()));
    redis.push(&json!({"job_id": "b", "target": "tasks.good.noop"}));
    let (status, body) = executor.healthz();
    assert_eq!(status, 503, "{body}");
    assert!(body["checks"]["ledger"].as_str().unwrap().contains("holds its lock"), "{body}");
    db.execute_batch("ROLLBACK").unwrap();
    assert!(held.elapsed() < Duration::from_secs(5), "it waits five seconds: {:?}", held.elapsed());
    for id in ["a", "b"] {
        assert_eq!(executor.until(id, "COMPLETED")["attempts"], 1);
    }
    assert_eq!(executor.count("ledger_lost"), 0);
}

#[test]
fn notes_of_what_is_written_down_go_while_the_ledger_is_stuck() {
    let redis = RedisServer::start();
    let mut executor = Executor::new(Some(&redis));
    // Its look at the notes comes before the time after which they are forgotten by themselves.
    executor.set("HEARTBEAT_INTERVAL", "100ms").serve();
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    for id in ["a", "b", "c", "d"] {
        let go = executor.dir.path().join(id);
        let params = json!({"path": &go});
        redis.push(&json!({"job_id": id, "target": "tasks.good.waits_for", "params": params}));
        executor.until(id, "RUNNING");
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        within(Duration::from_secs(2), "the note to go", || (noted(&redis) == 0).then_some(()));
        db.execute_batch("ROLLBACK").unwrap();
        std::fs::write(&go, "").unwrap();
        executor.until(id, "COMPLETED");
    }
}

#[test]
fn a_lock_held_by_another_does_not_hold_up_the_exit() {
    let redis = RedisServer::start();
    let mut executor = Executor::new(Some(&redis));
    executor.set("SHUTDOWN_GRACE", "3s").serve();
    let go = executor.dir.path().join("go");
    start_waiting(&executor, &redis, "a", &go);
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    assert_eq!(executor.terminate(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    db.execute_batch("ROLLBACK").unwrap();
    std::fs::write(&go, "").unwrap();
    executor.serve();
    assert_eq!(executor.until("a", "COMPLETED")["attempts"], 2);
}

#[test]
fn a_job_claimed_too_late_by_a_slow_disk_is_given_back_before_the_exit() {
    let redis = RedisServer::start();
    let mut executor = Executor::new(Some(&redis));
    executor.set("SHUTDOWN_GRACE", "20s").serve();
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    // Its commit, which hands it to a free slot, waits for us by now.
    eventually("it to be noted", || (noted(&redis) > 0).then_some(()));
    executor.signal(libc::SIGTERM);
    executor.line("draining", |line| line["event"] == "draining");
    std::thread::sleep(SLOW);
    db.execute_batch("ROLLBACK").unwrap();
    assert_eq!(executor.wait().code(), Some(0));
    let row = executor.job("a").unwrap();
    assert_eq!((&row["status"], &row["attempts"]), (&json!("QUEUED"), &json!(0)), "{row:#?}");
    executor.serve();
    let row = executor.until("a", "COMPLETED");
    assert_eq!((&row["attempts"], &row["interruptions"]), (&json!(1), &json!(0)), "{row:#?}");
}

/// What `serve` and others say of a ledger that must be refused: exit 3, and a sentence with these
/// words.
fn refused(executor: &Executor, words: &[&str]) {
    let output = executor.output(&["serve"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains(executor.ledger_path().to_str().unwrap()), "{told}");
    for word in words {
        assert!(told.contains(word), "{word}: {told}");
    }
}

/// An executor whose ledger has some jobs and was closed well.
fn with_jobs() -> Executor {
    let mut executor = Executor::new(None);
    for n in 0..20 {
        let params = json!({"x": "y".repeat(2000), "n": n}).to_string();
        let output = executor.output(&["submit", "tasks.good.echo", "--params", &params]);
        assert!(output.status.success(), "{output:?}");
    }
    executor.serve();
    eventually("all to end", || {
        (executor.rows("SELECT 1 FROM jobs WHERE status = 'COMPLETED'").len() == 20).then_some(())
    });
    assert_eq!(executor.terminate(), Some(0));
    executor
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_damaged_file_is_refused_with_what_to_do() {
    let executor = with_jobs();
    let path = executor.ledger_path();
    let sound = std::fs::read(&path).unwrap();
    let size = u64::try_from(sound.len()).unwrap();
    assert!(size > 100_000, "{size}");
    // The middle, page by page; what is only text in a row changes no structure, so whole pages.
    overwrite(&path, size / 2 / 4096 * 4096, &[0xa5; 3 * 4096]);
    refused(&executor, &["damaged", "executor backup"]);
    let doctor = executor.output(&["doctor", "--json"]);
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1), "{text}");
    assert!(text.contains("damaged"), "{text}");
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    refused(&executor, &["damaged", "executor backup"]);
    std::fs::write(&path, &sound).unwrap();
    overwrite(&path, 0, &[0; 100]);
    refused(&executor, &["head is damaged", "executor backup"]);
    std::fs::write(&path, "a note of mine, longer than the head of a database. ".repeat(20))
        .unwrap();
    refused(&executor, &["is not a ledger"]);
    // Refusing changed nothing.
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("a note of mine"));
}

#[test]
fn a_newer_or_foreign_database_is_refused_and_left_alone() {
    let executor = with_jobs();
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.pragma_update(None, "user_version", 7).unwrap();
    drop(db);
    refused(&executor, &["version 7 is newer than 1", "a newer one"]);
    let listed = executor.output(&["job", "list"]);
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stderr).contains("newer"), "{listed:?}");
    std::fs::remove_file(executor.ledger_path()).unwrap();
    let db = rusqlite::Connection::open(executor.ledger_path()).unwrap();
    db.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(db);
    let before = std::fs::read(executor.ledger_path()).unwrap();
    refused(&executor, &["no ledger of an executor", "DB_URL"]);
    assert_eq!(std::fs::read(executor.ledger_path()).unwrap(), before);
}

#[test]
fn a_log_without_its_file_is_not_thrown_away() {
    let (redis, disk) = (RedisServer::start(), Disk::new());
    let mut executor = on(&disk, Some(&redis));
    executor.serve();
    redis.push(&json!({"job_id": "a", "target": "tasks.good.noop"}));
    executor.until("a", "COMPLETED");
    executor.kill();
    let wal = disk.ledger().with_file_name("ledger.db-wal");
    let (file, log) = (std::fs::read(disk.ledger()).unwrap(), std::fs::read(&wal).unwrap());
    assert!(log.len() > 10_000);
    std::fs::write(disk.ledger(), "").unwrap();
    refused(&executor, &["ledger.db-wal", "thrown away"]);
    std::fs::remove_file(disk.ledger()).unwrap();
    refused(&executor, &["ledger.db-wal", "thrown away"]);
    assert_eq!(std::fs::read(&wal).unwrap(), log);
    std::fs::write(disk.ledger(), file).unwrap();
    executor.serve();
    assert_eq!(executor.job("a").unwrap()["status"], "COMPLETED");
}

#[test]
fn an_empty_file_is_a_new_ledger() {
    let mut executor = Executor::new(None);
    std::fs::write(executor.ledger_path(), "").unwrap();
    executor.serve();
    assert_eq!(executor.healthz().0, 200);
}

#[test]
fn a_directory_that_may_not_be_written_is_refused() {
    // Where not even root may make a file.
    let mut executor = Executor::new(None);
    executor.set_ledger("/sys/ledger.db".into());
    refused(&executor, &["give this user the right", "DB_URL"]);
}

#[test]
fn damage_that_comes_while_serving_is_told_and_stops_the_taking() {
    let redis = RedisServer::start();
    let mut executor = Executor::start(&redis);
    // Far more than the writer keeps in memory.
    let payloads: Vec<String> = (0..2000)
        .map(|n| {
            let job = json!({"job_id": format!("{n}"), "target": "tasks.good.echo",
                "run_at": "2100-01-01T00:00:00Z", "params": {"x": "y".repeat(10_000)}});
            job.to_string()
        })
        .collect();
    redis.push_all(payloads.iter().map(String::as_bytes));
    eventually("all to be taken", || {
        (executor.rows("SELECT count(*) AS n FROM jobs")[0]["n"] == 2000).then_some(())
    });
    executor.terminate();
    executor.serve();
    let size = executor.ledger_path().metadata().unwrap().len();
    assert!(size > 16 * 1024 * 1024, "{size}");
    overwrite(
        &executor.ledger_path(),
        4096 * 4,
        &vec![0xa5; usize::try_from(size).unwrap() - 4096 * 4],
    );
    redis.push(&json!({"target": "tasks.good.noop"}));
    let why = eventually("/healthz to tell of the damage", || {
        let (status, body) = executor.healthz();
        (status == 503).then(|| body["checks"]["ledger"].as_str().unwrap().to_owned())
    });
    assert!(why.contains("damaged") && why.contains("executor backup"), "{why}");
    executor.line("ledger_damaged", |line| line["event"] == "ledger_damaged");
    for _ in 0..3 {
        redis.push(&json!({"target": "tasks.good.noop"}));
    }
    let before = executor.count("heartbeat");
    eventually("heartbeats", || (executor.count("heartbeat") > before + 1).then_some(()));
    assert_eq!(redis.run::<i64>(&["LLEN", "executor:jobs"]), 3);
    assert_eq!((executor.count("ledger_damaged"), executor.count("ledger_back")), (1, 0));
    executor.kill();
    refused(&executor, &["damaged"]);
}
