//! Cron expressions against what `croniter` and `cronsim` say of them (`scripts/cron_oracle.py`).

use executor::cron::Expression;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let path = super::support::fixtures().join("cron").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What we say: `null` for a refused expression, else the next times.
fn ours(case: &Value, zone: &TimeZone, count: usize) -> Value {
    let Ok(expression) = Expression::parse(case["expression"].as_str().unwrap()) else {
        return Value::Null;
    };
    let mut after: Timestamp = case["after"].as_str().unwrap().parse().unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let Some(next) = expression.next_after(after, zone) else { break };
        found.push(next.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        after = next;
    }
    found.into()
}

fn compare(name: &str, at_least: usize, count: usize) {
    let cases = cases(name);
    assert!(cases.len() >= at_least, "{} cases in {name}", cases.len());
    let mut different = Vec::new();
    for case in &cases {
        let zone = TimeZone::get(case["zone"].as_str().unwrap_or("UTC")).unwrap();
        let ours = ours(case, &zone, count);
        if ours != case["next"] {
            different.push(format!("{case}\n  ours: {ours}"));
        }
    }
    let shown = different.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(different.is_empty(), "{} of {} differ:\n{shown}", different.len(), cases.len());
}

#[test]
fn agrees_with_croniter_on_three_thousand_expressions() {
    compare("croniter.jsonl", 3000, 3);
}

#[test]
fn agrees_with_cronsim_at_the_clock_changes_of_every_zone() {
    compare("cronsim.jsonl", 3000, 4);
}
