//! Floods of output, results and frames: the executor's memory stays as it is, and its other runs their pace.
//! `FLOOD_MB` says how much (`make escapes`: 1024).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{BOTH, Bench, Drained, PATIENCE, Row, median, status, text};

/// What the executor's memory may grow by, in KiB.
const ROOM: u64 = 32 << 10;

/// A function of `tasks/floods.py`, its parameters for a size, and what must come of it.
type Flood = (&'static str, fn(u64) -> Value, fn(&Row, &Row, u64));

fn size(size: u64) -> Value {
    json!({"size": size})
}

fn logged(row: &Row, attempt: &Row, size: u64) {
    assert_eq!((&row["status"], &row["result"]), (&json!("COMPLETED"), &json!("0")), "{row:#?}");
    assert_eq!(
        (&attempt["log_bytes"], text(attempt, "log_tail").chars().count() > 20_000),
        (&json!(size), true)
    );
}

const FLOODS: &[Flood] = &[
    ("stdout", size, logged),
    ("stderr", size, logged),
    ("one_line", size, logged),
    ("not_utf8", size, logged),
    ("text", size, |row, _, size| {
        assert_eq!(
            (&row["status"], &row["result_truncated"]),
            (&json!("COMPLETED"), &json!(1)),
            "{row:#?}"
        );
        assert_eq!(row["result_bytes"], size + 2);
        assert!(text(row, "result").starts_with("\"ttt") && text(row, "result").len() <= 10240);
    }),
    ("numbers", size, |row, _, _| {
        assert_eq!(
            (&row["status"], &row["result_truncated"]),
            (&json!("COMPLETED"), &json!(1)),
            "{row:#?}"
        );
    }),
    (
        "emits",
        |size| json!({"count": size / 1024}),
        |row, _, size| {
            assert_eq!(
                (&row["status"], text(row, "result")),
                (&json!("COMPLETED"), (size / 1024).to_string().as_str()),
                "{row:#?}"
            );
        },
    ),
    ("endless_frame", size, |row, _, _| {
        assert_eq!(row["error_type"], "CrashedError", "{row:#?}");
        assert!(text(row, "error").starts_with("what it sent is not the protocol"), "{row:#?}");
    }),
];

fn megabytes() -> u64 {
    std::env::var("FLOOD_MB").ok().map_or(24, |mb| mb.parse().unwrap())
}

#[test]
fn no_flood_reaches_the_executor_or_its_other_runs() {
    let size = megabytes() << 20;
    for method in BOTH {
        let bench = Bench::new(method, &[("CONCURRENCY", "2"), ("KILL_GRACE", "200ms")]);
        let executor = Drained::serve(&bench);
        let alone = |when: &str| {
            median((0..15).map(|n| bench.latency(&format!("{method}-{when}{n}"))).collect())
        };
        let before = alone("before");
        let memory = status(executor.pid(), "VmRSS");
        let mut most = memory;
        let mut beside = Vec::new();
        for (name, parameters, check) in FLOODS {
            let begun = Instant::now();
            bench.push(
                name,
                &format!("tasks.floods:{name}"),
                parameters(size),
                json!({"timeout_seconds": 600}),
            );
            let (mut own, first) = (0, beside.len());
            let row = loop {
                beside.push(bench.latency(&format!("{name}-beside{}", beside.len())));
                own = own.max(status(executor.pid(), "VmRSS"));
                let row = bench.executor.job(name).filter(|row| row["finished_at"].is_string());
                if let Some(row) = row {
                    break row;
                }
                assert!(begun.elapsed() < PATIENCE * 20, "{name} does not end");
            };
            most = most.max(own);
            println!(
                "{method} {name}: {:.1} s, memory {} KiB more, {} runs beside it, median {:?}",
                begun.elapsed().as_secs_f64(),
                own.saturating_sub(memory),
                beside.len() - first,
                median(beside[first..].to_vec()),
            );
            check(&row, &bench.attempt(name), size);
            assert!(own < memory + ROOM, "{method} {name}: {memory} KiB before, {own} KiB");
        }
        // Other tests come and go on this machine: the worse of the two counts.
        let alone = before.max(alone("after"));
        let beside = median(beside);
        println!(
            "{method}: {} MiB more at most, latency alone {alone:?}, beside {beside:?}, log {} MiB",
            (most - memory) >> 10,
            executor.taken() >> 20
        );
        assert!(
            beside < alone * 2 + Duration::from_millis(50),
            "alone {alone:?}, beside a flood {beside:?}"
        );
    }
}
