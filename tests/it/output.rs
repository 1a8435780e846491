//! What runs write: from the process that wrote it to a log line, to the tail in the ledger, and never in
//! anybody's way.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::{BOTH, Bench, eventually, has, median, text};

#[test]
fn everything_a_run_writes_becomes_a_log_line() {
    for method in BOTH {
        let bench = Bench::start(method, &[]);
        let row = bench.run("all", "tasks.good:writes_everywhere", json!({}), json!({}));
        assert_eq!(row["status"], "COMPLETED", "{row:#?}");
        let out = bench.output("all", "stdout");
        let err = bench.output("all", "stderr");
        for line in [
            "print out",
            "C out",
            "child out",
            "grandchild out",
            "raw out",
            "thread out",
            "at exit out",
        ] {
            assert_eq!(out.iter().filter(|text| *text == line).count(), 1, "{line}: {out:?}");
        }
        for line in ["print err", "child err", "warning err"] {
            assert!(err.iter().any(|text| text.contains(line)), "{line}: {err:?}");
        }
        let line = bench.executor.line("print out", |line| has(line, "line", "print out"));
        assert_eq!(
            (&line["job_id"], &line["attempt"], &line["stream"]),
            (&json!("all"), &json!(1), &json!("stdout"))
        );
        let attempt = bench.attempt("all");
        let tail = text(&attempt, "log_tail");
        for line in out.iter().chain(&err) {
            assert!(tail.contains(line.as_str()), "{line}: {tail}");
        }
        assert_eq!(attempt["log_bytes"], tail.len());
        // A second attempt bears its number.
        bench.run("twice", "tasks.bad:prints_and_raises", json!({}), json!({"max_attempts": 2}));
        let attempts: Vec<_> = bench
            .executor
            .lines()
            .into_iter()
            .filter(|l| has(l, "line", "about to raise"))
            .map(|l| l["attempt"].clone())
            .collect();
        assert_eq!(attempts, [json!(1), json!(2)]);
        let kept = bench.executor.attempts("twice");
        assert!(kept.iter().all(|attempt| attempt["log_tail"] == "about to raise\n"), "{kept:#?}");
    }
}

#[test]
fn lines_that_are_odd_are_made_even() {
    let bench = Bench::start("forkserver", &[("LOG_TAIL_BYTES", "1000")]);
    bench.value("bytes", "tasks.bad:prints_non_utf8", json!({}));
    assert_eq!(bench.output("bytes", "stdout"), ["caf\u{fffd} \u{fffd}\u{fffd}", "\u{fffd}"]);
    let row = bench.attempt("bytes");
    assert_eq!(
        (text(&row, "log_tail"), &row["log_bytes"]),
        ("caf\u{fffd} \u{fffd}\u{fffd}\n\u{fffd}", &json!(11))
    );
    bench.value("long", "tasks.bad:prints_long_line", json!({"size": 40_000}));
    let lengths: Vec<usize> = bench.output("long", "stdout").iter().map(String::len).collect();
    assert_eq!(lengths, [16384, 16384, 40_000 - 2 * 16384]);
    let row = bench.attempt("long");
    assert_eq!((text(&row, "log_tail").len(), &row["log_bytes"]), (1000, &json!(40_001)));
    assert!(text(&row, "log_tail").ends_with("y\n"));
    // What a failure without a stack ends with.
    let row = bench.run("last", "tasks.bad:prints_and_leaves", json!({}), json!({}));
    assert!(text(&row, "traceback").ends_with("The last output:\nlast words"), "{row:#?}");
}

/// An executor whose standard output the test reads itself, or does not.
struct Piped {
    child: Child,
    stdout: Option<ChildStdout>,
}

