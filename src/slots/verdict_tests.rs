//! The table of endings.

use super::*;

fn facts() -> Facts<'static> {
    Facts {
        word: None,
        exit: Some(Exit::Code(0)),
        ended: None,
        slot_lost: false,
        dump: "",
        log_tail: "",
        partial: None,
        timeout: Duration::from_secs(300),
        memory_limited: false,
        cpu_limited: false,
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn success() -> Option<Word> {
    Some(Word::Succeeded(Success { value: raw("1"), bytes: 1, truncated: false }))
}

fn failure(kind: Kind, error_type: &str) -> Option<Word> {
    Some(Word::Failed(Failed {
        kind,
        error_type: error_type.into(),
        error: "e".into(),
        traceback: "tb".into(),
        partial: None,
        transient: false,
    }))
}

fn failed(facts: Facts<'_>) -> Failure {
    match decide(facts) {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn success_is_a_result_and_a_clean_exit() {
    assert!(matches!(decide(Facts { word: success(), ..facts() }), Outcome::Succeeded(_)));
    let exit = Some(Exit::Code(3));
    let failure = failed(Facts { word: success(), exit, ..facts() });
    assert_eq!(failure.error, "left after its result (exit code 3)");
    let exit = Some(Exit::Signal(libc::SIGSEGV));
    let failure = failed(Facts { word: success(), exit, dump: "Fatal", ..facts() });
    assert_eq!((failure.cause, failure.traceback.as_str()), (Cause::Crashed, "Fatal"));
}

#[test]
fn what_we_did_weighs_more_than_what_it_said() {
    for (ended, cause, kind) in [
        (Ended::Timeout, Cause::TimedOut, "ToolTimeoutError"),
        (Ended::Cancel, Cause::Cancelled, "CancelledError"),
        (
            Ended::Limit(Breach { limit: Limit::Cpu, sentence: "s".into() }),
            Cause::Limit(Limit::Cpu),
            "CpuLimitError",
        ),
        (Ended::Protocol("x".into()), Cause::Crashed, "CrashedError"),
    ] {
        let failure = failed(Facts { word: success(), ended: Some(ended), ..facts() });
        assert_eq!((failure.cause, failure.error_type.as_str()), (cause, kind));
    }
}

#[test]
fn a_result_in_the_grace_of_a_shutdown_counts() {
    let ended = Some(Ended::Shutdown);
    assert!(matches!(
        decide(Facts { word: success(), ended: ended.clone(), ..facts() }),
        Outcome::Succeeded(_)
    ));
    let word = failure(Kind::Raised, "KeyboardInterrupt");
    assert_eq!(failed(Facts { word, ended: ended.clone(), ..facts() }).cause, Cause::Shutdown);
    let exit = Some(Exit::Signal(libc::SIGTERM));
    assert_eq!(failed(Facts { exit, ended, ..facts() }).cause, Cause::Shutdown);
}

#[test]
fn the_words_of_the_contract() {
    let cases: [(Facts<'_>, &str); 6] = [
        (
            Facts { exit: Some(Exit::Signal(9)), ..facts() },
            "killed from outside, perhaps out of memory",
        ),
        (Facts { exit: Some(Exit::Code(97)), ..facts() }, "the callable closed its descriptors"),
        (Facts { exit: Some(Exit::Code(7)), ..facts() }, "left without a result (exit code 7)"),
        (Facts { slot_lost: true, exit: None, ..facts() }, "its slot was killed under it"),
        (
            Facts { exit: Some(Exit::Signal(11)), ..facts() },
            "died by signal 11 (SIGSEGV) without a result",
        ),
        (Facts { ended: Some(Ended::Timeout), ..facts() }, "Tool execution exceeded 300s"),
    ];
    for (facts, error) in cases {
        assert_eq!(failed(facts).error, error);
    }
    let timeout = Duration::from_millis(500);
    let failure = failed(Facts { ended: Some(Ended::Timeout), timeout, ..facts() });
    assert_eq!(failure.error, "Tool execution exceeded 0.5s");
}

#[test]
fn a_failure_is_told_as_the_run_told_it() {
    let failure_of = |word| failed(Facts { word, ..facts() });
    assert_eq!(
        failure_of(failure(Kind::Raised, "KeyError")).cause,
        Cause::Raised { transient: false }
    );
    assert_eq!(failure_of(failure(Kind::Unfit, "ToolError")).cause, Cause::Unfit);
    assert_eq!(failure_of(failure(Kind::Exited, "CrashedError")).cause, Cause::Crashed);
    assert_eq!(failure_of(failure(Kind::Raised, "MemoryError")).error_type, "MemoryError");
    let limited = failed(Facts {
        word: failure(Kind::Raised, "MemoryError"),
        memory_limited: true,
        ..facts()
    });
    assert_eq!(
        (limited.cause, limited.error_type.as_str()),
        (Cause::Limit(Limit::Memory), "MemoryLimitError")
    );
}

#[test]
fn without_a_stack_the_last_output_stands_in() {
    let failure = failed(Facts { exit: Some(Exit::Code(1)), log_tail: "a\nb\n", ..facts() });
    assert!(failure.traceback.ends_with("The last output:\na\nb"), "{}", failure.traceback);
    let partial = Some(raw("{}"));
    let failure = failed(Facts { exit: Some(Exit::Code(1)), partial, ..facts() });
    assert_eq!(failure.partial_results.unwrap().get(), "{}");
    assert!(failure.traceback.ends_with("There was no output."));
}

#[test]
fn a_request_nobody_read_is_no_attempt() {
    let outcome = decide(Facts { exit: Some(Exit::Code(96)), ..facts() });
    assert!(matches!(outcome, Outcome::NotStarted(_)));
}
