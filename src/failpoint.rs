//! Failpoints: named places at which a test has a step fail, the process die, or stand still.
//!
//! Only with the feature `failpoints`; without it [`failpoint!`] is nothing. Never in a release.

/// Marks a place. With an error the enclosing function can be made to fail with it there.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        crate::failpoint::pass($name);
    };
    ($name:literal, $error:expr) => {
        #[cfg(feature = "failpoints")]
        if crate::failpoint::reach($name) == crate::failpoint::Reached::Fails {
            return Err($error);
        }
    };
}

#[cfg(feature = "failpoints")]
pub use armed::{ALL, Point, Reached, Step, VARIABLE, arm, broken, disk_full, pass, reach};

#[cfg(feature = "failpoints")]
mod armed {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::{Signal, raise};

    /// Names the one armed point: `name=kill@3` for the third time it is reached; also `error`, `stall`.
    pub const VARIABLE: &str = "EXECUTOR_FAILPOINT";

    /// Whether the step at a point can fail in earnest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Step {
        /// It has an error that it may end with.
        Fails,
        /// It is done, or cannot but succeed.
        Stands,
    }

    /// A place in the program.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Point {
        /// Its name.
        pub name: &'static str,
        /// What can become of its step.
        pub step: Step,
    }

    const fn fails(name: &'static str) -> Point {
        Point { name, step: Step::Fails }
    }

    const fn stands(name: &'static str) -> Point {
        Point { name, step: Step::Stands }
    }

    /// All points, in the order of a job's life.
    pub const ALL: &[Point] = &[
        fails("open.migrated"),
        fails("recover.before"),
        fails("recover.between"),
        stands("recover.after"),
        fails("beat.before"),
        fails("lead.before"),
        fails("lead.after"),
        fails("fire.before"),
        fails("fire.after"),
        fails("take.before"),
        fails("take.after"),
        fails("accept.before"),
        fails("accept.inserted"),
        fails("accept.after"),
        fails("forget.before"),
        fails("forget.after"),
        fails("claim.before"),
        fails("claim.after"),
        fails("commit.before"),
        stands("commit.after"),
        stands("sync.before"),
        stands("sync.after"),
        stands("start.claimed"),
        fails("start.before"),
        stands("start.after"),
        stands("ending.before"),
        stands("ending.after"),
        fails("finish.before"),
        fails("finish.closed"),
        fails("finish.tell"),
        stands("finish.after"),
        fails("retry.put_off"),
        fails("retry.promote"),
        fails("outbox.read"),
        fails("outbox.send"),
        fails("outbox.sent"),
        fails("outbox.forget"),
        stands("shutdown.begun"),
        stands("shutdown.doors"),
        stands("shutdown.told"),
        stands("shutdown.slots"),
        stands("shutdown.closed"),
    ];

    /// What becomes of the step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Reached {
        /// It goes on.
        Passes,
        /// It fails.
        Fails,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Error,
        Stall,
    }

    #[derive(Debug)]
    struct Armed {
        name: String,
        action: Action,
        on: u32,
        reached: AtomicU32,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    fn read(text: &str) -> Option<Armed> {
        let (name, what) = text.split_once('=')?;
        let (action, on) = what.split_once('@')?;
        let action = match action {
            "kill" => Action::Kill,
            "error" => Action::Error,
            "stall" => Action::Stall,
            _ => return None,
        };
        let name = ALL.iter().find(|point| point.name == name)?.name.to_owned();
        Some(Armed { name, action, on: on.parse().ok()?, reached: AtomicU32::new(0) })
    }

    /// Arms the point that the variable's value names; `None` arms none. `Err`: it names none.
    ///
    /// # Errors
    /// The value, if it cannot be understood.
    pub fn arm(value: Option<&str>) -> Result<(), String> {
        let Some(value) = value else { return Ok(()) };
        let armed = read(value).ok_or_else(|| value.to_owned())?;
        ARMED.set(armed).map_err(|_| value.to_owned())
    }

    /// A point is reached: what was armed for this time happens.
    pub fn reach(name: &'static str) -> Reached {
        let Some(armed) = ARMED.get().filter(|armed| armed.name == name) else {
            return Reached::Passes;
        };
        if armed.reached.fetch_add(1, Ordering::Relaxed) + 1 != armed.on {
            return Reached::Passes;
        }
        tracing::warn!(event = "failpoint", name, action = ?armed.action, "as armed");
        let signal = match armed.action {
            Action::Error => return Reached::Fails,
            Action::Kill => Signal::SIGKILL,
            Action::Stall => Signal::SIGSTOP,
        };
        // It cannot fail for oneself, and there is nothing to do if it did.
        let _ = raise(signal);
        Reached::Passes
    }

    /// As [`reach`], where nothing can fail.
    pub fn pass(name: &'static str) {
        let _ = reach(name);
    }

    /// As a connection breaks.
    pub fn broken() -> io::Error {
        io::ErrorKind::BrokenPipe.into()
    }

    /// As a full disk is told.
    pub fn disk_full() -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)
    }
}
