//! The integration tests, one binary: the built `executor` against a real Redis, a real python3 and
//! real signals.

mod allow_list;
mod cron;
mod experiments;
mod f5;
mod failures;
mod isolation;
mod jobs;
mod layering;
mod output;
mod python;
mod shutdown;
mod slots;
mod support;
