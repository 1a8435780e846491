//! A slot that cannot be cleaned: a process of its run waits for a device and does not die, SIGKILL or not.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::support::{Bench, PATIENCE, eventually, fixtures, has};

/// The mounted file system that never answers; unmounted at the end.
struct HangingFs(Child);

impl HangingFs {
    /// `None` where it cannot be mounted: that takes root and FUSE.
    fn mount(directory: &PathBuf) -> Option<Self> {
        std::fs::create_dir(directory).unwrap();
        let mut command = Command::new("python3");
        command.arg(fixtures().join("hanging_fs.py")).arg(directory);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mounted = line == "mounted\n";
        if !mounted {
            child.wait().unwrap();
        }
        mounted.then_some(Self(child))
    }

    fn cut(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for HangingFs {
    fn drop(&mut self) {
        self.cut();
    }
}

#[test]
fn a_slot_that_cannot_be_cleaned_is_set_aside_and_said_to_be() {
    for method in ["spawn", "forkserver"] {
        let mut bench = Bench::start(
            method,
            &[("CONCURRENCY", "1"), ("KILL_GRACE", "100ms"), ("SHUTDOWN_GRACE", "3")],
        );
        let directory = bench.path("hanging");
        let Some(mut hanging) = HangingFs::mount(&directory) else {
            println!("no process can be made to wait for a device here: that takes root and FUSE");
            return;
        };
        let aside = |bench: &Bench| bench.executor.healthz().1["slots_set_aside"].as_i64().unwrap();
        assert_eq!(aside(&bench), 0);
        let row = bench.run(
            "stuck",
            "tasks.bad:looks_up",
            json!({"path": directory.join("x")}),
            json!({"timeout_seconds": 1}),
        );
        assert_eq!(row["error_type"], "ToolTimeoutError", "{row:#?}");
        // It is replaced at once, although it still lives.
        let begun = Instant::now();
        assert_eq!(bench.value("next", "tasks.good:add", json!({"a": 1})), 2);
        println!("{method}: the next run had ended {:?} after it", begun.elapsed());
        bench.executor.line("slot_set_aside", |line| has(line, "event", "slot_set_aside"));
        eventually("the board to tell it", || (aside(&bench) == 1).then_some(()));
        assert!(bench.executor.get("/metrics").1.contains("executor_slots_set_aside 1"));
        hanging.cut();
        bench.executor.line("slot_ended", |line| has(line, "event", "slot_ended"));
        eventually("the board to forget it", || (aside(&bench) == 0).then_some(()));
        drop(hanging);

        // Nor does it keep the executor from ending.
        let again = bench.path("again");
        let hanging = HangingFs::mount(&again).unwrap();
        bench.push(
            "stuck2",
            "tasks.bad:looks_up",
            json!({"path": again.join("x")}),
            json!({"timeout_seconds": 1}),
        );
        bench.executor.until("stuck2", "RUNNING");
        let begun = Instant::now();
        assert_eq!(bench.executor.terminate(), Some(0));
        println!("{method}: ended {:?} after SIGTERM", begun.elapsed());
        assert!(begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed());
        drop(hanging);
    }
}
