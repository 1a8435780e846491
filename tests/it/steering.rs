//! Commands beside a running `serve`: submit and wait, follow output, cancel, retry.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::{Executor, RedisServer, eventually};

/// A tool that says something, waits until it is told to go on, and says something more.
const TALKS: &str = "import pathlib, time

from executor_shim import progress

def talks(go):
    progress(1, 2)
    print('first')
    while not pathlib.Path(go).exists():
        time.sleep(0.01)
    print('last')
    return {'said': 2}
";

fn serving(redis: Option<&RedisServer>) -> Executor {
    let mut executor = Executor::new(redis);
    let tools = executor.dir.path().join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    std::fs::write(tools.join("talks.py"), TALKS).unwrap();
    std::fs::write(tools.join("adds.py"), "def adds(a, b):\n    return a + b\n").unwrap();
    executor.set("TOOLS_PATH", tools.to_str().unwrap());
    executor.serve();
    executor
}

fn talk(executor: &Executor) -> (String, std::path::PathBuf) {
    let go = executor.dir.path().join("go");
    let params = serde_json::json!({"go": go}).to_string();
    let output = executor.output(&["submit", "talks", "--params", &params]);
    assert!(output.status.success(), "{output:?}");
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    executor.until(&id, "RUNNING");
    (id, go)
}

#[test]
fn submit_waits_for_the_result_with_and_without_redis() {
    let redis = RedisServer::start();
    for redis in [Some(&redis), None] {
        let executor = serving(redis);
        let words = ["submit", "adds", "--wait", "--params"];
        let output = executor.output(&[&words[..], &[r#"{"a": 1, "b": 2}"#]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n");
        let output = executor.output(&[&words[..], &[r#"{"a": 1}"#]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("InvalidParametersError"), "{told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn one_word_of_progress_at_the_very_start_is_told() {
    let redis = RedisServer::start();
    let executor = serving(Some(&redis));
    let (id, go) = talk(&executor);
    let key = format!("executor:job:{id}");
    let progress = || redis.run::<Option<String>>(&["HGET", &key, "progress"]);
    let told = eventually("the progress", progress);
    assert_eq!(told, r#"{"done":1.0,"total":2.0}"#);
    std::fs::write(go, "").unwrap();
    executor.until(&id, "COMPLETED");
    eventually("it to go with the job", || progress().is_none().then_some(()));
}

#[test]
fn one_who_follows_late_sees_the_whole_output() {
    let executor = serving(None);
    let (id, go) = talk(&executor);
    executor.line("the first line", |row| row.get("line").is_some_and(|line| line == "first"));
    let mut follow =
        executor.command(&["job", "logs", "-f", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    std::fs::write(go, "").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "last");
    assert!(lines.next().is_none());
    assert!(follow.wait().unwrap().success());
    let later = executor.output(&["job", "logs", &id]);
    assert_eq!(String::from_utf8_lossy(&later.stdout), "first\nlast\n");
}

#[test]
fn a_running_job_is_cancelled_and_retried_over_the_socket() {
    let executor = serving(None);
    let (id, go) = talk(&executor);
    executor.line("its first line", |line| line["event"] == "output" && line["line"] == "first");
    let output = executor.output(&["job", "cancel", &id[..id.len() - 2]]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("is being stopped"), "{output:?}");
    let row = executor.ended(&id);
    assert_eq!(row["error_type"], "CancelledError");
    assert!(row["traceback"].as_str().unwrap().contains("in talks"), "{row:?}");
    std::fs::write(go, "").unwrap();
    assert!(executor.output(&["job", "retry", &id]).status.success());
    let row = executor.until(&id, "COMPLETED");
    assert_eq!((&row["attempts"], &row["failures"]), (&2.into(), &0.into()));
    let settings = executor.json(&["doctor", "--settings"]);
    assert!(settings.as_array().unwrap().iter().any(|line| line["key"] == "db.url"));
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_executor() {
    use std::os::unix::fs::PermissionsExt;
    let mut executor = serving(None);
    let socket = executor.dir.path().join("ledger.db.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(executor.terminate(), Some(0));
    assert!(!socket.exists());
    executor.serve();
    executor.kill();
    executor.serve();
    eventually("the socket", || socket.exists().then_some(()));
}

#[test]
fn serve_tells_by_its_exit_code_why_it_does_not() {
    let mut executor = serving(None);
    let second = executor.output(&["serve"]);
    assert_eq!(second.status.code(), Some(4), "{second:?}");
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        told.contains(&format!("in use by another executor (pid {})", executor.pid())),
        "{told}"
    );
    executor.set("DB_URL", "sqlite:/proc/none/ledger.db");
    assert_eq!(executor.output(&["serve"]).status.code(), Some(3));
    executor.set("CONCURRENCY", "0");
    assert_eq!(executor.output(&["serve"]).status.code(), Some(2));
}
