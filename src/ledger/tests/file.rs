//! Restarts, strange files, full disks, and what is forgotten in time.

use super::*;

#[tokio::test]
async fn a_restart_puts_back_what_was_running_five_times_at_most() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    for death in 1..5 {
        let claim = bench.claim().await;
        assert_eq!(claim.attempt, death);
        bench = bench.again().await;
        assert_eq!(bench.recovered, Recovered { put_back: 1, lost: 0 });
        assert_eq!(bench.row("a")["failures"], 0);
    }
    bench.claim().await;
    bench = bench.again().await;
    assert_eq!(bench.recovered, Recovered { put_back: 0, lost: 1 });
    assert_eq!(bench.row("a")["error_type"], "ExecutorLostError");
    let attempts = bench.reader().attempts(&JobId::new("a").unwrap()).unwrap();
    assert!(attempts.iter().all(|attempt| attempt["outcome"] == "lost"));
}

#[tokio::test]
async fn a_second_executor_is_told_who_has_the_ledger() {
    let bench = Bench::new();
    let error = Ledger::open(options(bench.dir.path())).unwrap_err();
    let pid = std::process::id();
    assert!(error.to_string().ends_with(&format!("in use by another executor (pid {pid})")));
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let bench = Bench::new();
    bench.ledger.close().await;
    let path = bench.dir.path().join("ledger.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let error = Ledger::open(options(bench.dir.path())).unwrap_err();
    assert!(matches!(
        error,
        OpenError::Failed { source: LedgerError::Newer { found: 99, .. }, .. }
    ));
}

#[tokio::test]
async fn messages_are_forgotten_once_delivered() {
    let bench = Bench::new();
    bench.accept(job("a")).await;
    let entries = bench.ledger.next_outbox(0, 10).await.unwrap();
    let last = entries.last().unwrap().seq;
    assert!(bench.ledger.outbox(last, 10).await.unwrap().is_empty());
    bench.ledger.probe().await.unwrap();
    assert!(bench.ledger.outbox(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn old_jobs_are_pruned_in_small_steps() {
    let mut bench = Bench::new();
    for id in ["a", "b", "c"] {
        bench.accept(job(id)).await;
        let claim = bench.claim().await;
        bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    }
    let later = clock::now() + Duration::from_secs(1);
    assert_eq!(bench.ledger.prune(later, 2).await.unwrap(), 2);
    assert_eq!(bench.ledger.prune(later, 2).await.unwrap(), 1);
    assert!(bench.reader().attempts(&JobId::new("a").unwrap()).unwrap().is_empty());
}

#[tokio::test]
async fn a_full_disk_fails_verbs_and_heals() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let claim = bench.claim().await;
    bench.ledger.set_page_limit(Some(1)).await.unwrap();
    let big = NewJob {
        parameters: raw(&format!("{{\"x\": \"{}\"}}", "y".repeat(200_000))),
        ..job("big")
    };
    let refused = bench.ledger.accept(vec![arrival(big.clone())]).await;
    assert!(refused.is_err(), "{refused:?}");
    bench.ledger.set_page_limit(None).await.unwrap();
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    assert_eq!(bench.ledger.trouble(), None);
    assert_eq!(bench.accept(big).await.id.as_str(), "big");
}

#[test]
fn nothing_follows_in_a_transaction_that_a_full_disk_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store::Store::open(options(dir.path())).unwrap();
    let big = NewJob {
        parameters: raw(&format!("{{\"x\": \"{}\"}}", "y".repeat(200_000))),
        ..job("big")
    };
    store.limit_pages(Some(1));
    let mut batch = store.begin(clock::now()).unwrap();
    batch.guarded(|batch| batch.accept(&[arrival(job("before"))])).unwrap();
    let full = batch.guarded(|batch| batch.accept(&[arrival(big)]));
    assert!(matches!(full, Err(LedgerError::Commit(_))), "{full:?}");
    // SQLite has rolled back by itself: these would be commits of their own.
    let after = batch.guarded(|batch| batch.accept(&[arrival(job("after"))]));
    assert!(matches!(after, Err(LedgerError::Commit(_))), "{after:?}");
    let claims = batch.guarded(|batch| batch.claim(1));
    assert!(matches!(claims, Err(LedgerError::Commit(_))), "{claims:?}");
    let error = batch.commit().unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
    let (_, fault) = batch.effects();
    assert_eq!(fault.unwrap().0, Reach::Passing);
    store.limit_pages(None);
    assert_eq!(store.count_waiting().unwrap(), 0);
    store.begin(clock::now()).unwrap().commit().unwrap();
}

#[tokio::test]
async fn a_ledger_may_be_named_by_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("file.db");
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, dir.path().join("ledger.db")).unwrap();
    let bench = Bench::open(dir);
    bench.accept(job("a")).await;
    assert_eq!(bench.row("a")["status"], "QUEUED");
    assert!(elsewhere.path().join("file.db-wal").exists());
}

