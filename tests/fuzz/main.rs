//! Fuzzing on the stable toolchain: whatever comes from outside is read without a panic and without a
//! hang, and what is read has the properties it must have.
//!
//! A few thousand cases each with every `make test`; `make fuzz CASES=1000000` for more, with a seed of
//! its own, which is printed: `FUZZ_SEED` repeats it. `docs/reliability.md` has the counts.

#![expect(clippy::unwrap_used, reason = "a test that is surprised must fail")]
#![expect(clippy::print_stderr, reason = "counts and seeds are for people")]

mod config;
mod cron;
mod experiments;
mod frames;
mod input;
mod payload;
mod runner;
