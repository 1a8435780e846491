//! Reading an expression: text → the set of values of each field.

/// One of the six fields, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    name: &'static str,
    low: u8,
    high: u8,
    names: &'static [&'static str],
}

const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const MINUTE: Field = Field { name: "minute", low: 0, high: 59, names: &[] };
const HOUR: Field = Field { name: "hour", low: 0, high: 23, names: &[] };
const DAY: Field = Field { name: "day of month", low: 1, high: 31, names: &[] };
const MONTH: Field = Field { name: "month", low: 1, high: 12, names: MONTHS };
const WEEKDAY: Field = Field { name: "day of week", low: 0, high: 6, names: WEEKDAYS };
const SECOND: Field = Field { name: "second", low: 0, high: 59, names: &[] };

/// What is wrong with an expression, for its writer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Neither five nor six fields.
    #[error(
        "it has {found} fields; an expression has five (minute hour day month weekday), or six with seconds last"
    )]
    FieldCount {
        /// How many there are.
        found: usize,
    },
    /// `@something` that is not known.
    #[error(
        "{name} is not known; known are @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly"
    )]
    Alias {
        /// As written.
        name: String,
    },
    /// A value outside its field.
    #[error("{token} is outside {low}-{high} in the {field} field")]
    Range {
        /// As written.
        token: String,
        /// Which field.
        field: &'static str,
        /// Its lowest value.
        low: u8,
        /// Its highest value.
        high: u8,
    },
    /// A step of zero, or one that is no number.
    #[error("the step {step} in the {field} field is not a number from 1 on")]
    Step {
        /// As written.
        step: String,
        /// Which field.
        field: &'static str,
    },
    /// `L`, `W`, `#`, `H`, `R`: croniter's extensions that are refused.
    #[error("{token} in the {field} field is an extension that is not supported (L, W, #, H, R)")]
    Extension {
        /// As written.
        token: String,
        /// Which field.
        field: &'static str,
    },
    /// Anything else.
    #[error(
        "{token:?} in the {field} field is neither a number, a name, a range a-b, a step */n nor *"
    )]
    Token {
        /// As written.
        token: String,
        /// Which field.
        field: &'static str,
    },
}

/// A set of values below 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    fn insert(&mut self, value: u8) {
        self.0 |= 1 << value;
    }

    fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(super) fn has(self, value: i8) -> bool {
        u8::try_from(value).is_ok_and(|value| self.0 >> value & 1 == 1)
    }

    /// The lowest member that is at least `from`.
    pub(super) fn at_least(self, from: i8) -> Option<i8> {
        let from = u32::try_from(from).unwrap_or(0);
        if from >= 64 {
            return None;
        }
        let rest = self.0 >> from << from;
        (rest != 0).then(|| rest.trailing_zeros() as i8)
    }
}

/// An expression, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    pub(super) minutes: Set,
    pub(super) hours: Set,
    pub(super) days: Set,
    pub(super) months: Set,
    pub(super) weekdays: Set,
    pub(super) seconds: Set,
    /// Both day fields are restricted: a day needs to be in one of them only.
    pub(super) either_day: bool,
    /// Minute or hour begin with `*`: fires by real time through clock changes.
    pub(super) rhythm: bool,
}

impl Expression {
    /// Reads an expression of five fields, of six with seconds last, or an `@alias`.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let text = text.trim().to_ascii_lowercase();
        let text = if text.starts_with('@') { alias(&text)? } else { &text };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday, rest @ ..] = fields.as_slice() else {
            return Err(CronError::FieldCount { found: fields.len() });
        };
        let second = match rest {
            [] => "0",
            [second] => second,
            _ => return Err(CronError::FieldCount { found: fields.len() }),
        };
        let days = read_field(day, DAY)?;
        let weekdays = read_field(weekday, WEEKDAY)?;
        Ok(Self {
            minutes: read_field(minute, MINUTE)?,
            hours: read_field(hour, HOUR)?,
            months: read_field(month, MONTH)?,
            seconds: read_field(second, SECOND)?,
            either_day: restricts(days, day, weekday, DAY)
                && restricts(weekdays, weekday, day, WEEKDAY),
            days,
            weekdays,
            rhythm: minute.starts_with('*') || hour.starts_with('*'),
        })
    }
}

fn alias(text: &str) -> Result<&'static str, CronError> {
    match text {
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        "@monthly" => Ok("0 0 1 * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@hourly" => Ok("0 * * * *"),
        _ => Err(CronError::Alias { name: text.escape_debug().to_string() }),
    }
}

/// Whether a day field restricts anything. As croniter: a list with a `*` in it does not; one that
/// names every value does not either, but only where the other day field has a star in it.
fn restricts(set: Set, own: &str, other: &str, field: Field) -> bool {
    let full = set.len() == u32::from(field.high - field.low) + 1;
    let plain_star = own == "?" || own.split(',').any(|token| token == "*");
    !(plain_star || full && (other.contains('*') || other == "?"))
}

fn read_field(text: &str, field: Field) -> Result<Set, CronError> {
    let mut set = Set::default();
    if text == "?" && (field == DAY || field == WEEKDAY) {
        return read_field("*", field);
    }
    for token in text.split(',') {
        read_token(token, field, &mut set)?;
    }
    Ok(set)
}

