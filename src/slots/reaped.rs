//! What a slot tells of the dead, as it comes over its socket.

use std::time::Duration;

/// What a slot told of the dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reaped {
    /// The leader's wait status, if it was dead.
    pub(super) status: Option<i32>,
    /// Its time, and that of children it waited for.
    pub(super) used: Duration,
    /// Peak of its resident set in bytes.
    pub(super) peak: u64,
    /// How many others.
    pub(super) others: u32,
    /// Time of the others.
    pub(super) theirs: Duration,
    /// Something under the slot still lives.
    pub(super) left: bool,
    /// The next run, born as nothing was left.
    pub(super) born: Option<i32>,
}

pub(super) fn parse_reaped(answer: &[u8]) -> Option<Reaped> {
    let text = std::str::from_utf8(answer.strip_prefix(b"R ")?).ok()?;
    let mut words = text.split(' ');
    let status: i32 = words.next()?.parse().ok()?;
    let mut number = || words.next()?.parse::<u64>().ok();
    let reaped = Reaped {
        status: Some(status).filter(|status| *status >= 0),
        used: Duration::from_micros(number()?),
        peak: number()?.saturating_mul(1024),
        others: number()?.try_into().ok()?,
        theirs: Duration::from_micros(number()?),
        left: number()? == 1,
        born: Some(number()?.try_into().ok()?).filter(|pid| *pid > 0),
    };
    words.next().is_none().then_some(reaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let want = Reaped {
            status: Some(9),
            used: Duration::from_micros(1500),
            peak: 4096,
            others: 2,
            theirs: Duration::from_micros(7),
            left: true,
            born: Some(77),
        };
        assert_eq!(parse_reaped(b"R 9 1500 4 2 7 1 77"), Some(want));
        let want = Reaped { status: None, born: None, ..want };
        assert_eq!(parse_reaped(b"R -1 1500 4 2 7 1 0"), Some(want));
        for broken in
            ["R 9 1500 4 2 7 1", "R 9 1500 4 2 7 1 77 1", "R 9 -1 4 2 7 1 77", "R ", "E no"]
        {
            assert_eq!(parse_reaped(broken.as_bytes()), None, "{broken}");
        }
    }
}
