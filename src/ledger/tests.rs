//! The verbs against real files: each transition and its guard, keys, order, recovery, isolation.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::clock;
use crate::job::{
    Claim, JobId, NewJob, Refusal, RetryOn, Source, StartMethod, Status, Target, TaskType,
};
use crate::outcome::{Cause, Exit, Failure, Outcome, Report, Success, Usage};
use crate::policy::Disposition;

mod file;
mod following;

struct Bench {
    dir: tempfile::TempDir,
    ledger: Ledger,
    claims: UnboundedReceiver<Claim>,
    recovered: Recovered,
}

impl Bench {
    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    fn open(dir: tempfile::TempDir) -> Self {
        let (ledger, claims, recovered) = Ledger::open(options(dir.path())).unwrap();
        Self { dir, ledger, claims, recovered }
    }

    /// Closes and opens it again, as after a restart.
    async fn again(self) -> Self {
        self.ledger.close().await;
        Self::open(self.dir)
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.dir.path().join("ledger.db")).unwrap()
    }

    fn row(&self, id: &str) -> Row {
        self.reader().job(&JobId::new(id).unwrap()).unwrap().unwrap()
    }

    async fn accept(&self, job: NewJob) -> Accepted {
        self.ledger.accept(vec![arrival(job)]).await.unwrap().remove(0)
    }

    async fn claim(&mut self) -> Arc<Claim> {
        self.ledger.demand(1);
        let claim = tokio::time::timeout(Duration::from_secs(10), self.claims.recv()).await;
        Arc::new(claim.expect("a claim within ten seconds").unwrap())
    }

    async fn finish(
        &self,
        claim: &Arc<Claim>,
        outcome: Outcome,
        disposition: Disposition,
    ) -> Result<(), LedgerError> {
        let finish =
            Finish { claim: Arc::clone(claim), report: report(outcome), disposition, demand: 0 };
        self.ledger.finish(finish).await
    }

    async fn messages(&self) -> Vec<(String, String)> {
        let entries = self.ledger.outbox(0, 1000).await.unwrap();
        entries
            .into_iter()
            .filter(|entry| entry.kind == OutboxKind::Job)
            .map(|entry| {
                let body: serde_json::Value = serde_json::from_str(&entry.body).unwrap();
                (entry.subject, body["status"].as_str().unwrap().to_owned())
            })
            .collect()
    }
}

