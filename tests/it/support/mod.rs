//! Real parts for the tests: a Redis, an executor, a ledger to look into. Nothing here sleeps for
//! luck: everything waits for a named thing with a deadline.

mod bench;
mod disk;
mod drained;
mod executor;
mod proxy;
mod redis_server;
mod user;

use std::time::{Duration, Instant};

pub(crate) use bench::{BOTH, Bench, Noted, descendants, has, median, noted, text, value_of};
pub(crate) use disk::Disk;
pub(crate) use drained::{Drained, status};
pub(crate) use executor::{Executor, Row, fixtures};
pub(crate) use proxy::Proxy;
pub(crate) use redis_server::RedisServer;

/// Long enough for a loaded machine; a test that needs it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until `look` finds something, or panics naming what was waited for.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// As [`eventually`], with a deadline of its own.
pub(crate) fn within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process with this pid exists and is no zombie.
pub(crate) fn alive(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z')))
        .unwrap_or(false)
}
