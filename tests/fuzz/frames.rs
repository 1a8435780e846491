//! A run's frames: however the stream is cut, the same frames come out; what is none ends it.

use executor::frame::{Decoder, FRAME_MAX, FrameError, decode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::input::{object, spoiled};
use crate::runner::fuzz;

const FIELDS: &[(&str, &[&str])] = &[
    (
        "t",
        &["\"progress\"", "\"items\"", "\"emit\"", "\"partial\"", "\"result\"", "\"what\"", "null"],
    ),
    ("done", &["1", "0.5", "-1", "1e400", "null"]),
    ("total", &["null", "10", "\"10\""]),
    ("count", &["0", "18446744073709551615", "-1", "1.5"]),
    ("name", &["\"a\"", "\"\"", "5"]),
    ("fields", &["{}", "{\"a\":1}", "[]", "null"]),
    ("value", &["null", "1", "{\"a\":[]}", "\"\\ud800\""]),
    ("ok", &["true", "false", "1"]),
    ("bytes", &["0", "4", "-1"]),
    ("truncated", &["true", "false"]),
    ("kind", &["\"raised\"", "\"exited\"", "\"unfit\"", "\"other\""]),
    ("error_type", &["\"ValueError\""]),
    ("error", &["\"why\"", "\"\""]),
    ("traceback", &["\"Traceback\""]),
    ("partial", &["null", "[1]"]),
    ("transient", &["true", "null"]),
];

const GOOD: &[&str] = &[
    r#"{"t":"progress","done":3,"total":null}"#,
    r#"{"t":"items","count":2}"#,
    r#"{"t":"emit","name":"a","fields":{"n":1}}"#,
    r#"{"t":"partial","value":{"emails_sent":50}}"#,
    r#"{"t":"result","ok":true,"value":{"a":1},"bytes":7,"truncated":false}"#,
    r#"{"t":"result","ok":false,"kind":"raised","error_type":"E","error":"e","traceback":"t","partial":null,"transient":true}"#,
];

fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => select(GOOD).prop_map(|line| line.as_bytes().to_vec()),
        3 => spoiled(select(GOOD)),
        3 => spoiled(object(FIELDS)),
        1 => vec(any::<u8>(), 0..40),
    ]
}

/// Lines, how they are cut, and now and then one that is too long.
fn inputs() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let long = prop_oneof![4000 => Just(0), 1 => FRAME_MAX - 2..FRAME_MAX + 3];
    (vec(line(), 0..6), vec(1..200_usize, 1..8), long).prop_map(|(lines, cuts, long)| {
        let mut stream = lines.join(&b'\n');
        if long > 0 {
            stream.push(b'\n');
            stream.extend(std::iter::repeat_n(b'x', long));
        }
        (stream, cuts)
    })
}

/// What comes out up to the first error, and that.
fn whole(stream: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    let rest = lines.pop().unwrap_or_default();
    for line in lines {
        let read = if line.len() > FRAME_MAX { Err(FrameError::TooLong) } else { decode(line) };
        let failed = read.is_err();
        out.push(format!("{read:?}"));
        if failed {
            return out;
        }
    }
    if rest.len() > FRAME_MAX {
        out.push(format!("{:?}", Err::<(), _>(FrameError::TooLong)));
    }
    out
}

fn cut(stream: &[u8], cuts: &[usize]) -> Vec<String> {
    let (mut decoder, mut out, mut rest) = (Decoder::default(), Vec::new(), stream);
    // A long stream in large pieces.
    let scale = 1 + stream.len() / 4096;
    for length in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, left) = rest.split_at((length * scale).min(rest.len()));
        rest = left;
        decoder.feed(piece);
        while let Some(frame) = decoder.next_frame() {
            let failed = frame.is_err();
            out.push(format!("{frame:?}"));
            if failed {
                return out;
            }
        }
    }
    out
}

#[test]
fn frames() {
    fuzz("frames", &inputs(), |(stream, cuts)| {
        let out = cut(&stream, &cuts);
        prop_assert_eq!(&out, &whole(&stream));
        for line in stream.split(|byte| *byte == b'\n').filter(|line| line.len() <= FRAME_MAX) {
            if let Err(error) = decode(line) {
                prop_assert!(error.to_string().contains("frame"), "{error}");
            }
        }
        Ok(())
    });
}
