//! Limits are of the whole tree, whoever runs it: each case goes over its limit only in the sum of several
//! processes, in sessions of their own, of which some are gone already.

use serde_json::{Value, json};

use crate::support::{Bench, noted, text};

/// Target, parameters, `error_type`, part of the sentence.
type Case = (&'static str, Value, &'static str, &'static str);

fn check(method: &str, user: impl Fn(&mut Bench)) {
    let settings = [
        ("CONCURRENCY", "3"),
        ("KILL_GRACE", "200ms"),
        ("LIMIT_MEMORY_MB", "80"),
        ("LIMIT_CPU_SECONDS", "1"),
        ("LIMIT_PROCESSES", "8"),
    ];
    let mut bench = Bench::new(method, &settings);
    user(&mut bench);
    bench.executor.serve();
    let path = |name: &str| bench.path(name);
    let storm = |name: &str, mark| json!({"path": path(name), "mark": mark, "end": "hang"});
    let cases: [Case; 5] = [
        (
            "bad:eats_memory_in_daemons",
            json!({"mb": 30, "daemons": 4}),
            "MemoryLimitError",
            "allowed are 80 MiB",
        ),
        (
            "bad:burns_cpu_in_children",
            json!({"seconds": 0.4, "children": 5}),
            "CpuLimitError",
            "allowed are 1 s",
        ),
        ("bad:spawns_processes", json!({"n": 12}), "ProcessLimitError", "allowed are 8"),
        ("escapes:fork_bomb", storm("bomb", 77_001), "ProcessLimitError", "allowed are 8"),
        (
            "bad:eats_memory_in_children",
            json!({"mb": 30, "children": 4}),
            "MemoryLimitError",
            "allowed are 80 MiB",
        ),
    ];
    for (target, parameters, error_type, error) in cases {
        let row = bench.run(
            target,
            &format!("tasks.{target}"),
            parameters,
            json!({"timeout_seconds": 25}),
        );
        assert_eq!(row["error_type"], error_type, "{method} {row:#?}");
        assert!(text(&row, "error").contains(error), "{method} {row:#?}");
        assert!(!text(&row, "traceback").is_empty(), "{method} {row:#?}");
    }
    let left: Vec<_> = noted(&bench.path("bomb")).into_iter().filter(|one| one.alive()).collect();
    assert!(left.is_empty(), "{method}: {left:?} outlived the limit");
    // Below every limit all is well.
    assert_eq!(bench.value("small", "tasks.bad:eats_memory", json!({"mb": 20})), 20);
    // What forked children share with their parent counts once.
    let shares = json!({"mb": 40, "children": 5});
    assert_eq!(bench.value("shares", "tasks.bad:shares_memory", shares), 40);
}

#[test]
fn limits_hold_for_the_sum_of_a_tree() {
    check("forkserver", |_| {});
    check("spawn", |_| {});
}

#[test]
fn limits_hold_for_an_ordinary_user() {
    check("forkserver", |bench| {
        bench.executor.of_ordinary_user();
    });
    check("spawn", |bench| {
        bench.executor.of_ordinary_user();
    });
}
