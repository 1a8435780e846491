//! The integration tests, one binary: the built `executor` against a real Redis, a real python3 and
//! real signals.

mod cron;
mod experiments;
mod health;
mod identity;
mod layering;
mod outage;
mod queue;
mod slots;
mod support;
