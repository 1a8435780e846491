//! The commands that need no running `serve`.

use std::process::{Output, Stdio};

use serde_json::Value;

use super::support::{Executor, eventually};

/// One with tools of its own.
fn with_tools(tools: &[(&str, &str)]) -> Executor {
    let mut executor = Executor::new(None);
    let directory = executor.dir.path().join("tools");
    std::fs::create_dir(&directory).unwrap();
    for (name, text) in tools {
        std::fs::write(directory.join(format!("{name}.py")), text).unwrap();
    }
    executor.set("TOOLS_PATH", directory.to_str().unwrap());
    executor
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn run_prints_the_result_alone_and_all_else_beside_it() {
    let executor = with_tools(&[(
        "add",
        "def add(a, b=2):\n    print('adding')\n    return {'sum': a + b}\n",
    )]);
    let output = executor.output(&["run", "add", "--params", r#"{"a": 40}"#]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result, serde_json::json!({"sum": 42}));
    let noted = stderr(&output);
    assert!(noted.contains("adding\n"), "{noted}");
    let verdict = noted.lines().last().unwrap();
    assert!(verdict.starts_with("COMPLETED in ") && verdict.ends_with(" MB"), "{verdict}");
    assert!(!executor.ledger_path().exists(), "run touched the ledger");
}

#[test]
fn run_exits_with_the_code_of_the_failure() {
    let executor = with_tools(&[
        ("fails", "def fails():\n    raise ValueError('boom')\n"),
        ("sleeps", "import time\ndef sleeps():\n    time.sleep(60)\n"),
        ("dies", "import os\ndef dies():\n    os.kill(os.getpid(), 9)\n"),
        ("exits", "import os\ndef exits():\n    os._exit(3)\n"),
    ]);
    for (words, code, says) in [
        (vec!["run", "fails"], 1, "FAILED ValueError: boom"),
        (vec!["run", "fails", "--params", r#"{"x": 1}"#], 2, "InvalidParametersError"),
        (vec!["run", "fails", "--params", "[1]"], 2, "it must be a JSON object"),
        (vec!["run", "missing"], 66, "ToolNotFoundError"),
        (vec!["run", "os.system"], 77, "ModuleNotAllowedError"),
        (vec!["run", "sleeps", "--timeout", "300ms"], 124, "ToolTimeoutError"),
        (vec!["run", "dies"], 137, "CrashedError"),
        (vec!["run", "exits"], 1, "CrashedError"),
        (vec!["run"], 2, "TARGET"),
        (vec!["fly"], 2, "fly"),
    ] {
        let output = executor.output(&words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        assert!(stderr(&output).contains(says), "{words:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{words:?}");
    }
}

#[test]
fn an_interrupted_run_takes_its_tree_along_and_leaves_no_directory() {
    let mut executor = with_tools(&[(
        "sleeps",
        "import os, time\ndef sleeps():\n    open('pid', 'w').write(f'{os.getpid()} ')\n    time.sleep(60)\n",
    )]);
    let temporary = executor.dir.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    executor.set("TMPDIR", temporary.to_str().unwrap());
    let mut command = executor.command(&["run", "sleeps"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid: i64 = eventually("the run's pid", || {
        let text = std::fs::read_to_string(executor.dir.path().join("pid")).ok()?;
        text.strip_suffix(' ')?.parse().ok()
    });
    let ours = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(ours, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(!super::support::alive(pid), "the run lives on");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "a directory is left behind");
}

#[test]
fn tools_are_listed_and_checked() {
    let executor = with_tools(&[
        (
            "good",
            "def good(a: int, b: str = 'x') -> int:\n    \"\"\"Adds up.\"\"\"\n    return a\n",
        ),
        ("faulty", "def faulty(:\n"),
        ("_hidden", "x = 1\n"),
    ]);
    let tools = executor.json(&["tool", "list", "--json"]);
    let names: Vec<_> = tools.as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, ["faulty", "good"]);
    assert_eq!(tools[1]["doc"], "Adds up.");
    let path = executor.dir.path().join("tools/good.py");
    for name in ["good", path.to_str().unwrap()] {
        let found = executor.json(&["tool", "check", name, "--json"]);
        assert_eq!(found["signature"], "(a: int, b: str = 'x') -> int", "{found}");
        assert_eq!(found["doc"], "Adds up.");
    }
    let output = executor.output(&["tool", "check", "faulty"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("SyntaxError"), "{}", stderr(&output));
}

#[test]
fn an_expression_is_tried() {
    let executor = Executor::new(None);
    let words = ["schedule", "test", "0 3 * * *", "--timezone", "America/Los_Angeles"];
    let from = ["--from", "2026-03-08T09:00:00Z", "-n", "2", "--json"];
    let found = executor.json(&[&words[..], &from[..]].concat());
    assert_eq!(
        found,
        serde_json::json!({"expression": "0 3 * * *", "timezone": "America/Los_Angeles",
            "next": ["2026-03-08T10:00:00Z", "2026-03-09T10:00:00Z"]})
    );
    for (expression, code, says) in [
        ("61 * * * *", 2, "61 is outside 0-59"),
        ("* *", 2, "it has 2 fields"),
        ("0 0 30 2 *", 1, "never fires"),
    ] {
        let output = executor.output(&["schedule", "test", expression]);
        assert_eq!(output.status.code(), Some(code), "{expression}: {output:?}");
        assert!(stderr(&output).contains(says), "{expression}: {}", stderr(&output));
    }
    let output = executor.output(&["schedule", "test", "@daily", "--timezone", "Mars/Base"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn schedules_of_the_configuration_are_listed() {
    let mut executor = Executor::new(None);
    executor.set("SCHEDULES", r#"[{"id": "nightly", "cron": "@daily", "job": {"target": "x"}}]"#);
    let found = executor.json(&["schedule", "list", "--json"]);
    assert_eq!(found[0]["id"], "nightly");
    assert!(found[0]["next"].as_str().unwrap().ends_with("T00:00:00Z"), "{found}");
}

#[test]
fn every_fault_of_the_configuration_is_told_by_every_command() {
    let mut executor = Executor::new(None);
    executor.set("CONCURRENCY", "none").set("TIMEZONE", "Mars/Base");
    for words in [&["serve"][..], &["job", "list"], &["doctor"], &["run", "x"]] {
        let output = executor.output(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        let noted = stderr(&output);
        assert!(noted.contains("CONCURRENCY") && noted.contains("Mars/Base"), "{words:?}: {noted}");
        assert_eq!(noted.matches("it must be ").count(), 2, "{words:?}: {noted}");
    }
    let output = executor.output(&["--config", "missing.yaml", "doctor"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn doctor_finds_what_keeps_serve_from_working_and_nothing_else() {
    let mut executor = Executor::new(None);
    let findings = executor.json(&["doctor", "--json"]);
    let findings = findings.as_array().unwrap();
    let names: Vec<_> = findings.iter().map(|f| f["check"].as_str().unwrap()).collect();
    for check in ["python", "ledger", "redis", "tasks", "tools", "limits", "isolation"] {
        assert!(names.contains(&check), "{check} in {names:?}");
    }
    assert!(findings.iter().all(|finding| finding["ok"] == true), "{findings:?}");
    assert!(!executor.ledger_path().exists(), "doctor made a ledger");
    executor.set("PYTHON", "no-such-python");
    let output = executor.output(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let findings: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let bad: Vec<_> =
        findings.as_array().unwrap().iter().filter(|finding| finding["ok"] == false).collect();
    assert!(bad.len() == 1 && bad[0]["check"] == "python", "{bad:?}");
}

#[test]
fn doctor_shows_settings_and_asks_for_health() {
    let mut executor = Executor::new(None);
    let settings = executor.json(&["doctor", "--settings"]);
    let line = settings.as_array().unwrap().iter().find(|l| l["key"] == "executor.concurrency");
    assert_eq!(line.unwrap()["origin"], "environment CONCURRENCY");
    executor.set("HTTP_ADDR", "127.0.0.1:1");
    assert_eq!(executor.output(&["doctor", "--health"]).status.code(), Some(1));
}

#[test]
fn a_job_is_handed_in_looked_at_and_steered_while_nobody_serves() {
    let executor = with_tools(&[("quick", "def quick():\n    return 1\n")]);
    assert_eq!(executor.json(&["job", "list", "--json"]), serde_json::json!([]));
    let output = executor.output(&["submit", "quick", "--params", r#"{"a": 1}"#]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    let id = text.trim();
    let row = executor.json(&["job", "show", id, "--json"]);
    assert_eq!((&row["status"], &row["source"]), (&"QUEUED".into(), &"cli".into()));
    assert_eq!(row["attempts"], serde_json::json!([]));
    assert_eq!(row["waits_for"]["kind"], "slot");
    let prefix = &id[..id.len() - 4];
    assert!(stdout(&executor.output(&["job", "show", prefix])).contains("it is the next"));
    assert_eq!(executor.output(&["job", "cancel", prefix]).status.code(), Some(0));
    assert_eq!(executor.job(id).unwrap()["error_type"], "CancelledError");
    assert_eq!(executor.output(&["job", "cancel", id]).status.code(), Some(1));
    assert_eq!(executor.output(&["job", "retry", "--failed"]).status.code(), Some(0));
    assert_eq!(executor.job(id).unwrap()["status"], "QUEUED");
    assert_eq!(executor.output(&["job", "retry", id]).status.code(), Some(1));
    assert_eq!(executor.output(&["job", "show", "nothing"]).status.code(), Some(1));
    let list = stdout(&executor.output(&["job", "list", "--status", "queued"]));
    assert!(list.lines().count() == 2 && list.contains(id), "{list}");
}

#[test]
fn submit_refuses_at_once_what_would_be_refused_later() {
    let executor = Executor::new(None);
    for (words, code) in [
        (&["submit", "os.system"][..], 77),
        (&["submit", "x", "--task-type", "urgent"], 2),
        (&["submit", "x", "--params", "{"], 2),
        (&["submit", "x", "--priority", "11"], 2),
    ] {
        let output = executor.output(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        assert_eq!(stdout(&output), "", "{words:?}");
    }
    let output = executor.output(&["submit", "x", "--wait"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("until `executor serve` is started"), "{output:?}");
    assert_eq!(executor.rows("SELECT id FROM jobs").len(), 1);
}

#[test]
fn completions_and_help_need_no_configuration() {
    let mut executor = Executor::new(None);
    executor.set("CONCURRENCY", "none");
    let output = executor.output(&["completions", "bash"]);
    assert!(output.status.success() && stdout(&output).contains("complete "), "{output:?}");
    for words in [&["--help"][..], &["run", "--help"], &["job", "logs", "--help"]] {
        assert_eq!(executor.output(words).status.code(), Some(0), "{words:?}");
    }
}
