//! The loop's decisions, fed with events by hand: no process, no ledger.

use super::*;
use crate::clock;
use crate::job::{RetryOn, Source, Target};

fn claim(id: &str) -> Claim {
    Claim {
        seq: 1,
        id: JobId::new(id).unwrap(),
        source: Source::Queue,
        target: Some(Target::Tool("example_tool".into())),
        parameters: serde_json::value::to_raw_value(&serde_json::json!({})).unwrap(),
        task_type: None,
        experiment_id: None,
        run_id: None,
        attempt: 1,
        failures: 0,
        max_attempts: 3,
        retry_on: RetryOn::All,
        timeout: Duration::from_secs(1),
        created_at: clock::now(),
        claimed_at: clock::now(),
    }
}

fn serving() -> State {
    State::new(ShutdownPlan::new(Duration::from_secs(8), Duration::from_secs(2)))
}

fn start(state: &mut State, id: &str) -> watch::Receiver<Stop> {
    match state.handle(Event::Claimed(claim(id)), Instant::now()) {
        Action::Start(_, stop) => stop,
        other => panic!("expected a start, got {other:?}"),
    }
}

fn cancel(id: &str) -> Event {
    Event::Cancel(Cancel { id: JobId::new(id).unwrap(), reply: oneshot::channel().0 })
}

#[test]
fn the_whole_exit_fits_into_the_grace() {
    for (grace, kill_grace) in [(8000, 2000), (1000, 2000), (100, 0), (30_000, 60_000)] {
        let grace = Duration::from_millis(grace);
        let plan = ShutdownPlan::new(grace, Duration::from_millis(kill_grace));
        assert!(plan.drain + plan.kill_grace < grace, "{plan:?}");
        assert!(plan.drain >= grace / 2, "{plan:?}");
    }
}

#[test]
fn the_first_signal_drains_the_second_kills() {
    let mut state = serving();
    let stop = start(&mut state, "a");
    let action = state.handle(Event::Signal(Signal::Terminate), Instant::now());
    assert!(matches!(action, Action::Drain(..)));
    assert_eq!(*stop.borrow(), Stop::No, "a draining run is left alone");
    let _ = state.handle(Event::Signal(Signal::Terminate), Instant::now());
    assert_eq!(*stop.borrow(), Stop::Kill);
    assert!(!state.drained(), "a killed run is waited for");
    let ended = Ended { id: JobId::new("a").unwrap(), asked_for_more: false };
    let _ = state.handle(Event::Ended(ended), Instant::now());
    assert!(!state.drained(), "the ledger may have claimed another");
    let _ = state.handle(Event::Withdrawn, Instant::now());
    assert!(state.drained());
}

#[test]
fn the_end_of_the_drain_stops_runs_and_never_lowers_a_reason() {
    let mut state = serving();
    let first = start(&mut state, "a");
    let second = start(&mut state, "b");
    let _ = state.handle(cancel("b"), Instant::now());
    let _ = state.handle(Event::Signal(Signal::Terminate), Instant::now());
    let _ = state.handle(Event::DrainOver, Instant::now());
    assert_eq!(*first.borrow(), Stop::Shutdown(Duration::from_secs(2)));
    assert_eq!(*second.borrow(), Stop::Cancel, "a cancel outranks a shutdown");
}

#[test]
fn a_claim_that_comes_while_draining_is_given_back() {
    let mut state = serving();
    let _ = state.handle(Event::Signal(Signal::Interrupt), Instant::now());
    let action = state.handle(Event::Claimed(claim("late")), Instant::now());
    assert!(matches!(action, Action::GiveBack(_)));
    let _ = state.handle(Event::Withdrawn, Instant::now());
    assert!(!state.drained(), "it is RUNNING for the ledger");
    let _ = state.handle(Event::GivenBack, Instant::now());
    assert!(state.drained());
}

#[test]
fn an_ending_that_could_not_be_recorded_asks_for_a_successor() {
    let mut state = serving();
    let _stop = start(&mut state, "a");
    let id = JobId::new("a").unwrap();
    let action = state.handle(Event::Ended(Ended { id, asked_for_more: false }), Instant::now());
    assert!(matches!(action, Action::Demand));
}

#[test]
fn a_cancel_stops_a_running_job_and_asks_the_ledger_about_others() {
    let mut state = serving();
    let stop = start(&mut state, "a");
    assert!(matches!(
        state.handle(cancel("a"), Instant::now()),
        Action::Answer(_, Ok(Cancelled::Running))
    ));
    assert_eq!(*stop.borrow(), Stop::Cancel);
    assert!(matches!(state.handle(cancel("b"), Instant::now()), Action::AskLedger(_)));
}

#[test]
fn a_job_that_began_to_run_while_the_ledger_was_asked_is_stopped() {
    let mut state = serving();
    let Event::Cancel(pending) = cancel("a") else { unreachable!() };
    let stop = start(&mut state, "a");
    let action =
        state.handle(Event::CancelAnswered(pending, Ok(Cancelled::Running)), Instant::now());
    assert!(matches!(action, Action::Answer(_, Ok(Cancelled::Running))));
    assert_eq!(*stop.borrow(), Stop::Cancel);
}
