//! How a shutdown's time is divided. Pure: knows no clock and nobody to stop.

use std::time::Duration;

/// The largest part of the shutdown's grace kept for recording and telling what was stopped.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// How the shutdown's grace is divided, so that the whole exit fits into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPlan {
    /// How long runs may finish by themselves.
    pub drain: Duration,
    /// Between SIGTERM and SIGKILL after that.
    pub kill_grace: Duration,
    /// The whole exit.
    pub grace: Duration,
}

impl ShutdownPlan {
    /// Divides `grace`: first the drain, then at most `kill_grace`, then time for the record.
    pub fn new(grace: Duration, kill_grace: Duration) -> Self {
        let closing = CLOSING_TIME.min(grace / 4);
        let kill_grace = kill_grace.min(grace / 4);
        Self { drain: grace.saturating_sub(closing + kill_grace), kill_grace, grace }
    }

    /// From the end of the drain until endings must have been recorded.
    pub(super) fn until_record(&self) -> Duration {
        let left = self.grace.saturating_sub(self.drain);
        left.saturating_sub(CLOSING_TIME.min(self.grace / 4) * 2 / 3)
    }
}
