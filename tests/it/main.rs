//! The integration tests, one binary: the built `executor` against a real Redis, a real python3 and
//! real signals.

mod cron;
mod experiments;
mod layering;
mod slots;
mod support;
