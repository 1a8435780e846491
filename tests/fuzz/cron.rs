//! Cron expressions: what is read fires after each instant, in order, in every zone; what is not is
//! told in one line.

use executor::cron::Expression;
use executor::doors::timetable::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::input::spoiled_text;
use crate::runner::fuzz;

const GOOD: &[&str] = &[
    "* * * * *",
    "*/5 * * * *",
    "0 9 * * 1-5",
    "30 2 * * *",
    "0 0 29 2 *",
    "0 0 1,15 * 5",
    "@hourly",
    "@weekly",
    "15,45 8-18/2 * jan-mar mon,wed",
    "0 0 31 4 *",
    "*/7 */3 */10 */2 */2 */13",
    "5 4 * * sun 30",
    "59 23 31 12 7 59",
    "0 1 * * *",
    "*/15 1-3 * 3,10 *",
];

const ZONES: &[&str] = &[
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "America/St_Johns",
    "Pacific/Apia",
    "Antarctica/Troll",
    "America/Sao_Paulo",
];

const FIELDS: [(u8, u8, &[&str]); 6] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "FEB", "Dec"]),
    (0, 7, &["sun", "MON", "Sat"]),
    (0, 59, &[]),
];

fn field(place: usize) -> BoxedStrategy<String> {
    let (low, high, names) = FIELDS[place];
    let value = move || {
        let number = (low..=high).prop_map(|n| n.to_string()).boxed();
        match names {
            [] => number,
            names => prop_oneof![5 => number, 1 => select(names).prop_map(str::to_owned)].boxed(),
        }
    };
    let item = prop_oneof![
        3 => Just("*".to_owned()),
        3 => value(),
        2 => (value(), value()).prop_map(|(a, b)| format!("{a}-{b}")),
        2 => (1..70_u8).prop_map(|step| format!("*/{step}")),
        1 => (value(), value(), 1..20_u8).prop_map(|(a, b, step)| format!("{a}-{b}/{step}")),
    ];
    vec(item, 1..3).prop_map(|items| items.join(",")).boxed()
}

fn expression() -> impl Strategy<Value = String> {
    let fields = (field(0), field(1), field(2), field(3), field(4), field(5), any::<bool>());
    let built = fields.prop_map(|(minute, hour, day, month, weekday, second, six)| {
        let five = format!("{minute} {hour} {day} {month} {weekday}");
        if six { format!("{five} {second}") } else { five }
    });
    prop_oneof![
        5 => built,
        1 => spoiled_text(select(GOOD)),
        1 => select(GOOD).prop_map(str::to_owned),
        1 => "\\PC{0,20}",
    ]
}

fn inputs() -> impl Strategy<Value = (String, &'static str, i64, i64)> {
    // 1990 to 2080, and a step of up to three days.
    (expression(), select(ZONES), 631_152_000..3_471_292_800_i64, 0..260_000_i64)
}

fn check(text: &str, zone: &str, at: i64, step: i64) -> Result<(), TestCaseError> {
    let expression = match Expression::parse(text) {
        Ok(expression) => expression,
        Err(error) => {
            let error = error.to_string();
            prop_assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
            let json = text.trim_start().starts_with('{');
            prop_assert!(json || Schedule::read(text, zone).is_err());
            return Ok(());
        }
    };
    let spaced = text.split_ascii_whitespace().collect::<Vec<_>>().join("  \t").to_uppercase();
    prop_assert_eq!(Expression::parse(&spaced), Ok(expression.clone()));
    let stored = serde_json::json!({"schedule": text, "timezone": zone}).to_string();
    let zone = TimeZone::get(zone).unwrap();
    let at = Timestamp::from_second(at).unwrap();
    let next = expression.next_after(at, &zone);
    prop_assert_eq!(Schedule::read(&stored, "UTC").unwrap().next_after(at), next);
    let later = at + SignedDuration::from_secs(step);
    let after_later = expression.next_after(later, &zone);
    match (next, after_later) {
        (Some(next), Some(after_later)) => {
            prop_assert!(next > at && after_later > later);
            prop_assert!(next <= after_later, "{next} {after_later}");
            // Nothing lies between an instant and the next one.
            prop_assert!(next <= later || next == after_later, "{next} {after_later}");
            prop_assert_eq!(
                expression.next_after(next - SignedDuration::from_secs(1), &zone),
                Some(next)
            );
        }
        // The date never comes, whenever one asks.
        (None, None) => {}
        other => prop_assert!(false, "{other:?}"),
    }
    Ok(())
}

#[test]
fn cron_expressions() {
    fuzz("cron", &inputs(), |(text, zone, at, step)| check(&text, zone, at, step));
}
