//! When an expression fires next, in a zone whose clock may jump.
//!
//! Two rules (SPEC 5). An expression with a *rhythm* (minute or hour begin with `*`) matches the local
//! time of every real instant: what the clock skips is skipped, what it repeats is repeated. Any
//! other is a list of *wall-clock times*: one that the clock skips fires right after the jump, one
//! that it repeats fires the first time round.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp};

use super::Expression;

/// How far ahead a date is looked for: the 29th of February may be 8 years away.
const YEARS_AHEAD: i16 = 12;

/// The longest time that a clock was ever put back by, in the zones in use.
const LONGEST_FOLD: SignedDuration = SignedDuration::from_hours(3);

impl Expression {
    /// The first instant strictly after `after` at which it fires; `None` if its date never comes.
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.rhythm { self.next_by_rhythm(after, zone) } else { self.next_by_clock(after, zone) }
    }

    /// Searches the stretches between two clock changes, each with its one offset.
    fn next_by_rhythm(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let last = after
            .checked_add(SignedDuration::from_hours(24 * 366 * i64::from(YEARS_AHEAD)))
            .ok()?;
        let mut offset = zone.to_offset(after);
        let mut from = next_second(offset.to_datetime(after));
        for change in zone.following(after) {
            let here = self.matching(from, YEARS_AHEAD).and_then(|found| instant(found, offset));
            if let Some(fires) = here.filter(|fires| *fires < change.timestamp()) {
                return Some(fires);
            }
            if change.timestamp() > last {
                return None;
            }
            offset = change.offset();
            from = offset.to_datetime(change.timestamp());
        }
        self.matching(from, YEARS_AHEAD).and_then(|found| instant(found, offset))
    }

    /// Searches the times as a clock on the wall would show them.
    fn next_by_clock(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(after);
        let mut from = local.checked_sub(LONGEST_FOLD).ok()?;
        loop {
            let found = self.matching(from, YEARS_AHEAD)?;
            let fires = on_the_wall(found, zone)?;
            if fires > after {
                return Some(fires);
            }
            from = next_second(found);
        }
    }

    /// The first matching date and time at or after `from`, zones left aside.
    fn matching(&self, from: DateTime, years: i16) -> Option<DateTime> {
        let last_year = from.year().checked_add(years)?;
        let mut date = from.date();
        let mut time = from.time();
        if time.subsec_nanosecond() > 0 {
            let up = next_second(from);
            (date, time) = (up.date(), up.time());
        }
        while date.year() <= last_year {
            if !self.months.has(date.month()) {
                (date, time) = (first_of_next_month(date)?, Time::midnight());
                continue;
            }
            if self.day_matches(date)
                && let Some(time) = self.time_at_least(time)
            {
                return Some(date.to_datetime(time));
            }
            (date, time) = (date.tomorrow().ok()?, Time::midnight());
        }
        None
    }

    fn day_matches(&self, date: Date) -> bool {
        let by_day = self.days.has(date.day());
        let by_weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        if self.either_day { by_day || by_weekday } else { by_day && by_weekday }
    }

    /// The first matching time of a day at or after `from`.
    fn time_at_least(&self, from: Time) -> Option<Time> {
        let first = |hour, minute| Time::new(hour, minute, self.seconds.at_least(0)?, 0).ok();
        let hour = self.hours.at_least(from.hour())?;
        let earliest_minute = self.minutes.at_least(0)?;
        if hour > from.hour() {
            return first(hour, earliest_minute);
        }
        if self.minutes.has(from.minute())
            && let Some(second) = self.seconds.at_least(from.second())
        {
            return Time::new(hour, from.minute(), second, 0).ok();
        }
        if let Some(minute) = self.minutes.at_least(from.minute() + 1) {
            return first(hour, minute);
        }
        first(self.hours.at_least(hour + 1)?, earliest_minute)
    }
}

fn next_second(at: DateTime) -> DateTime {
    let whole =
        at.date().to_datetime(at.time().with().subsec_nanosecond(0).build().unwrap_or(at.time()));
    whole.saturating_add(SignedDuration::from_secs(1))
}

fn first_of_next_month(date: Date) -> Option<Date> {
    date.first_of_month().checked_add(Span::new().months(1)).ok()
}

fn instant(local: DateTime, offset: Offset) -> Option<Timestamp> {
    offset.to_timestamp(local).ok()
}

/// The instant at which a clock on the wall first shows this time, or has jumped over it.
fn on_the_wall(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => instant(local, offset),
        AmbiguousOffset::Fold { before, .. } => instant(local, before),
        AmbiguousOffset::Gap { before, .. } => {
            let beyond = instant(local, before)?.checked_add(SignedDuration::from_nanos(1)).ok()?;
            zone.preceding(beyond).next().map(|jump| jump.timestamp())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let expression = Expression::parse(text).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let mut after: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..count {
            after = expression.next_after(after, &zone).unwrap();
            found.push(after.to_zoned(zone.clone()).strftime("%d %H:%M:%S %:z").to_string());
        }
        found
    }

    #[test]
    fn a_fixed_time_that_spring_skips_fires_right_after_the_jump() {
        let found = fires("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3);
        assert_eq!(found, ["28 02:30:00 +01:00", "29 03:00:00 +02:00", "30 02:30:00 +02:00"]);
        let once = fires("0,30 2 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", 2);
        assert_eq!(once, ["29 03:00:00 +02:00", "30 02:00:00 +02:00"]);
    }

    #[test]
    fn a_fixed_time_that_autumn_repeats_fires_the_first_time_round() {
        let found = fires("30 2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 2);
        assert_eq!(found, ["25 02:30:00 +02:00", "26 02:30:00 +01:00"]);
    }

    #[test]
    fn a_rhythm_goes_by_real_time_through_both_changes() {
        let spring = fires("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 4);
        assert_eq!(
            spring,
            [
                "29 01:30:00 +01:00",
                "29 03:00:00 +02:00",
                "29 03:30:00 +02:00",
                "29 04:00:00 +02:00"
            ]
        );
        let autumn = fires("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 3);
        assert_eq!(autumn, ["25 02:00:00 +02:00", "25 02:00:00 +01:00", "25 03:00:00 +01:00"]);
    }

    #[test]
    fn a_date_that_never_comes_is_told() {
        let never = Expression::parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next_after(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
        let leap = fires("0 0 29 2 *", "UTC", "2097-01-01T00:00:00Z", 1);
        assert_eq!(leap, ["29 00:00:00 +00:00"]);
    }

    #[test]
    fn six_fields_have_seconds_last() {
        let found = fires("* * * * * */20", "UTC", "2026-01-01T00:00:00Z", 3);
        assert_eq!(found, ["01 00:00:20 +00:00", "01 00:00:40 +00:00", "01 00:01:00 +00:00"]);
    }
}
