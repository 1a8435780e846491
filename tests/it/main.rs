//! The integration tests, one binary: the built `executor` against a real Redis, a real python3 and
//! real signals.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that is surprised must fail")]
#![expect(clippy::print_stderr, reason = "a failed test shows the executor's log")]

mod cron;
mod experiments;
mod health;
mod identity;
mod layering;
mod outage;
mod queue;
mod slots;
mod support;
