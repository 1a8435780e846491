//! What inputs are made of: JSON that is nearly right, and known inputs spoiled.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Pieces that readers stumble over.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"null",
    b"true",
    b"-0",
    b"1e309",
    b"-1",
    b"0.1",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3",
    "\u{2028}".as_bytes(),
    "ä".as_bytes(),
    "🦀".as_bytes(),
    b"*",
    b"/",
    b"-",
    b"?",
    b"L",
    b"#",
    b"@",
    b"1,2",
    b"0-59/7",
    b"MON",
    b"job_id",
    b"\"t\"",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
];

/// One way to spoil an input.
#[derive(Clone, Debug)]
enum Spoil {
    Change(Index, u8),
    Insert(Index, &'static [u8]),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Cut(Index),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Spoil::Change(at, byte)),
        (at(), select(PIECES)).prop_map(|(at, piece)| Spoil::Insert(at, piece)),
        (at(), 1..20_usize).prop_map(|(at, length)| Spoil::Remove(at, length)),
        (at(), 1..30_usize, 1..6_usize).prop_map(|(at, length, n)| Spoil::Repeat(at, length, n)),
        at().prop_map(Spoil::Cut),
    ]
}

fn apply(mut bytes: Vec<u8>, spoils: &[Spoil]) -> Vec<u8> {
    for spoil in spoils {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match spoil {
            Spoil::Change(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Spoil::Insert(at, piece) => {
                let at = place(at);
                bytes.splice(at..at, piece.iter().copied());
            }
            Spoil::Remove(at, length) => {
                let at = place(at);
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Spoil::Repeat(at, length, times) => {
                let at = place(at);
                let part = bytes[at..(at + length).min(bytes.len())].repeat(*times);
                bytes.splice(at..at, part);
            }
            Spoil::Cut(at) => {
                let at = place(at);
                bytes.truncate(at);
            }
        }
    }
    bytes
}

/// One of these, more or less spoiled; now and then not at all.
pub(crate) fn spoiled<T: AsRef<[u8]> + Clone + std::fmt::Debug + 'static>(
    good: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<u8>> {
    (good, vec(spoil(), 0..5)).prop_map(|(good, spoils)| apply(good.as_ref().to_vec(), &spoils))
}

/// As [`spoiled`], what is no UTF-8 replaced.
pub(crate) fn spoiled_text<T: AsRef<[u8]> + Clone + std::fmt::Debug + 'static>(
    good: impl Strategy<Value = T>,
) -> impl Strategy<Value = String> {
    spoiled(good).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Any JSON value, not too deep.
pub(crate) fn json() -> BoxedStrategy<serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        (0..12_i64).prop_map(Into::into),
        "[ -~]{0,12}".prop_map(Into::into),
        "\\PC{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            vec(("[a-z_]{1,6}", inner), 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
    .boxed()
}

/// An object of some of these fields, each with a value that may be right, and perhaps others.
pub(crate) fn object(
    fields: &'static [(&'static str, &'static [&'static str])],
) -> BoxedStrategy<String> {
    let field = (0..fields.len(), any::<Index>(), json(), 0..8_u8).prop_map(
        |(field, good, other, chance)| {
            let (name, values) = fields[field];
            let value = match chance {
                0 => other.to_string(),
                _ => values[good.index(values.len())].to_owned(),
            };
            format!("{}:{value}", serde_json::Value::from(name))
        },
    );
    vec(field, 0..7).prop_map(|fields| format!("{{{}}}", fields.join(","))).boxed()
}