fn options(dir: &std::path::Path) -> Options {
    Options {
        path: dir.join("ledger.db"),
        executor_id: "here".into(),
        start_method: StartMethod::Spawn,
        outbox: Outbox::Kept,
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn job(id: &str) -> NewJob {
    NewJob {
        id: JobId::new(id),
        target: Some(Target::Tool("example_tool".into())),
        parameters: raw(r#"{"n": 1}"#),
        task_type: Some(TaskType::OnDemand),
        experiment_id: None,
        priority: 5,
        timeout: Duration::from_secs(300),
        max_attempts: 3,
        retry_on: RetryOn::All,
        idempotency_key: None,
        run_at: None,
        warning: None,
    }
}

fn keyed(id: &str) -> NewJob {
    NewJob { idempotency_key: Some("key".into()), ..job(id) }
}

fn arrival(job: NewJob) -> Arrival {
    Arrival { receipt: None, source: Source::Queue, payload: b"{}".as_slice().into(), job: Ok(job) }
}

fn succeeded() -> Outcome {
    Outcome::Succeeded(Success { value: raw(r#"{"sum":3}"#), bytes: 9, truncated: false })
}

fn failed() -> Outcome {
    Outcome::Failed(Failure {
        cause: Cause::Raised { transient: false },
        error_type: "ValueError".into(),
        error: "no".into(),
        traceback: "Traceback…".into(),
        partial_results: Some(raw("[1]")),
    })
}

fn report(outcome: Outcome) -> Report {
    Report {
        outcome,
        pid: Some(7),
        start_method: StartMethod::Spawn,
        finished_at: clock::now(),
        exit: Some(Exit::Code(0)),
        usage: Usage { cpu_seconds: 0.5, max_rss_bytes: 1000 },
        survivors_killed: 2,
        log_tail: "out\n".into(),
        log_bytes: 4,
    }
}

#[tokio::test]
async fn a_job_is_accepted_claimed_and_completed() {
    let mut bench = Bench::new();
    let accepted = bench.accept(job("a")).await;
    assert_eq!(accepted.status, Status::Queued);
    assert_eq!(bench.ledger.waiting(), 1);
    let claim = bench.claim().await;
    assert_eq!((claim.id.as_str(), claim.attempt), ("a", 1));
    assert_eq!(bench.row("a")["status"], "RUNNING");
    assert_eq!(bench.ledger.waiting(), 0);
    bench.ledger.started(&claim, 42);
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    let row = bench.row("a");
    assert_eq!(row["status"], "COMPLETED");
    assert_eq!(row["result"], serde_json::json!({"sum": 3}));
    assert_eq!(row["attempts"], 1);
    let attempts = bench.reader().attempts(&claim.id).unwrap();
    assert_eq!(attempts[0]["outcome"], "succeeded");
    assert_eq!(attempts[0]["survivors_killed"], 2);
    let told: Vec<_> = bench.messages().await.into_iter().map(|(_, status)| status).collect();
    assert_eq!(told, ["QUEUED", "RUNNING", "COMPLETED"]);
}

#[tokio::test]
async fn a_job_that_finds_a_free_slot_is_born_running() {
    let mut bench = Bench::new();
    bench.ledger.demand(1);
    bench.accept(job("a")).await;
    bench.claims.recv().await.unwrap();
    assert_eq!(bench.messages().await, [("a".to_owned(), "RUNNING".to_owned())]);
}

#[tokio::test]
async fn jobs_are_born_running_only_if_all_of_them_can_and_none_waits() {
    let mut bench = Bench::new();
    bench.accept(job("waits")).await;
    bench.ledger.demand(2);
    assert_eq!(bench.claims.recv().await.unwrap().id.as_str(), "waits");
    let one = bench.accept(job("born")).await;
    assert_eq!(one.status, Status::Running);
    let claim = bench.claims.recv().await.unwrap();
    assert_eq!((claim.id.as_str(), claim.attempt), ("born", 1));
    assert_eq!(bench.row("born")["started_at"], bench.row("born")["created_at"]);
    bench.ledger.demand(1);
    let low = NewJob { priority: 1, ..job("low") };
    let high = NewJob { priority: 9, ..job("high") };
    let both = bench.ledger.accept(vec![arrival(low), arrival(high)]).await.unwrap();
    assert!(both.iter().all(|accepted| accepted.status == Status::Queued));
    assert_eq!(bench.claims.recv().await.unwrap().id.as_str(), "high");
    assert_eq!(bench.row("low")["attempts"], 0);
    assert_eq!(bench.reader().attempts(&JobId::new("born").unwrap()).unwrap().len(), 1);
}

#[tokio::test]
async fn the_record_of_an_ending_claims_its_successor() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    bench.accept(job("b")).await;
    let claim = bench.claim().await;
    let finish = Finish {
        claim,
        report: report(succeeded()),
        disposition: Disposition::Complete,
        demand: 1,
    };
    bench.ledger.finish(finish).await.unwrap();
    assert_eq!(bench.claims.try_recv().unwrap().id.as_str(), "b");
}

#[tokio::test]
async fn a_late_or_repeated_ending_is_refused() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let claim = bench.claim().await;
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    let again = bench.finish(&claim, failed(), Disposition::Fail).await;
    assert!(matches!(again, Err(LedgerError::NotRunning { .. })));
    assert_eq!(bench.row("a")["status"], "COMPLETED");
}

#[tokio::test]
async fn one_failing_verb_takes_no_neighbour_along() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let claim = bench.claim().await;
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    let (late, accepted) = tokio::join!(
        bench.finish(&claim, failed(), Disposition::Fail),
        bench.ledger.accept(vec![arrival(job("b"))]),
    );
    assert!(late.is_err());
    assert_eq!(accepted.unwrap()[0].id.as_str(), "b");
}

#[tokio::test]
async fn priorities_go_first_and_every_tenth_start_takes_the_oldest() {
    let mut bench = Bench::new();
    bench.accept(NewJob { priority: 1, ..job("old") }).await;
    for n in 0..12 {
        bench.accept(NewJob { priority: 9, ..job(&format!("high{n}")) }).await;
    }
    let mut order = Vec::new();
    for _ in 0..11 {
        order.push(bench.claim().await.id.to_string());
    }
    assert_eq!(order[0], "high0");
    assert_eq!(order[8], "high8");
    assert_eq!(order[9], "old");
    assert_eq!(order[10], "high9");
}

#[tokio::test]
async fn a_job_waits_for_its_time_and_no_longer() {
    let mut bench = Bench::new();
    let at = clock::now() + Duration::from_millis(300);
    bench.accept(NewJob { run_at: Some(at), ..job("later") }).await;
    let id = JobId::new("later").unwrap();
    let why = bench.reader().waits_for(&id, clock::now()).unwrap();
    assert_eq!(why, Some(WaitsFor::RunAt { at, failures: 0 }));
    let claim = bench.claim().await;
    let late = clock::now().duration_since(at).as_millis();
    assert!((0..500).contains(&late), "claimed {late} ms after its time");
    assert_eq!(claim.id, id);
}

#[tokio::test]
async fn a_retry_is_counted_and_keeps_its_reason_while_it_waits() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let claim = bench.claim().await;
    let at = clock::now() + Duration::from_millis(50);
    bench.finish(&claim, failed(), Disposition::RetryAt(at)).await.unwrap();
    let row = bench.row("a");
    assert_eq!((&row["status"], &row["failures"]), (&"QUEUED".into(), &1.into()));
    assert_eq!(row["error_type"], "ValueError");
    let claim = bench.claim().await;
    assert_eq!((claim.attempt, claim.failures), (2, 1));
    bench.finish(&claim, succeeded(), Disposition::Complete).await.unwrap();
    assert_eq!(bench.row("a")["error_type"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_put_back_is_not_counted() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let claim = bench.claim().await;
    bench.finish(&claim, failed(), Disposition::PutBack(None)).await.unwrap();
    let row = bench.row("a");
    assert_eq!((&row["failures"], &row["interruptions"]), (&0.into(), &0.into()));
    let claim = bench.claim().await;
    assert_eq!(claim.attempt, 2);
    bench.ledger.unclaim(Arc::clone(&claim), None).await.unwrap();
    assert_eq!(bench.row("a")["attempts"], 1);
}

#[tokio::test]
async fn withdrawn_demand_claims_nothing() {
    let mut bench = Bench::new();
    bench.ledger.demand(5);
    bench.ledger.withdraw().await.unwrap();
    bench.accept(job("a")).await;
    bench.ledger.probe().await.unwrap();
    assert!(bench.claims.try_recv().is_err());
}

#[tokio::test]
async fn an_ending_after_the_withdrawal_claims_no_successor() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let claim = bench.claim().await;
    bench.ledger.withdraw().await.unwrap();
    bench.ledger.demand(1);
    let (report, disposition) = (report(succeeded()), Disposition::Complete);
    bench.ledger.finish(Finish { claim, report, disposition, demand: 1 }).await.unwrap();
    bench.accept(job("b")).await;
    assert_eq!(bench.row("b")["status"], "QUEUED");
    assert!(bench.claims.try_recv().is_err());
}

#[tokio::test]
async fn a_known_receipt_writes_nothing() {
    let bench = Bench::new();
    let mut first = arrival(job("a"));
    first.receipt = Some("r1".into());
    let accepted = bench.ledger.accept(vec![first.clone(), first]).await.unwrap();
    assert!(!accepted[0].repeated && accepted[1].repeated);
    assert_eq!(bench.reader().jobs(&JobFilter { status: None, limit: 10 }).unwrap().len(), 1);
}

#[tokio::test]
async fn an_id_seen_before_is_recorded_under_a_fresh_one_and_runs() {
    let mut bench = Bench::new();
    bench.accept(job("a")).await;
    let second = bench.accept(job("a")).await;
    assert_ne!(second.id.as_str(), "a");
    assert_eq!(second.duplicate_of, JobId::new("a"));
    assert_eq!(bench.row(second.id.as_str())["duplicate"], 1);
    bench.claim().await;
    assert_eq!(bench.claim().await.id, second.id);
}

#[tokio::test]
async fn a_refusal_is_a_failed_row_with_its_bytes() {
    let bench = Bench::new();
    let refusal = Refusal {
        id: JobId::new("bad"),
        error_type: "InvalidPayloadError".into(),
        error: "not JSON".into(),
        experiment_id: None,
        task_type: None,
        target: None,
    };
    let refused = |payload: &[u8]| Arrival {
        receipt: None,
        source: Source::Queue,
        payload: payload.into(),
        job: Err(Box::new(refusal.clone())),
    };
    let accepted =
        bench.ledger.accept(vec![refused(b"nonsense"), refused(b"\xff\xfe")]).await.unwrap();
    let row = bench.row("bad");
    assert_eq!((&row["status"], &row["payload"]), (&"FAILED".into(), &"nonsense".into()));
    let second = bench.row(accepted[1].id.as_str());
    assert_eq!(second["payload"], serde_json::json!({"base64": "//4="}));
    assert_eq!(second["duplicate_of"], "bad");
    let retried = bench.ledger.retry(JobId::new("bad").unwrap()).await.unwrap();
    assert_eq!(retried, Retried::NotAJob);
}

#[tokio::test]
async fn cancel_and_retry_steer_by_status() {
    let mut bench = Bench::new();
    let id = JobId::new("a").unwrap();
    assert_eq!(bench.ledger.cancel(id.clone()).await.unwrap(), Cancelled::Unknown);
    bench.accept(job("a")).await;
    assert_eq!(bench.ledger.cancel(id.clone()).await.unwrap(), Cancelled::Waiting);
    assert_eq!(bench.row("a")["error_type"], "CancelledError");
    let ended = bench.ledger.cancel(id.clone()).await.unwrap();
    assert_eq!(ended, Cancelled::Ended(Status::Failed));
    assert_eq!(bench.ledger.retry_failed().await.unwrap(), 1);
    let claim = bench.claim().await;
    assert_eq!(claim.id, id);
    assert_eq!(bench.ledger.cancel(id.clone()).await.unwrap(), Cancelled::Running);
    let retried = bench.ledger.retry(id).await.unwrap();
    assert_eq!(retried, Retried::NotFailed(Status::Running));
}
