//! Jobs that follow another one with their key.

use super::*;

#[tokio::test]
async fn followers_complete_with_their_leader() {
    let mut bench = Bench::new();
    bench.accept(keyed("a")).await;
    let follower = bench.accept(keyed("b")).await;
    assert_eq!((follower.status, follower.duplicate_of), (Status::Queued, JobId::new("a")));
    let claim = bench.claim().await;
    bench.ledger.demand(1);
    bench.ledger.probe().await.unwrap();
    assert!(bench.claims.try_recv().is_err(), "a follower is not claimed");
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    let row = bench.row("b");
    assert_eq!((&row["status"], &row["duplicate"]), (&"COMPLETED".into(), &1.into()));
    assert_eq!(row["result"], serde_json::json!({"sum": 3}));
    assert_eq!(bench.ledger.waiting(), 0);
    let third = bench.accept(keyed("c")).await;
    assert_eq!((third.status, third.duplicate_of), (Status::Completed, JobId::new("a")));
}

#[tokio::test]
async fn the_oldest_follower_of_a_failed_leader_runs() {
    let mut bench = Bench::new();
    for id in ["a", "b", "c"] {
        bench.accept(keyed(id)).await;
    }
    let claim = bench.claim().await;
    bench.finish(&claim, failed(), Disposition::Fail).await.unwrap();
    let row = bench.row("b");
    assert_eq!((&row["duplicate"], &row["duplicate_of"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(bench.row("c")["duplicate_of"], "b");
    assert_eq!(bench.claim().await.id.as_str(), "b");
}

#[tokio::test]
async fn a_retried_job_follows_one_with_its_key_or_takes_its_result() {
    let mut bench = Bench::new();
    bench.accept(keyed("a")).await;
    let claim = bench.claim().await;
    bench.finish(&claim, failed(), Disposition::Fail).await.unwrap();
    bench.accept(keyed("b")).await;
    let id = JobId::new("a").unwrap();
    assert_eq!(bench.ledger.retry(id.clone()).await.unwrap(), Retried::Queued);
    assert_eq!(bench.row("a")["duplicate_of"], "b");
    let claim = bench.claim().await;
    assert_eq!(claim.id.as_str(), "b");
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    assert_eq!(bench.row("a")["status"], "COMPLETED");
}
