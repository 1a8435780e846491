//! What is wrong is found, and what is right is not.

use super::*;
use rusqlite::Connection;

/// A ledger with one job of each kind that is right.
fn ledger() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(include_str!("../../schema.sql")).unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    conn.execute_batch(
        "INSERT INTO meta VALUES ('ledger_id', 'L');
         INSERT INTO jobs (id, source, priority, status, attempts, max_attempts, retry_on,
            timeout_seconds, created_at, started_at, finished_at, result, executor_id,
            idempotency_key) VALUES
         ('waits', 'queue', 5, 'QUEUED', 0, 1, 'all', 1, '2026-01-01T00:00:00.000Z', NULL, NULL, NULL, NULL, NULL),
         ('runs', 'queue', 5, 'RUNNING', 1, 1, 'all', 1, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:01.000Z', NULL, NULL, 'me', NULL),
         ('done', 'queue', 5, 'COMPLETED', 2, 3, 'all', 1, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:01.000Z', '2026-01-01T00:00:02.000Z', '1', 'me', 'k');
         INSERT INTO attempts (job_id, attempt, executor_id, start_method, started_at, finished_at, outcome) VALUES
         ('runs', 1, 'me', 'spawn', '2026-01-01T00:00:01.000Z', NULL, NULL),
         ('done', 1, 'me', 'spawn', '2026-01-01T00:00:01.000Z', '2026-01-01T00:00:02.000Z', 'failed'),
         ('done', 2, 'me', 'spawn', '2026-01-01T00:00:01.000Z', '2026-01-01T00:00:02.000Z', 'succeeded');
         INSERT INTO outbox (kind, subject, body) VALUES
         ('job', 'done', '{\"job_id\":\"done\",\"status\":\"RUNNING\",\"attempts\":2}'),
         ('job', 'done', '{\"job_id\":\"done\",\"status\":\"COMPLETED\",\"attempts\":2}');",
    )
    .unwrap();
    (dir, path)
}

fn serving() -> Serving {
    Serving { executor_id: "me".to_owned(), since: "2026-01-01T00:00:00.500Z".parse().unwrap() }
}

/// What is found after this was done to the ledger: check and job of each finding.
fn after(sql: &str) -> Vec<(&'static str, String)> {
    let (_dir, path) = ledger();
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
    conn.execute_batch(sql).unwrap();
    let (findings, _) = Reader::open(&path).unwrap().check(Some(&serving())).unwrap();
    findings.into_iter().map(|f| (f.check, f.job_id.unwrap_or_default())).collect()
}

#[test]
fn a_sound_ledger_is_clean() {
    let (_dir, path) = ledger();
    let (findings, looked) = Reader::open(&path).unwrap().check(Some(&serving())).unwrap();
    assert_eq!((findings, looked), (vec![], Looked { jobs: 3, attempts: 3 }));
}

#[test]
fn every_broken_invariant_is_found_and_named() {
    let table: &[(&str, &str, &str)] = &[
        ("state", "waits", "UPDATE jobs SET ready = 0 WHERE id = 'waits'"),
        ("state", "runs", "UPDATE jobs SET ready = 2 WHERE id = 'runs'"),
        ("state", "done", "UPDATE jobs SET result = NULL WHERE id = 'done'"),
        (
            "state",
            "done",
            "UPDATE jobs SET status = 'FAILED', error_type = 'E' WHERE id = 'done'; DELETE FROM outbox",
        ),
        ("state", "waits", "UPDATE jobs SET finished_at = created_at WHERE id = 'waits'"),
        ("state", "runs", "UPDATE jobs SET started_at = NULL WHERE id = 'runs'"),
        (
            "follows",
            "waits",
            "UPDATE jobs SET ready = 2, duplicate = 1, duplicate_of = 'gone' WHERE id = 'waits'",
        ),
        (
            "follows",
            "waits",
            "UPDATE jobs SET ready = 2, duplicate = 1, duplicate_of = 'done' WHERE id = 'waits'",
        ),
        ("duplicate", "waits", "UPDATE jobs SET duplicate = 1 WHERE id = 'waits'"),
        (
            "duplicate",
            "waits",
            "UPDATE jobs SET duplicate = 1, duplicate_of = 'waits' WHERE id = 'waits'",
        ),
        ("attempts", "done", "DELETE FROM attempts WHERE job_id = 'done' AND attempt = 1"),
        ("attempts", "done", "UPDATE jobs SET attempts = 3 WHERE id = 'done'; DELETE FROM outbox"),
        (
            "attempts",
            "gone",
            "INSERT INTO attempts (job_id, attempt, executor_id, start_method, started_at, finished_at, outcome) VALUES ('gone', 1, 'me', 'spawn', '2026-01-01T00:00:01.000Z', '2026-01-01T00:00:02.000Z', 'lost')",
        ),
        (
            "open_attempt",
            "runs",
            "UPDATE attempts SET finished_at = started_at, outcome = 'failed' WHERE job_id = 'runs'",
        ),
        (
            "open_attempt",
            "done",
            "UPDATE attempts SET finished_at = NULL, outcome = NULL WHERE job_id = 'done' AND attempt = 1",
        ),
        ("open_attempt", "runs", "UPDATE attempts SET executor_id = 'other' WHERE job_id = 'runs'"),
        (
            "outcome",
            "done",
            "UPDATE attempts SET outcome = NULL WHERE job_id = 'done' AND attempt = 1",
        ),
        (
            "outcome",
            "done",
            "UPDATE attempts SET outcome = 'odd' WHERE job_id = 'done' AND attempt = 1",
        ),
        ("counts", "waits", "UPDATE jobs SET failures = 1 WHERE id = 'waits'"),
        ("times", "waits", "UPDATE jobs SET created_at = 'yesterday' WHERE id = 'waits'"),
        (
            "times",
            "done",
            "UPDATE attempts SET started_at = '2026-01-01' WHERE job_id = 'done' AND attempt = 1",
        ),
        ("key", "waits", "UPDATE jobs SET idempotency_key = 'k' WHERE id = 'waits'"),
        ("outbox", "done", "DELETE FROM outbox WHERE seq = 2"),
        (
            "outbox",
            "waits",
            "INSERT INTO outbox (kind, subject, body) VALUES ('job', 'waits', '{')",
        ),
        (
            "served",
            "runs",
            "UPDATE jobs SET executor_id = 'dead' WHERE id = 'runs'; UPDATE attempts SET executor_id = 'dead' WHERE job_id = 'runs'",
        ),
        (
            "served",
            "runs",
            "UPDATE jobs SET started_at = '2025-01-01T00:00:00.000Z' WHERE id = 'runs'",
        ),
        ("file", "", "DELETE FROM meta"),
    ];
    for (check, job, sql) in table {
        let found = after(sql);
        assert!(found.contains(&(check, (*job).to_owned())), "{check} {job}: {found:?}");
    }
}

#[test]
fn an_experiment_runs_once_at_a_time() {
    let found = after(
        "UPDATE jobs SET experiment_id = 'e', run_id = 'e:1' WHERE id = 'runs';
         INSERT INTO jobs (id, source, priority, status, attempts, max_attempts, retry_on,
            timeout_seconds, created_at, started_at, executor_id, experiment_id, run_id) VALUES
         ('too', 'cron', 5, 'RUNNING', 1, 1, 'all', 1, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:01.000Z', 'me', 'e', 'e:1');
         INSERT INTO attempts (job_id, attempt, executor_id, start_method, started_at) VALUES
         ('too', 1, 'me', 'spawn', '2026-01-01T00:00:01.000Z');",
    );
    assert_eq!(found, [("experiment", "too".to_owned()), ("experiment", "too".to_owned())]);
}

#[test]
fn many_findings_of_one_kind_are_summed_up() {
    let found = after(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30)
         INSERT INTO attempts (job_id, attempt, executor_id, start_method, started_at, finished_at, outcome)
         SELECT 'gone' || i, 1, 'me', 'spawn', '2026-01-01T00:00:01.000Z', '2026-01-01T00:00:02.000Z', 'lost' FROM n",
    );
    assert_eq!(found.len(), 21, "{found:?}");
    assert_eq!(found[20], ("attempts", String::new()));
}

#[test]
fn a_damaged_file_is_a_finding_and_a_foreign_one_an_error() {
    let (_dir, path) = ledger();
    let mut bytes = std::fs::read(&path).unwrap();
    // The b-tree header of every page but the first: its kind becomes none.
    for page in bytes.chunks_mut(4096).skip(1) {
        page[0] = 0xee;
    }
    std::fs::write(&path, bytes).unwrap();
    let (findings, _) = Reader::open(&path).unwrap().check(None).unwrap();
    assert!(findings.iter().any(|found| found.check == "file"), "{findings:?}");
    let other = path.with_file_name("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Reader::open(&other), Err(LedgerError::Foreign)));
}
