//! The soak: one executor, every kind of ending mixed, and nothing that grows. `SOAK_RUNS` says how many runs
//! (`make soak RUNS=100000`).

#![expect(clippy::print_stdout, reason = "the numbers are read by people")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Bench, Drained, eventually, status, text};

/// What a run of one kind comes to: `COMPLETED`, or its `error_type`.
struct Kind {
    share: usize,
    target: &'static str,
    parameters: fn() -> Value,
    more: fn() -> Value,
    outcome: &'static str,
}

const fn kind(
    share: usize,
    target: &'static str,
    parameters: fn() -> Value,
    outcome: &'static str,
) -> Kind {
    Kind { share, target, parameters, more: nothing, outcome }
}

fn nothing() -> Value {
    json!({})
}

/// Of a hundred runs.
const MIX: &[Kind] = &[
    kind(45, "good:noop", nothing, "COMPLETED"),
    kind(4, "good:writes_everywhere", nothing, "COMPLETED"),
    kind(4, "good:generates_async", || json!({"count": 20}), "COMPLETED"),
    kind(4, "bad:returns_big", || json!({"size": 1_000_000}), "COMPLETED"),
    kind(5, "bad:floods", || json!({"size": 1 << 20}), "COMPLETED"),
    kind(6, "bad:leaves_children", || json!({"n": 4}), "COMPLETED"),
    kind(8, "bad:raises", nothing, "ValueError"),
    kind(2, "bad:raises_chained", nothing, "RuntimeError"),
    kind(2, "absent:run", nothing, "ToolNotFoundError"),
    kind(2, "bad:returns_unserialisable", nothing, "ResultNotSerializableError"),
    kind(3, "bad:segfaults", nothing, "CrashedError"),
    kind(3, "bad:os_exits", || json!({"code": 3}), "CrashedError"),
    kind(1, "bad:aborts", nothing, "CrashedError"),
    kind(1, "bad:kills_parent", nothing, "CrashedError"),
    kind(1, "bad:closes_all_fds", nothing, "CrashedError"),
    kind(2, "bad:eats_memory_at_once", || json!({"mb": 4096}), "MemoryLimitError"),
    kind(1, "bad:eats_memory", || json!({"mb": 150, "hold_seconds": 30}), "MemoryLimitError"),
    Kind {
        more: || json!({"max_attempts": 2}),
        ..kind(4, "bad:raises_transient", nothing, "ConnectionResetError")
    },
    Kind {
        more: || json!({"timeout_seconds": 0.2}),
        ..kind(1, "bad:hangs", nothing, "ToolTimeoutError")
    },
    Kind {
        more: || json!({"timeout_seconds": 0.3}),
        ..kind(1, "bad:ignores_sigterm", nothing, "ToolTimeoutError")
    },
];

/// The kinds in an order that mixes them.
fn mix() -> Vec<&'static Kind> {
    let all: Vec<&Kind> =
        MIX.iter().flat_map(|kind| std::iter::repeat_n(kind, kind.share)).collect();
    assert_eq!(all.len(), 100);
    (0..100).map(|n| all[n * 37 % 100]).collect()
}

/// One look at the executor and its slots.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    finished: u64,
    rss: u64,
    descriptors: u64,
    threads: u64,
    zombies: u64,
    slots_rss: u64,
    slots_descriptors: u64,
    wal: u64,
}

/// The executor at work.
struct Soaked {
    bench: Bench,
    executor: Drained,
}

impl Soaked {
    fn start() -> Self {
        let settings = [
            ("CONCURRENCY", "4"),
            ("KILL_GRACE", "100ms"),
            ("RETRY_BACKOFF_MIN", "50ms"),
            ("RETRY_BACKOFF_MAX", "100ms"),
            ("LIMIT_MEMORY_MB", "100"),
            ("LOG_TAIL_BYTES", "2000"),
            // Slots that learn grow at the beginning, which in a short soak is a large part of it.
            ("PRELOAD_MODULES", if runs() > 10_000 { "stdlib" } else { "none" }),
        ];
        let bench = Bench::new("forkserver", &settings);
        Self { executor: Drained::serve(&bench), bench }
    }

    fn finished(&self) -> u64 {
        let rows = self
            .bench
            .executor
            .rows("SELECT COUNT(*) AS n FROM jobs WHERE status IN ('COMPLETED', 'FAILED')");
        rows.first().and_then(|row| row["n"].as_u64()).unwrap_or(0)
    }

    fn sample(&self) -> Sample {
        let pid = self.executor.pid();
        let children = children(pid);
        let wal = self.bench.path("ledger.db-wal");
        let zombies =
            children.iter().flat_map(|child| children_states(*child)).chain(children_states(pid));
        Sample {
            finished: self.finished(),
            rss: status(pid, "VmRSS"),
            descriptors: descriptors(pid),
            threads: status(pid, "Threads"),
            zombies: zombies.filter(|state| *state == 'Z').count() as u64,
            slots_rss: children.iter().map(|child| status(*child, "VmRSS")).sum(),
            slots_descriptors: children.iter().map(|child| descriptors(*child)).sum(),
            wal: std::fs::metadata(wal).map_or(0, |meta| meta.len() >> 10),
        }
    }

    /// Pushes jobs `from` to `to`.
    fn push(&self, mix: &[&Kind], from: usize, to: usize) {
        let payloads: Vec<Vec<u8>> = (from..to)
            .map(|n| {
                let kind = mix[n % 100];
                let mut payload = json!({
                    "job_id": format!("s{n}"), "task_type": "event", "max_attempts": 1, "priority": 3,
                    "target": format!("tasks.{}", kind.target), "parameters": (kind.parameters)(),
                });
                payload.as_object_mut().unwrap().extend((kind.more)().as_object().unwrap().clone());
                payload.to_string().into_bytes()
            })
            .collect();
        self.bench.redis.push_all(payloads.iter().map(Vec::as_slice));
    }

