//! Modules loaded ahead: learned from runs, named by the user, left out for a reason, never stale.

use std::time::Duration;

use serde_json::json;

use crate::support::{Bench, within};

/// A task that says whether it found a module loaded, before it imports it.
fn asks_for(bench: &Bench, module: &str) {
    let source = format!(
        "import sys\nHAD = {module:?} in sys.modules\nimport {module}\ndef run():\n    return HAD\n"
    );
    write(bench, "root/tasks/asks.py", &source);
}

fn write(bench: &Bench, path: &str, text: &str) {
    let path = bench.path(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn bench(preload: &str) -> Bench {
    let mut bench = Bench::new("forkserver", &[("PRELOAD_MODULES", preload)]);
    write(&bench, "root/tasks/__init__.py", "");
    let root = bench.path("root");
    bench.executor.set("TASKS_PATH", root.to_str().unwrap());
    bench
}

/// Runs the task until it answers `true`; how often it had to be asked.
fn asked_until_true(bench: &Bench, prefix: &str) -> usize {
    let mut asked = 0;
    within(Duration::from_secs(20), "a module to be loaded ahead", || {
        asked += 1;
        (bench.value(&format!("{prefix}-{asked}"), "tasks.asks:run", json!({})) == true)
            .then_some(())
    });
    asked
}

#[test]
fn what_a_run_imports_is_loaded_ahead_for_those_that_follow() {
    let mut bench = bench("stdlib");
    asks_for(&bench, "colorsys");
    bench.executor.serve();
    assert_eq!(bench.value("first", "tasks.asks:run", json!({})), false);
    asked_until_true(&bench, "then");
    let line = bench.executor.line("learned", |line| line["event"] == "preload_learned");
    assert!(line["modules"].as_str().unwrap().contains("colorsys"), "{line:?}");

    assert_eq!(bench.executor.terminate(), Some(0));
    bench.executor.serve();
    bench.executor.line("what was learned before", |line| line["event"] == "preload_learned");
    asked_until_true(&bench, "again");
}

#[test]
fn with_none_nothing_is() {
    let mut bench = bench("none");
    asks_for(&bench, "colorsys");
    bench.executor.serve();
    for n in 0..20 {
        assert_eq!(bench.value(&format!("j{n}"), "tasks.asks:run", json!({})), false);
    }
    assert_eq!(bench.executor.count("preload_learned"), 0);
}

#[test]
fn named_modules_are_there_for_the_first_run_and_faulty_ones_are_left_out_with_a_reason() {
    let mut bench = bench("tasks.shared, tasks.broken, tasks.busy, colorsys");
    write(&bench, "root/tasks/shared.py", "X = 1\n");
    write(&bench, "root/tasks/broken.py", "1 / 0\n");
    let busy = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n";
    write(&bench, "root/tasks/busy.py", busy);
    asks_for(&bench, "tasks.shared");
    bench.executor.serve();
    assert_eq!(bench.value("first", "tasks.asks:run", json!({})), true);
    for (module, reason) in
        [("tasks.broken", "ZeroDivisionError"), ("tasks.busy", "starts threads")]
    {
        let line = bench.executor.line(module, |line| line["module"] == module);
        assert_eq!(line["event"], "preload_left_out");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{line:?}");
    }
}

#[test]
fn an_edit_of_a_module_loaded_ahead_takes_effect_at_once_and_renews_the_slots() {
    let mut bench = bench("tasks.shared");
    write(&bench, "root/tasks/shared.py", "X = 1\n");
    let source = "import sys\nHAD = 'tasks.shared' in sys.modules\nfrom tasks.shared import X\ndef run():\n    return [X, HAD]\n";
    write(&bench, "root/tasks/asks.py", source);
    bench.executor.set("CONCURRENCY", "1"); // or the other slot may load it only after the edit
    bench.executor.serve();
    assert_eq!(bench.value("before", "tasks.asks:run", json!({})), json!([1, true]));
    write(&bench, "root/tasks/shared.py", "X = 22\n");
    assert_eq!(bench.value("at-once", "tasks.asks:run", json!({})), json!([22, false]));
    let mut asked = 0;
    within(Duration::from_secs(20), "slots with the new module", || {
        asked += 1;
        let value = bench.value(&format!("after-{asked}"), "tasks.asks:run", json!({}));
        assert_eq!(value[0], 22);
        (value[1] == true).then_some(())
    });
}

#[test]
fn runs_go_on_while_slots_are_renewed() {
    let mut bench = bench("stdlib");
    let source = "import time, colorsys, csv\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n";
    write(&bench, "root/tasks/works.py", source);
    bench.executor.serve();
    for n in 0..60 {
        bench.push(
            &format!("j{n}"),
            "tasks.works:run",
            json!({"seconds": 0.02 * f64::from(n % 5)}),
            json!({}),
        );
    }
    for n in 0..60 {
        let row = bench.executor.ended(&format!("j{n}"));
        assert_eq!(
            (row["status"].as_str(), row["attempts"].as_i64()),
            (Some("COMPLETED"), Some(1)),
            "{row:#?}"
        );
    }
    bench.executor.line("learned", |line| line["event"] == "preload_learned");
    assert_eq!(bench.executor.count("slot_replaced"), 0);
}
