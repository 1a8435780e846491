//! The chaos program: kills, drops, restarts and stalls under load, and the checks that nothing was
//! lost, run twice, or left behind. `make chaos` runs it for long, `make test` a short round.
//!
//! `CHAOS_ROUNDS` and `CHAOS_SEED` set how much and which; each mode says at its end what it counted,
//! and at a fault how to replay it. The seed decides what is done when; the machine, the rest.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that is surprised must fail")]
#![expect(clippy::print_stderr, reason = "a failed test shows the executor's log")]
#![expect(clippy::print_stdout, reason = "the program says what it counted")]

mod checks;
#[cfg(feature = "failpoints")]
mod failpoints;
mod fleet;
mod kills;
mod load;
mod lossy;
mod random;
mod replies;
mod resp;
mod restarts;
mod rows;
mod subject;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the integration tests")]
mod support;
mod world;

use std::path::PathBuf;
use std::time::Instant;

/// How much of it, and which.
struct Plan {
    mode: &'static str,
    rounds: u64,
    share: u64,
    seed: u64,
    begun: Instant,
}

impl Plan {
    /// As the environment says (of its rounds one in `share`), or a short round.
    fn new(mode: &'static str, short: u64, share: u64) -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let rounds = number("CHAOS_ROUNDS").map_or(short, |rounds| rounds.div_ceil(share));
        let seed = number("CHAOS_SEED").unwrap_or(1);
        Self { mode, rounds, share, seed, begun: Instant::now() }
    }

    /// Says what was counted.
    fn report(&self, counted: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("chaos {}: seed {}, {counted}; {seconds:.0} s", self.mode, self.seed);
    }

    /// Says what is wrong, and how to see it again.
    fn fault(&self, round: u64, what: &str, kept: &[PathBuf]) -> ! {
        panic!(
            "chaos {}: {what}\n  in round {round} of seed {}; kept: {kept:?}\n  again: make chaos MODE={} ROUNDS={} SEED={}",
            self.mode,
            self.seed,
            self.mode,
            self.rounds * self.share,
            self.seed
        );
    }
}
