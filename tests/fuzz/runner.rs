//! Runs the cases of one target: seeded, timed, its memory watched.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proptest::prelude::{ProptestConfig, Strategy};
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Cases of each target in an ordinary run.
const CASES: u32 = 2_000;
/// The seed of an ordinary run: everyone tests the same.
const SEED: u64 = 20_261_128;
/// A single case that takes longer hangs.
const HANGS: Duration = Duration::from_secs(20);
/// How much a target may leave behind in memory.
const GROWTH_KIB: u64 = 50 * 1024;

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Err(_) => default,
        Ok(text) => text.parse().ok().unwrap_or_else(|| panic!("{name} is {text}: no number")),
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Ends the process with a word if one case takes too long. A panic could not reach it.
fn watch(target: &'static str, seed: u64, case: &Arc<AtomicU64>) {
    let case = Arc::downgrade(case);
    std::thread::spawn(move || {
        let (mut seen, mut since) = (0, Instant::now());
        while let Some(case) = case.upgrade() {
            let now = case.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > HANGS {
                eprintln!("fuzz {target}: case {now} hangs; FUZZ_SEED={seed} repeats it");
                std::process::abort();
            }
            drop(case);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

/// Checks so many cases of a target; a failure is made as small as can be and shown.
pub(crate) fn fuzz<S: Strategy>(
    target: &'static str,
    inputs: &S,
    check: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let (cases, seed) = (number("FUZZ_CASES", CASES), number("FUZZ_SEED", SEED));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    // One after the other, so that what grows is its own.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (begun, before) = (Instant::now(), resident_kib());
    let case = Arc::new(AtomicU64::new(0));
    watch(target, seed, &case);
    let outcome = runner.run(inputs, |input| {
        case.fetch_add(1, Ordering::Relaxed);
        check(input)
    });
    let ran = case.load(Ordering::Relaxed);
    let growth = resident_kib().saturating_sub(before);
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("fuzz {target}: {ran} cases, seed {seed}, {seconds:.1} s, {growth} KiB grown");
    if let Err(error) = outcome {
        panic!("fuzz {target}: FUZZ_SEED={seed} FUZZ_CASES={cases} repeats it: {error}");
    }
    assert!(growth < GROWTH_KIB, "fuzz {target}: {growth} KiB were left behind");
    assert_eq!(ran, u64::from(cases));
}
