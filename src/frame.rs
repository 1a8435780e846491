//! The frames between the executor and a run, as pure data: encode a request, decode what comes back.
//!
//! `docs/design/frames.md` is the protocol; `tests/fixtures/frames/` are its golden files, read by
//! the Rust and the Python tests alike.
