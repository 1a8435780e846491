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
    let bytes = answer.strip_prefix(b"R")?;
    let u32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let u64_at = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    Some(Reaped {
        status: u32_at(0).filter(|status| *status != u32::MAX).map(u32::cast_signed),
        used: Duration::from_micros(u64_at(4)?),
        peak: u64_at(12)?.saturating_mul(1024),
        others: u32_at(20)?,
        theirs: Duration::from_micros(u64_at(24)?),
        left: *bytes.get(32)? == 1,
        born: Some(u32_at(33)?.cast_signed()).filter(|pid| *pid > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let mut answer = b"R".to_vec();
        answer.extend_from_slice(&9u32.to_le_bytes());
        answer.extend_from_slice(&1500u64.to_le_bytes());
        answer.extend_from_slice(&4u64.to_le_bytes());
        answer.extend_from_slice(&2u32.to_le_bytes());
        answer.extend_from_slice(&7u64.to_le_bytes());
        answer.push(1);
        answer.extend_from_slice(&77u32.to_le_bytes());
        let want = Reaped {
            status: Some(9),
            used: Duration::from_micros(1500),
            peak: 4096,
            others: 2,
            theirs: Duration::from_micros(7),
            left: true,
            born: Some(77),
        };
        assert_eq!(parse_reaped(&answer), Some(want));
        assert_eq!(parse_reaped(&answer[..answer.len() - 1]), None);
    }
}
