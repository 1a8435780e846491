//! Tables and words for people. Pure.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::Value;

use crate::clock::{self, Timestamp};
use crate::ledger::Row;

/// A plain table that fits a terminal.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A column as text; nothing for NULL.
pub(super) fn text(row: &Row, column: &str) -> String {
    match row.get(column) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

fn time(row: &Row, column: &str) -> Option<Timestamp> {
    clock::parse(row.get(column)?.as_str()?)
}

/// `850 ms`, `12.3 s`, `4 min`, `3 h 12 min`, `5 d`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..=99 => format!("{:.1} s", span.as_secs_f64()),
        100..=3599 => format!("{} min", seconds / 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// From one time to another, or to now.
pub(super) fn between(row: &Row, from: &str, to: &str, now: Timestamp) -> String {
    let Some(begun) = time(row, from) else { return String::new() };
    let ended = time(row, to).unwrap_or(now);
    span(Duration::try_from(ended.duration_since(begun)).unwrap_or_default())
}

/// What a job runs.
pub(super) fn target(row: &Row) -> String {
    let tool = text(row, "tool");
    if !tool.is_empty() {
        return tool;
    }
    let (module, class) = (text(row, "module_path"), text(row, "class_name"));
    if module.is_empty() {
        let experiment = text(row, "experiment_id");
        return if experiment.is_empty() {
            String::new()
        } else {
            format!("experiment {experiment}")
        };
    }
    let function = text(row, "method_name");
    if class.is_empty() {
        format!("{module}:{function}")
    } else {
        format!("{module}:{class}.{function}")
    }
}

/// On one line, cut where it is long.
pub(super) fn short(text: &str, most: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The table of `job list`.
pub(super) fn jobs(rows: &[Row], now: Timestamp) -> String {
    let line = |row: &Row| {
        let error = text(row, "error");
        let says = match text(row, "error_type") {
            kind if kind.is_empty() => short(&text(row, "result"), 40),
            kind => short(&format!("{kind}: {error}"), 60),
        };
        vec![
            text(row, "id"),
            text(row, "status"),
            short(&target(row), 40),
            text(row, "source"),
            text(row, "attempts"),
            between(row, "created_at", "", now),
            between(row, "started_at", "finished_at", now),
            says,
        ]
    };
    let head = ["ID", "STATUS", "TARGET", "SOURCE", "ATTEMPTS", "AGE", "TOOK", "RESULT OR ERROR"];
    table(&head, &rows.iter().map(line).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spans_are_in_words_people_read() {
        for (ms, want) in [
            (850, "850 ms"),
            (12_340, "12.3 s"),
            (250_000, "4 min"),
            (11_520_000, "3 h 12 min"),
            (450_000_000, "5 d 5 h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), want);
        }
    }

    #[test]
    fn the_list_of_jobs_is_one_line_each() {
        let row = |value: Value| value.as_object().unwrap().clone();
        let rows = [
            row(json!({"id": "a", "status": "FAILED", "module_path": "tasks.m", "class_name": "C",
                "method_name": "f", "source": "queue", "attempts": 3,
                "created_at": "2026-01-01T00:00:00.000Z", "started_at": "2026-01-01T00:00:01.000Z",
                "finished_at": "2026-01-01T00:00:02.500Z", "error_type": "ValueError", "error": "a\nb"})),
            row(
                json!({"id": "b", "status": "COMPLETED", "tool": "t", "source": "cli", "attempts": 1,
                "created_at": "2026-01-01T00:00:00.000Z", "result": {"n": 1}}),
            ),
        ];
        insta::assert_snapshot!(jobs(&rows, "2026-01-01T00:01:00Z".parse().unwrap()), @r#"
         ID  STATUS     TARGET       SOURCE  ATTEMPTS  AGE     TOOK   RESULT OR ERROR
         a   FAILED     tasks.m:C.f  queue   3         60.0 s  1.5 s  ValueError: a b
         b   COMPLETED  t            cli     1         60.0 s         {"n":1}
        "#);
    }
}