impl Piped {
    fn serve(bench: &Bench) -> Self {
        let mut command = bench.executor.command(&["serve"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take();
        Self { child, stdout }
    }

    fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    fn end(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        eventually("the executor to end", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_gigabyte_of_output_disturbs_nobody() {
    const SIZE: u64 = 1 << 30;
    let bench = Bench::new("forkserver", &[("CONCURRENCY", "2")]);
    let mut piped = Piped::serve(&bench);
    let (taken, flooded) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (bytes, mut stdout) = (Arc::clone(&taken), piped.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(n @ 1..) = stdout.read(&mut piece) {
            bytes.fetch_add(n as u64, Ordering::Relaxed);
        }
    });
    let alone =
        |when: &str| median((0..15).map(|n| bench.latency(&format!("{when}{n}"))).collect());
    let alone_before = alone("before");
    let before = piped.rss();
    let done = bench.path("done");
    bench.push(
        "flood",
        "tasks.bad:floods_from_child",
        json!({"size": SIZE, "line": 4000, "path": done}),
        json!({"timeout_seconds": 600}),
    );
    eventually("the flood to begin", || (taken.load(Ordering::Relaxed) > 10 << 20).then_some(()));
    let (mut beside, mut most) = (Vec::new(), 0);
    while !flooded.load(Ordering::Relaxed) {
        beside.push(bench.latency(&format!("beside{}", beside.len())));
        most = most.max(piped.rss());
        flooded
            .store(bench.executor.job("flood").unwrap()["status"] != "RUNNING", Ordering::Relaxed);
    }
    let count = beside.len();
    let beside = median(beside);
    let row = bench.executor.ended("flood");
    assert_eq!((&row["status"], &row["result"]), (&json!("COMPLETED"), &json!("0")), "{row:#?}");
    let attempt = bench.attempt("flood");
    assert_eq!(attempt["log_bytes"], SIZE);
    assert_eq!(text(&attempt, "log_tail").len(), 65536);
    // Other tests come and go on this machine: the worse of the two counts.
    let alone = alone_before.max(alone("after"));
    println!(
        "latency alone {alone:?}, beside the flood {beside:?} ({count}); memory {} KiB more",
        (most.saturating_sub(before)) >> 10
    );
    assert!(most.saturating_sub(before) < 32 << 20, "{before} {most}");
    assert!(
        beside < alone * 2 + Duration::from_millis(20),
        "alone {alone:?}, beside the flood {beside:?}"
    );
    assert_eq!(piped.end(), Some(0));
    reader.join().unwrap();
    assert!(taken.load(Ordering::Relaxed) > SIZE, "nothing was dropped");
}

#[test]
fn nobody_hangs_on_a_reader_of_logs_who_does_not_read() {
    for method in BOTH {
        let bench = Bench::new(method, &[("LOG_TAIL_BYTES", "100")]);
        let mut piped = Piped::serve(&bench);
        bench.push(
            "flood",
            "tasks.bad:floods",
            json!({"size": 30 << 20}),
            json!({"timeout_seconds": 25}),
        );
        bench.push("other", "tasks.good:noop", json!({}), json!({}));
        let row = bench.executor.ended("flood");
        assert_eq!(
            (&row["status"], &row["result"]),
            (&json!("COMPLETED"), &json!((30 << 20).to_string()))
        );
        assert_eq!(bench.executor.ended("other")["status"], "COMPLETED");
        let attempt = bench.attempt("flood");
        assert_eq!(
            (&attempt["log_bytes"], text(&attempt, "log_tail").len()),
            (&json!(30 << 20), 100)
        );
        // Read again: it says how much is missing, and the rest is whole lines of JSON.
        let (mut lines, mut missing) = (0, 0);
        let reader = BufReader::new(piped.stdout.take().unwrap());
        let collected = std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let row: serde_json::Value = serde_json::from_str(&line).unwrap();
                if row["event"] == "output" && row["job_id"] == "flood" {
                    lines += 1;
                } else if row["event"] == "output_dropped" {
                    missing += row["count"].as_i64().unwrap();
                }
            }
            (lines, missing)
        });
        assert_eq!(piped.end(), Some(0));
        let (lines, missing) = collected.join().unwrap();
        let all = (30i64 << 20) / 100 + 1;
        assert!(
            missing > 0 && (all..all + 10).contains(&(lines + missing)),
            "{lines} + {missing} of {all}"
        );
    }
}
