//! The integration tests, one binary: the built `executor` against a real Redis, a real python3 and
//! real signals.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that is surprised must fail")]
#![expect(clippy::print_stderr, reason = "a failed test shows the executor's log")]

mod allow_list;
mod backup;
mod cli;
mod cron;
mod escapes;
mod experiments;
mod f5;
mod fsck;
mod failures;
mod floods;
mod health;
mod identity;
mod isolation;
mod jobs;
mod layering;
mod ledger_trouble;
mod limits;
mod outage;
mod output;
mod preload;
mod python;
mod queue;
mod redis_trouble;
mod set_aside;
mod shutdown;
mod slots;
mod soak;
mod steering;
mod support;
