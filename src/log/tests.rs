//! Lines as a reader of the log sees them, and a reader that stops reading.

use std::io::{BufRead, BufReader, PipeReader};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::line::Event;
use super::*;
use crate::clock;

fn options() -> LogOptions {
    LogOptions { format: LogFormat::Json, level: "info".into(), executor_id: "e\"1".into() }
}

fn line(job: &str, text: &str) -> OutputLine {
    let origin = Origin {
        job_id: JobId::new(job).unwrap(),
        attempt: 2,
        run_id: None,
        experiment_id: Some("x".into()),
    };
    OutputLine { origin: Arc::new(origin), stream: Stream::Stderr, line: text.into() }
}

fn piped() -> (Log, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    (Log::with_output(options(), writer).unwrap(), reader)
}

fn rows(reader: PipeReader) -> Vec<serde_json::Value> {
    BufReader::new(reader)
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect()
}

#[tokio::test]
async fn lines_of_runs_are_flat_json_whatever_they_hold() {
    let (log, reader) = piped();
    let odd = "quote \" backslash \\ tab \t nul \0 bell \x07 del \x7f ünïcode \u{2028}";
    log.output().send(line("j", odd)).await;
    log.finish();
    let rows = rows(reader);
    assert_eq!(rows[0]["line"], odd);
    assert_eq!(rows[0]["event"], "output");
    assert_eq!((&rows[0]["job_id"], &rows[0]["attempt"]), (&"j".into(), &2.into()));
    assert_eq!((&rows[0]["stream"], &rows[0]["experiment_id"]), (&"stderr".into(), &"x".into()));
    assert_eq!(rows[0]["executor_id"], "e\"1");
}

#[tokio::test]
async fn events_keep_their_fields_types() {
    let (log, reader) = piped();
    log.shared.push_event(Event {
        at: clock::now(),
        level: tracing::Level::WARN,
        event: "job_failed".into(),
        message: "no".into(),
        fields: vec![("attempt", "3".into()), ("error", line::json("a\nb"))],
    });
    log.finish();
    let rows = rows(reader);
    assert_eq!((&rows[0]["level"], &rows[0]["attempt"]), (&"warn".into(), &3.into()));
    assert_eq!(rows[0]["error"], "a\nb");
}

#[tokio::test]
async fn a_stuck_reader_costs_lines_not_runs() {
    let (log, reader) = piped();
    let sink = log.output();
    let long = "x".repeat(16 * 1024);
    let begun = Instant::now();
    // The pipe and the room hold some megabytes; then one line waits a second, the rest does not.
    for _ in 0..1000 {
        sink.send(line("j", &long)).await;
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900), "one line waits: {took:?}");
    assert!(took < Duration::from_secs(5), "the others do not: {took:?}");
    assert!(log.tap().dropped() > 100);
    let reading = std::thread::spawn(move || rows(reader));
    let deadline = Instant::now() + Duration::from_secs(10);
    while log.shared.room.available_permits() < 1000 {
        assert!(Instant::now() < deadline, "the log did not move on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sink.send(line("j", "after")).await;
    let dropped = log.tap().dropped();
    log.finish();
    let rows = reading.join().unwrap();
    assert!(rows.iter().any(|row| row["line"] == "after"));
    let told: u64 = rows
        .iter()
        .filter(|row| row["event"] == "output_dropped")
        .map(|row| row["count"].as_u64().unwrap())
        .sum();
    assert_eq!(told, dropped);
}

#[tokio::test]
async fn a_follower_gets_the_lines_of_its_job() {
    let (log, _reader) = piped();
    let mut follower = log.tap().follow(JobId::new("mine").unwrap());
    log.output().send(line("other", "no")).await;
    log.output().send(line("mine", "yes")).await;
    assert_eq!(follower.recv().await.unwrap().line, "yes");
}

#[test]
fn a_level_or_directives_are_understood() {
    assert!(filter("debug").is_ok());
    assert!(filter("info,redis=debug").is_ok());
    assert!(matches!(filter("loud=x=y"), Err(LogError::Level { .. })));
}
