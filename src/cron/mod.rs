//! Cron expressions: read one as croniter reads it, say when it fires next. Pure.
//!
//! No cron crate keeps croniter's reading (equal ranges, wrapping ranges, the OR of the two day
//! fields after collapsing full ones) or our rule for clock changes; `docs/design/cron.md` has both,
//! and a differential test against `croniter` and `cronsim` is the judge.

mod expression;
mod next;

pub use expression::{CronError, Expression};
