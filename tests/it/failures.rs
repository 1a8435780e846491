//! Every way to fail, from the Redis list to the row: its `error_type`, its one line, and a traceback
//! that says why.

use serde_json::{Value, json};

use crate::support::{BOTH, Bench, eventually, has, text};

/// A job that must fail: target, parameters, `error_type`, what is in `error`, what in `traceback`.
type Case = (&'static str, Value, &'static str, &'static str, &'static [&'static str]);

fn cases() -> Vec<Case> {
    vec![
        (
            "tasks.bad:raises",
            json!({"message": "bang"}),
            "ValueError",
            "bang",
            &["bad.py", "in raises", "ValueError: bang"],
        ),
        (
            "tasks.bad:raises_chained",
            json!({}),
            "RuntimeError",
            "outer",
            &["KeyError: 'inner'", "direct cause", "RuntimeError: outer"],
        ),
        (
            "tasks.bad:raises_without_text",
            json!({}),
            "SilentError",
            "text cannot be had",
            &["bad.py"],
        ),
        ("tasks.bad:recurses", json!({}), "RecursionError", "recursion", &["in recurses"]),
        (
            "tasks.raises_at_import:run",
            json!({}),
            "RuntimeError",
            "this module does not load",
            &["raises_at_import.py"],
        ),
        (
            "tasks.absent:run",
            json!({}),
            "ToolNotFoundError",
            "Tool not found: tasks.absent",
            &["ToolNotFoundError"],
        ),
        (
            "absent_tool",
            json!({}),
            "ToolNotFoundError",
            "Tool not found: absent_tool",
            &["ToolNotFoundError"],
        ),
        (
            "tasks.good:absent",
            json!({}),
            "ToolError",
            "has no callable function",
            &["Define `absent`"],
        ),
        (
            "tasks.good:NeedsArguments.method",
            json!({}),
            "ToolError",
            "NeedsArguments cannot be made without arguments",
            &["missing a required argument: 'name'"],
        ),
        (
            "tasks.good:add",
            json!({}),
            "InvalidParametersError",
            "missing parameter 'a' (int)",
            &["InvalidParametersError"],
        ),
        (
            "tasks.good:add",
            json!({"a": 1, "z": 2}),
            "InvalidParametersError",
            "unexpected parameter 'z'",
            &["it takes a, b"],
        ),
        (
            "tasks.good:add",
            json!({"a": "1"}),
            "InvalidParametersError",
            "'a' must be int, not str",
            &["InvalidParametersError"],
        ),
        (
            "tasks.good:add",
            json!({"a": true}),
            "InvalidParametersError",
            "'a' must be int, not bool",
            &["InvalidParametersError"],
        ),
        (
            "tasks.reexports:system",
            json!({"command": "true"}),
            "ModuleNotAllowedError",
            "tasks.reexports:system",
            &["ModuleNotAllowedError"],
        ),
        (
            "tasks.bad:returns_unserialisable",
            json!({}),
            "ResultNotSerializableError",
            "Opaque",
            &["ResultNotSerializableError"],
        ),
        (
            "tasks.bad:returns_circular",
            json!({}),
            "ResultNotSerializableError",
            "contains itself",
            &["ResultNotSerializableError"],
        ),
        (
            "tasks.bad:segfaults",
            json!({}),
            "CrashedError",
            "signal 11 (SIGSEGV)",
            &["Segmentation fault", "in segfaults"],
        ),
        (
            "tasks.bad:aborts",
            json!({}),
            "CrashedError",
            "signal 6 (SIGABRT)",
            &["Aborted", "in aborts"],
        ),
        (
            "tasks.bad:kills_itself",
            json!({}),
            "CrashedError",
            "killed from outside, perhaps out of memory",
            &["No Python stack could be had", "no output"],
        ),
        (
            "tasks.bad:os_exits",
            json!({"code": 7}),
            "CrashedError",
            "left without a result (exit code 7)",
            &["No Python stack"],
        ),
        (
            "tasks.bad:sys_exits",
            json!({"code": 3}),
            "CrashedError",
            "sys.exit(3)",
            &["in sys_exits", "SystemExit: 3"],
        ),
        (
            "tasks.bad:sys_exits",
            json!({"code": "no"}),
            "CrashedError",
            "sys.exit('no')",
            &["in sys_exits"],
        ),
        (
            "tasks.bad:closes_all_fds",
            json!({}),
            "CrashedError",
            "the callable closed its descriptors",
            &["No Python stack"],
        ),
        (
            "tasks.bad:kills_parent",
            json!({}),
            "CrashedError",
            "its slot was killed under it",
            &["No Python stack"],
        ),
    ]
}

#[test]
fn every_failure_says_why() {
    for method in BOTH {
        let bench = Bench::start(method, &[]);
        let cases = cases();
        for (number, (target, parameters, ..)) in cases.iter().enumerate() {
            bench.push(&format!("f{number}"), target, parameters.clone(), json!({}));
        }
        for (number, (target, parameters, error_type, error, traceback)) in cases.iter().enumerate()
        {
            let id = format!("f{number}");
            let row = bench.executor.ended(&id);
            let seen = format!("{method} {target} {parameters}: {row:#?}");
            assert_eq!(row["status"], "FAILED", "{seen}");
            assert_eq!(row["error_type"], *error_type, "{seen}");
            assert!(
                text(&row, "error").contains(error) && !text(&row, "error").contains('\n'),
                "{seen}"
            );
            for part in *traceback {
                assert!(text(&row, "traceback").contains(part), "{part}: {seen}");
            }
            assert_eq!((&row["attempts"], &row["failures"]), (&json!(1), &json!(1)), "{seen}");
            let attempt = bench.attempt(&id);
            for column in ["error_type", "error", "traceback"] {
                assert_eq!(attempt[column], row[column], "{seen}");
            }
            assert_eq!(attempt["start_method"], method);
            let line = bench
                .executor
                .line(&id, |line| has(line, "event", "job_failed") && has(line, "job_id", &id));
            assert_eq!(line["traceback"], row["traceback"], "{seen}");
        }
        // None of it has hurt the slots.
        assert_eq!(bench.value("after", "tasks.good:add", json!({"a": 1})), 2);
    }
}

#[test]
fn what_may_look_like_a_failure_is_none() {
    for method in BOTH {
        let bench = Bench::start(method, &[]);
        for (number, (target, parameters, result)) in [
            ("tasks.bad:sys_exits", json!({"code": 0}), json!(null)),
            ("tasks.bad:sys_exits", json!({}), json!(null)),
            ("tasks.bad:closes_streams", json!({}), json!("closed")),
            ("tasks.bad:patches_modules", json!({}), json!("patched")),
            ("tasks.bad:changes_process_state", json!({}), json!("changed")),
            ("tasks.bad:prints_frames", json!({}), json!("honest")),
            ("tasks.bad:prints_at_exit", json!({}), json!("registered")),
            ("tasks.good:add", json!({"a": 1, "b": 2}), json!(3)),
            ("tasks.good.Service.method", json!({"suffix": "!"}), json!("instance!")),
            ("tasks.good:Service.static", json!({"value": 4}), json!(4)),
            ("tasks.good:Derived.of_class", json!({}), json!("hello")),
            ("tasks.good:awaits", json!({}), json!("awaited")),
            ("tasks.good:generates", json!({"count": 3}), json!([0, 1, 2])),
            ("tasks.good:generates_async", json!({"count": 2}), json!([0, 1])),
        ]
        .into_iter()
        .enumerate()
        {
            let id = format!("s{number}");
            assert_eq!(bench.value(&id, target, parameters), result, "{method} {target}");
            assert_eq!(bench.attempt(&id)["exit_code"], 0);
        }
    }
}

#[test]
fn a_timeout_tells_where_the_callable_was() {
    for method in BOTH {
        let bench = Bench::start(method, &[("CONCURRENCY", "7"), ("KILL_GRACE", "200ms")]);
        let hanging = [
            ("hangs", "in _sleep_for_ever"),
            ("hangs_in_c", "in hangs_in_c"),
            ("spins", "in spins"),
            ("tells_its_stack_slowly", "in the_end"),
            ("ignores_sigterm", "No Python stack"),
            ("stops_itself", "in stops_itself"),
            ("thread_never_ends", "in _sleep_for_ever"),
        ];
        for (name, _) in hanging {
            bench.push(
                name,
                &format!("tasks.bad:{name}"),
                json!({}),
                json!({"timeout_seconds": 1}),
            );
        }
        for (name, place) in hanging {
            let row = bench.executor.ended(name);
            assert_eq!(row["error_type"], "ToolTimeoutError", "{row:#?}");
            assert_eq!(row["error"], "Tool execution exceeded 1s");
            assert!(text(&row, "traceback").contains(place), "{method} {row:#?}");
            assert_eq!(bench.attempt(name)["outcome"], "timed_out");
        }
    }
}

#[test]
fn a_run_killed_from_outside_says_so() {
    let bench = Bench::start("forkserver", &[]);
    let started = bench.path("started");
    bench.push(
        "victim",
        "tasks.good:waits_for",
        json!({"path": "/nonexistent/x", "started": started}),
        json!({}),
    );
    let pid = eventually("the run", || {
        std::fs::read_to_string(&started).ok()?.trim().parse::<i32>().ok()
    });
    eventually("its pid in the ledger", || (bench.attempt("victim")["pid"] == pid).then_some(()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let row = bench.executor.ended("victim");
    assert_eq!(row["error_type"], "CrashedError");
    assert_eq!(row["error"], "killed from outside, perhaps out of memory");
    assert_eq!(bench.attempt("victim")["signal"], 9);
}

#[test]
fn what_was_achieved_before_a_failure_is_kept() {
    let bench = Bench::start("forkserver", &[("KILL_GRACE", "200ms")]);
    let row = bench.run("raised", "tasks.bad:raises_with_partial_results", json!({}), json!({}));
    assert_eq!(row["error_type"], "WithPartialResultsError");
    assert_eq!(row["partial_results"], r#"{"emails_sent":50}"#);
    for (id, end) in [("late", "hang"), ("dead", "segfault"), ("left", "leave"), ("fell", "raise")]
    {
        let row =
            bench.run(id, "tasks.bad:achieves", json!({"end": end}), json!({"timeout_seconds": 1}));
        assert_eq!(row["status"], "FAILED");
        assert_eq!(row["partial_results"], r#"{"emails_sent":7}"#, "{row:#?}");
    }
    let row = bench.run("fine", "tasks.good:reports", json!({}), json!({}));
    assert_eq!((&row["status"], &row["partial_results"]), (&json!("COMPLETED"), &json!(null)));
}

#[test]
fn limits_have_names_of_their_own() {
    for method in BOTH {
        let bench = Bench::start(
            method,
            &[
                ("LIMIT_MEMORY_MB", "80"),
                ("LIMIT_CPU_SECONDS", "1"),
                ("LIMIT_PROCESSES", "4"),
                ("LIMIT_OPEN_FILES", "64"),
                ("LIMIT_FILE_SIZE_MB", "1"),
                ("KILL_GRACE", "200ms"),
            ],
        );
        let big = bench.path("big");
        let cases = [
            (
                "eats_memory",
                json!({"mb": 100, "hold_seconds": 30}),
                "MemoryLimitError",
                "allowed are 80 MiB",
            ),
            (
                "eats_memory_in_children",
                json!({"mb": 40, "children": 3}),
                "MemoryLimitError",
                "allowed are 80 MiB",
            ),
            ("eats_memory_at_once", json!({"mb": 4096}), "MemoryLimitError", ""),
            ("burns_cpu", json!({"seconds": 60}), "CpuLimitError", "allowed are 1 s"),
            ("spawns_processes", json!({"n": 6}), "ProcessLimitError", "allowed are 4"),
            ("opens_files", json!({"n": 100}), "OSError", "Too many open files"),
            ("writes_file", json!({"path": big, "size": 2 << 20}), "OSError", "File too large"),
        ];
        for (name, parameters, ..) in &cases {
            bench.push(
                name,
                &format!("tasks.bad:{name}"),
                parameters.clone(),
                json!({"timeout_seconds": 25}),
            );
        }
        for (name, _, error_type, error) in &cases {
            let row = bench.executor.ended(name);
            assert_eq!(row["error_type"], *error_type, "{method} {name} {row:#?}");
            assert!(text(&row, "error").contains(error), "{method} {name} {row:#?}");
            assert!(text(&row, "traceback").contains("bad.py"), "{method} {name} {row:#?}");
        }
        let memory = bench.attempt("eats_memory");
        assert!(memory["max_rss_bytes"].as_i64().unwrap() > 80 << 20, "{memory:#?}");
        assert!(bench.attempt("burns_cpu")["cpu_seconds"].as_f64().unwrap() > 1.0);
        // Well below the limits all is well, and accounted for.
        assert_eq!(bench.value("small", "tasks.bad:eats_memory", json!({"mb": 20})), 20);
        let small = bench.attempt("small")["max_rss_bytes"].as_i64().unwrap();
        // The kernel counts pages for each CPU apart and adds them up now and then.
        assert!((19 << 20..60 << 20).contains(&small), "{small}");
    }
}