#[tokio::test]
async fn a_log_that_was_removed_takes_no_more_commits() {
    let bench = Bench::new();
    bench.accept(job("a")).await;
    std::fs::remove_file(bench.dir.path().join("ledger.db-wal")).unwrap();
    let refused = bench.ledger.accept(vec![arrival(job("b"))]).await;
    assert!(matches!(refused, Err(LedgerError::Commit(_))), "{refused:?}");
    let why = bench.ledger.trouble().unwrap();
    assert!(why.contains("removed"), "{why}");
}

#[tokio::test]
async fn a_commit_that_the_disk_did_not_confirm_is_told_to_nobody_and_nothing_follows() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let first = bench.claim().await;
    bench.ledger.demand(1);
    bench.ledger.probe().await.unwrap();
    // While another holds the lock, what comes is one commit.
    let other = rusqlite::Connection::open(bench.dir.path().join("ledger.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = bench.ledger.clone();
    let waiting = tokio::spawn(async move { before.probe().await });
    tokio::task::yield_now().await;
    let ledger = bench.ledger.clone();
    let accepted = tokio::spawn(async move { ledger.accept(vec![arrival(job("b"))]).await });
    tokio::task::yield_now().await;
    let ledger = bench.ledger.clone();
    let lost = tokio::spawn(async move { ledger.lose_log().await });
    tokio::task::yield_now().await;
    other.execute_batch("ROLLBACK").unwrap();
    let _ = waiting.await.unwrap();
    lost.await.unwrap();
    assert!(matches!(accepted.await.unwrap(), Err(LedgerError::Commit(_))));
    // It may have begun: whoever has the file sees it.
    assert_eq!(bench.claims.recv().await.unwrap().id.as_str(), "b");
    assert_eq!(bench.row("b")["status"], "RUNNING");
    let why = bench.ledger.trouble().unwrap();
    assert!(why.contains("restart the executor"), "{why}");
    let refused = bench.finish(&first, succeeded(), Disposition::Complete).await;
    assert!(matches!(refused, Err(LedgerError::Commit(_))), "{refused:?}");
    assert_eq!(bench.row("a")["status"], "RUNNING", "not even written");
    let told = bench.ledger.outbox(0, 10).await;
    assert!(matches!(told, Err(LedgerError::Commit(_))), "{told:?}");
    let settled = bench.ledger.settled().await;
    assert!(matches!(settled, Err(LedgerError::Commit(_))), "{settled:?}");
    let bench = bench.again().await;
    assert_eq!(bench.ledger.trouble(), None);
    assert_eq!(bench.recovered.put_back, 2);
}

#[tokio::test]
async fn a_running_experiment_is_not_started_a_second_time() {
    let mut bench = Bench::new();
    let experiment = |id: &str| NewJob { experiment_id: Some("e".into()), target: None, ..job(id) };
    bench.accept(experiment("a")).await;
    bench.accept(experiment("b")).await;
    let claim = bench.claim().await;
    bench.ledger.demand(1);
    bench.ledger.probe().await.unwrap();
    assert!(bench.claims.try_recv().is_err());
    let why = bench.reader().waits_for(&JobId::new("b").unwrap(), clock::now()).unwrap();
    assert_eq!(why, Some(WaitsFor::Experiment { id: JobId::new("a").unwrap() }));
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    assert_eq!(bench.claims.recv().await.unwrap().id.as_str(), "b");
}