    /// A run that is cancelled while it hangs.
    fn cancel(&self, number: usize) {
        let id = format!("c{number}");
        self.bench.push(
            &id,
            "tasks.bad:hangs",
            json!({}),
            json!({"timeout_seconds": 600, "priority": 9}),
        );
        self.bench.executor.until(&id, "RUNNING");
        let output = self.bench.executor.output(&["job", "cancel", &id]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.bench.executor.ended(&id)["error_type"], "CancelledError");
    }
}

fn descriptors(pid: i64) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64)
}

fn children(pid: i64) -> Vec<i64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    texts
        .flat_map(|text| {
            text.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

fn children_states(pid: i64) -> Vec<char> {
    let state = |pid: i64| {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()?
            .rsplit_once(") ")?
            .1
            .chars()
            .next()
    };
    children(pid).into_iter().filter_map(state).collect()
}

fn runs() -> usize {
    std::env::var("SOAK_RUNS").ok().map_or(1000, |runs| runs.parse().unwrap())
}

#[test]
fn nothing_grows_whatever_runs_come_to() {
    let (runs, mix, soaked) = (runs(), mix(), Soaked::start());
    let begun = Instant::now();
    let pause = Duration::from_millis(if runs > 10_000 { 2000 } else { 200 });
    let (mut pushed, mut cancelled, mut samples) = (0, 0, Vec::new());
    while soaked.finished() < (runs + cancelled) as u64 {
        let sample = soaked.sample();
        if pushed < runs && sample.finished + 1000 > pushed as u64 {
            let to = runs.min(pushed + 1000);
            soaked.push(&mix, pushed, to);
            pushed = to;
        }
        if samples.len() % 10 == 5 {
            soaked.cancel(cancelled);
            cancelled += 1;
        }
        samples.push(sample);
        if samples.len() % 10 == 1 {
            println!("{:.0} s {sample:?}", begun.elapsed().as_secs_f64());
        }
        std::thread::sleep(pause);
    }
    let taken = begun.elapsed().as_secs_f64();
    check_outcomes(&soaked, &mix, runs);
    // At rest nothing is left over.
    let rest = eventually("the slots to be at rest", || {
        Some(soaked.sample()).filter(|sample| sample.zombies == 0)
    });
    println!(
        "{runs} runs and {cancelled} cancelled in {taken:.0} s, {:.0} runs/s; at rest {rest:?}",
        runs as f64 / taken
    );
    check_flat(&samples);
}

/// Every run came to what its kind comes to.
fn check_outcomes(soaked: &Soaked, mix: &[&Kind], runs: usize) {
    let mut want: BTreeMap<&str, u64> = BTreeMap::new();
    for n in 0..runs {
        *want.entry(mix[n % 100].outcome).or_default() += 1;
    }
    let sql = "SELECT COALESCE(error_type, status) AS outcome, COUNT(*) AS n FROM jobs WHERE id LIKE 's%' GROUP BY 1";
    let rows = soaked.bench.executor.rows(sql);
    let seen: BTreeMap<&str, u64> =
        rows.iter().map(|row| (text(row, "outcome"), row["n"].as_u64().unwrap())).collect();
    println!("{seen:?}");
    let rows = soaked.bench.executor.rows(
        "SELECT id, method_name, COALESCE(error_type, status) AS outcome, error, finished_at FROM jobs WHERE id LIKE 's%'",
    );
    let odd = rows.iter().filter(|row| {
        let n: usize = text(row, "id").trim_start_matches('s').parse().unwrap();
        text(row, "outcome") != mix[n % 100].outcome
    });
    odd.for_each(|row| println!("not what it should be: {row:?}"));
    assert_eq!(seen, want);
}

/// Medians of the second and the last fifth of the time: not more than 5 % (and a few, where few are usual) apart.
fn check_flat(samples: &[Sample]) {
    let fifth = samples.len() / 5;
    assert!(fifth > 2, "too few samples: {}", samples.len());
    let (early, late) = (&samples[fifth..2 * fifth], &samples[samples.len() - fifth..]);
    type Part = (&'static str, fn(&Sample) -> u64, u64);
    let parts: [Part; 6] = [
        ("resident memory of the executor, KiB", |s| s.rss, 2048),
        ("its descriptors", |s| s.descriptors, 8),
        ("its threads", |s| s.threads, 4),
        ("zombies", |s| s.zombies, 4),
        ("resident memory of the slots, KiB", |s| s.slots_rss, 4096),
        ("descriptors of the slots", |s| s.slots_descriptors, 8),
    ];
    for (name, part, spare) in parts {
        let (early, late) = (median(early, part), median(late, part));
        let most = samples.iter().map(part).max().unwrap();
        println!("{name}: second fifth {early}, last fifth {late}, most {most}");
        assert!(late <= early + early / 20 + spare, "{name} grew from {early} to {late}");
    }
    let wal = samples.iter().map(|sample| sample.wal).max().unwrap();
    println!("write-ahead log, KiB: most {wal}");
    assert!(wal < 64 << 10, "the write-ahead log grew to {wal} KiB");
}

fn median(samples: &[Sample], part: fn(&Sample) -> u64) -> u64 {
    let mut all: Vec<u64> = samples.iter().map(part).collect();
    all.sort_unstable();
    all[all.len() / 2]
}
