//! The one source of wall-clock time, and the one way a time is written.
//!
//! Must not hold state and must not sleep. Everything stored or shown uses [`text`], so that times
//! compare as text in SQL.

pub use jiff::Timestamp;

/// The present instant, cut to whole milliseconds: what is stored and what is compared are the same.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// RFC 3339, UTC, milliseconds and `Z`: `2026-03-08T10:00:00.000Z`. Sorts as text.
pub fn text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Reads what [`text`] wrote, or any RFC 3339 time that names its zone.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Seconds since the epoch with fraction, the form of `timestamp` in messages.
pub fn epoch_seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_time_has_milliseconds_and_reads_back() {
        let at = Timestamp::from_millisecond(1_772_964_000_007).unwrap();
        assert_eq!(text(at), "2026-03-08T10:00:00.007Z");
        assert_eq!(parse(&text(at)), Some(at));
    }

    #[test]
    fn a_time_without_a_zone_is_refused() {
        assert_eq!(parse("2026-03-08T10:00:00"), None);
    }
}