fn read_token(token: &str, field: Field, set: &mut Set) -> Result<(), CronError> {
    let (base, step) = match token.split_once('/') {
        Some((base, step)) => (base, Some(read_step(step, field)?)),
        None => (token, None),
    };
    let by = usize::from(step.unwrap_or(1));
    let mut insert_stepped = |low: u8, high: u8| {
        (low..=high).step_by(by).for_each(|value| set.insert(value));
    };
    if base == "*" {
        insert_stepped(field.low, field.high);
        return Ok(());
    }
    let Some((low, high)) = base.split_once('-') else {
        let value = read_value(base, token, field)?;
        let high = if step.is_some() { field.high } else { value };
        insert_stepped(value, high);
        return Ok(());
    };
    let (low, high) = (read_value(low, token, field)?, read_value(high, token, field)?);
    match low.cmp(&high) {
        std::cmp::Ordering::Less => insert_stepped(low, high),
        // croniter: a range from a value to itself is the whole cycle.
        std::cmp::Ordering::Equal => insert_stepped(field.low, field.high),
        std::cmp::Ordering::Greater => wrap(low, high, by, field, set),
    }
    Ok(())
}

/// A range that runs over the end of its field (`fri-mon`, `22-2`), with croniter's way of carrying
/// the step across.
fn wrap(low: u8, high: u8, by: usize, field: Field, set: &mut Set) {
    let mut last = low;
    for value in (low..=field.high).step_by(by) {
        set.insert(value);
        last = value;
    }
    let (length, at) = (usize::from(field.high - field.low) + 1, usize::from(last - field.low));
    let skipped = usize::from(field.high - last);
    let skip = if at + by > length && skipped < by { by - skipped } else { 0 };
    let from = usize::from(field.low) + skip;
    for value in (from..=usize::from(high)).step_by(by) {
        set.insert(u8::try_from(value).unwrap_or(field.high));
    }
}

fn read_step(step: &str, field: Field) -> Result<u8, CronError> {
    let wrong = || CronError::Step { step: step.to_owned(), field: field.name };
    if step.is_empty() || !step.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    // A step beyond the field leaves its first value only, whatever its size.
    match step.trim_start_matches('0') {
        "" => Err(wrong()),
        digits => Ok(digits.parse().unwrap_or(u8::MAX)),
    }
}

fn read_value(text: &str, token: &str, field: Field) -> Result<u8, CronError> {
    if let Some(place) = field.names.iter().position(|name| *name == text) {
        return Ok(field.low + u8::try_from(place).unwrap_or(0));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_a_value(token, field));
    }
    match text.parse::<u32>() {
        Ok(7) if field == WEEKDAY => Ok(0),
        Ok(value) if (u32::from(field.low)..=u32::from(field.high)).contains(&value) => {
            Ok(u8::try_from(value).unwrap_or(field.high))
        }
        _ => Err(CronError::Range {
            token: token.to_owned(),
            field: field.name,
            low: field.low,
            high: if field == WEEKDAY { 7 } else { field.high },
        }),
    }
}

fn not_a_value(token: &str, field: Field) -> CronError {
    let of_days = (field == DAY || field == WEEKDAY) && token.contains(['l', 'w', '#']);
    let hashed = token.starts_with(['h', 'r']) && !field.names.contains(&token);
    let (token, field) = (token.to_owned(), field.name);
    if of_days || hashed {
        CronError::Extension { token, field }
    } else {
        CronError::Token { token, field }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        let error = Expression::parse("@\nhourly").unwrap_err().to_string();
        assert!(error.starts_with("@\\nhourly is not known"), "{error}");
    }

    fn wrong(text: &str) -> String {
        Expression::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_field_and_what_is_there() {
        assert!(wrong("* * * *").contains("it has 4 fields"));
        assert!(wrong("60 * * * *").contains("60 is outside 0-59 in the minute field"));
        assert!(wrong("* * 0 * *").contains("outside 1-31 in the day of month"));
        assert!(wrong("*/0 * * * *").contains("the step 0"));
        assert!(wrong("* * * foo *").contains("\"foo\" in the month field"));
        assert!(wrong("* * * * 5#2").contains("not supported"));
        assert!(wrong("* * l * *").contains("not supported"));
        assert!(wrong("@reboot").contains("@reboot is not known"));
        assert!(wrong("-5 * * * *").contains("minute"));
        assert!(wrong("").contains("0 fields"));
    }

    #[test]
    fn wrapping_and_equal_ranges_are_read_as_croniter_reads_them() {
        let hours = |text: &str| Expression::parse(&format!("0 {text} * * *")).unwrap().hours;
        let set = |values: &[u8]| {
            values.iter().fold(Set::default(), |mut s, v| {
                s.insert(*v);
                s
            })
        };
        assert_eq!(hours("22-2"), set(&[22, 23, 0, 1, 2]));
        assert_eq!(hours("5-5").len(), 24);
        assert_eq!(hours("23/4"), set(&[23]));
        let weekdays = Expression::parse("0 0 * * 5-7").unwrap().weekdays;
        assert_eq!(weekdays, set(&[5, 6, 0]));
    }

    #[test]
    fn two_restricted_day_fields_are_joined_by_or() {
        assert!(Expression::parse("0 0 1 * mon").unwrap().either_day);
        assert!(!Expression::parse("0 0 * * mon").unwrap().either_day);
        assert!(!Expression::parse("0 0 1 * ?").unwrap().either_day);
        assert!(Expression::parse("0 0 */2 * mon").unwrap().either_day);
    }
}
