//! Where a message of the Redis protocol (RESP2) ends, and which command a request is.

/// The length of the first whole message in `bytes`; `None`: it has not come to its end yet.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|two| two == b"\r\n")?;
    let number = || std::str::from_utf8(&bytes[1..line]).ok()?.parse::<i64>().ok();
    let mut at = line + 2;
    match bytes[0] {
        b'$' => {
            // Absent: no body follows.
            let Ok(body) = usize::try_from(number()?) else { return Some(at) };
            at += body + 2;
        }
        b'*' => {
            for _ in 0..number()?.max(0) {
                at += length(bytes.get(at..)?)?;
            }
        }
        _ => {}
    }
    (bytes.len() >= at).then_some(at)
}

/// The words of a whole request.
pub(crate) fn words(request: &[u8]) -> Vec<String> {
    let Some(start) = request.windows(2).position(|two| two == b"\r\n") else { return Vec::new() };
    let (mut at, mut words) = (start + 2, Vec::new());
    while let Some(length) = request.get(at..).and_then(length) {
        let bulk = &request[at..at + length];
        let body = bulk.windows(2).position(|two| two == b"\r\n").unwrap_or(0) + 2;
        let text = bulk.get(body..length.saturating_sub(2)).unwrap_or_default();
        words.push(String::from_utf8_lossy(text).into_owned());
        at += length;
    }
    words
}

#[test]
fn messages_end_where_they_end() {
    for (text, whole) in [
        ("+OK\r\n+", Some(5)),
        (":1\r\n", Some(4)),
        ("$-1\r\n$", Some(5)),
        ("$3\r\na\r\n\r\n", Some(9)),
        ("$3\r\nab", None),
        ("*2\r\n$1\r\na\r\n*1\r\n:5\r\nx", Some(19)),
        ("*2\r\n$1\r\na\r\n", None),
        ("*-1\r\n", Some(5)),
        ("*1", None),
    ] {
        assert_eq!(length(text.as_bytes()), whole, "{text:?}");
    }
    assert_eq!(words(b"*2\r\n$4\r\nHDEL\r\n$1\r\nk\r\n"), ["HDEL", "k"]);
}
