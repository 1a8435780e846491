//! The escape zoo: every way out of a run's tree that we know of, against a real executor, as root and as an
//! ordinary user, in both start methods. `ESCAPES_ROUNDS` says how often (`make escapes ROUNDS=100`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::support::{
    Bench, Noted, PATIENCE, Row, alive, descendants, eventually, noted, text, value_of, within,
};

/// Long enough for a run to get its escapees in place on a loaded machine.
const TIMEOUT: f64 = 2.0;
const GRACE: f64 = 0.15;
/// The promise: from SIGKILL to a free slot, in seconds.
const FREE_WITHIN: f64 = 1.0;
/// The same beside a storm that leaves the executor a thirtieth of a processor, where tests run side by side.
const FREE_WITHIN_STORM: f64 = 3.0;
/// What the next run may need to begin, in a slot that perhaps has to be made first.
const BEGINS_WITHIN: f64 = 1.0;
/// Between two looks: the machine is busy enough.
const POLL: Duration = Duration::from_millis(20);
/// Escapes at once; the neighbour has one slot more.
const AT_ONCE: usize = 6;

/// How a run's own process ends once its escapees are in place, and so what must be said of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It hangs: killed at its deadline.
    Hang,
    /// It returns: COMPLETED.
    Return,
    /// It leaves without a result.
    Leave,
    /// It, or its slot, is killed by the escape: `CrashedError`.
    Killed,
}
use End::{Hang, Killed, Leave, Return};

/// One escape, and whether it may be tried only where the kernel scopes signals.
struct Escape {
    name: &'static str,
    ends: &'static [End],
    only_scoped: bool,
}

const fn escape(name: &'static str, ends: &'static [End]) -> Escape {
    Escape { name, ends, only_scoped: false }
}

/// The table. Functions of `tests/fixtures/tasks_misbehaving/tasks/escapes.py`.
const ZOO: &[Escape] = &[
    escape("fork_bomb", &[Hang, Return]),
    escape("setsid", &[Hang, Return]),
    escape("daemon", &[Hang, Return]),
    escape("nohup", &[Hang, Return]),
    escape("background_group", &[Hang]),
    escape("clone_parent", &[Hang, Return]),
    escape("subreaper", &[Hang, Return]),
    escape("scrubbed_environment", &[Hang]),
    escape("fork_chain", &[Hang, Return]),
    escape("renamed", &[Hang]),
    escape("spawned", &[Hang, Return]),
    escape("threads_that_fork", &[Hang, Return]),
    escape("without_main_thread", &[Hang, Return]),
    escape("own_pid_namespace", &[Hang, Return]),
    escape("ignores_sigterm", &[Hang]),
    escape("blocks_signals", &[Hang, Return]),
    escape("fast_fork_chain", &[Hang, Return]),
    escape("stops_itself", &[Hang, Return]),
    escape("stops_slot", &[Hang, Return]),
    escape("stops_slot_for_ever", &[Hang, Return]),
    escape("closes_pipes", &[Hang]),
    escape("holds_stdout", &[Hang, Return]),
    escape("traces_child", &[Hang, Return]),
    escape("traces_run", &[Hang, Return]),
    escape("bomb_without_slot", &[Killed]),
    escape("traces_slot", &[Hang, Return]),
    escape("leader_leaves", &[Leave]),
    escape("kills_slot", &[Killed]),
    Escape { name: "kills_ancestors", ends: &[Killed], only_scoped: true },
    Escape { name: "kills_everyone", ends: &[Killed], only_scoped: true },
];

#[test]
fn nothing_escapes_a_spawned_run() {
    println!("{}", zoo("spawn", bench("spawn")));
}

#[test]
fn nothing_escapes_a_forked_run() {
    println!("{}", zoo("forkserver", bench("forkserver")));
}

#[test]
fn nothing_escapes_a_spawned_run_of_an_ordinary_user() {
    println!("{}", zoo("spawn, ordinary user", of_user("spawn")));
}

#[test]
fn nothing_escapes_a_forked_run_of_an_ordinary_user() {
    println!("{}", zoo("forkserver, ordinary user", of_user("forkserver")));
}

const SETTINGS: [(&str, &str); 2] = [("CONCURRENCY", "7"), ("KILL_GRACE", "150ms")];

fn bench(method: &str) -> Bench {
    let mut bench = Bench::new(method, &SETTINGS);
    bench.executor.in_own_session();
    bench
}

fn of_user(method: &str) -> Bench {
    let mut bench = bench(method);
    bench.executor.of_ordinary_user();
    bench
}

fn rounds() -> usize {
    std::env::var("ESCAPES_ROUNDS").ok().map_or(3, |rounds| rounds.parse().unwrap())
}

fn zoo(title: &str, mut bench: Bench) -> String {
    bench.executor.serve();
    let scoped = bench.executor.healthz().1["isolation"] == "landlock-scope";
    let all = cases(scoped);
    let neighbour = Neighbour::begin(&bench);
    let mut after_kill = Vec::new();
    for round in 0..rounds() {
        for (number, batch) in all.chunks(AT_ONCE).enumerate() {
            let batch: Vec<Try> = batch
                .iter()
                .map(|(escape, end)| Try::push(&bench, &format!("{round}-{number}"), escape, *end))
                .collect();
            after_kill.extend(judge(&bench, title, &batch));
        }
    }
    let pause = neighbour.end(&bench);
    after_kill.sort_by(f64::total_cmp);
    let at = |share: usize| after_kill[(after_kill.len() - 1) * share / 100] * 1000.0;
    format!(
        "{title}: {} runs of {} escapes, scoped {scoped}; from kill to the row: median {:.0} ms, 99 % {:.0} ms, most {:.0} ms; the neighbour's longest pause {:.0} ms",
        after_kill.len(),
        ZOO.len(),
        at(50),
        at(99),
        at(100),
        pause * 1000.0,
    )
}

/// Every escape with every end; first ends first. The table is such that few storms meet in a batch.
fn cases(scoped: bool) -> Vec<(&'static Escape, End)> {
    let allowed = || ZOO.iter().filter(|escape| scoped || !escape.only_scoped);
    (0..2)
        .flat_map(|nth| allowed().filter_map(move |one| Some((one, *one.ends.get(nth)?))))
        .collect()
}

/// One run of one escape.
struct Try {
    id: String,
    end: End,
    path: PathBuf,
    mark: u64,
}

impl Try {
    fn push(bench: &Bench, prefix: &str, escape: &Escape, end: End) -> Self {
        let id = format!("{prefix}-{}-{end:?}", escape.name);
        let (path, mark) = (bench.path(&id), fresh_mark());
        let how = match end {
            Hang | Killed => "hang",
            Return => "return",
            Leave => "leave",
        };
        bench.push(
            &id,
            &format!("tasks.escapes:{}", escape.name),
            json!({"path": path, "mark": mark, "end": how}),
            json!({"timeout_seconds": if end == Hang { TIMEOUT } else { 20.0 }}),
        );
        Self { id, end, path, mark }
    }

    /// Whoever of it is alive.
    fn survivors(&self) -> Vec<i64> {
        let seen = noted(&self.path).into_iter().filter(|process| process.alive());
        seen.map(|process| process.pid).chain(marked(self.mark)).collect()
    }

    /// The verdict, and that it was in place at all.
    fn judge(&self, title: &str, row: &Row) {
        let told = format!("{title} {}: {row:#?}", self.id);
        assert!(self.ready().exists(), "was not in place before its end: {told}");
        let (error_type, error) = (text(row, "error_type"), text(row, "error"));
        match self.end {
            Return => assert_eq!(
                (&row["status"], text(row, "result")),
                (&json!("COMPLETED"), "\"escaped\""),
                "{told}"
            ),
            Hang => assert_eq!(
                (error_type, error),
                ("ToolTimeoutError", "Tool execution exceeded 2s"),
                "{told}"
            ),
            Leave => assert_eq!(
                (error_type, error),
                ("CrashedError", "left without a result (exit code 7)"),
                "{told}"
            ),
            Killed => {
                let reasons =
                    ["its slot was killed under it", "killed from outside, perhaps out of memory"];
                assert!(error_type == "CrashedError" && reasons.contains(&error), "{told}");
            }
        }
        let traceback = text(row, "traceback");
        let says =
            traceback.contains("escapes.py") || traceback.contains("No Python stack could be had");
        assert!(says || self.end == Return, "{told}");
    }

    fn ready(&self) -> PathBuf {
        PathBuf::from(format!("{}.ready", self.path.display()))
    }

    /// When its slot was due to be cleared, in seconds since the epoch: the deadline and the grace after it
    /// began (the first that was noted), or the moment at which it was ready to end by itself.
    fn due(&self) -> f64 {
        let ready = std::fs::metadata(self.ready()).unwrap().modified().unwrap();
        let begun = std::fs::metadata(&self.path).unwrap().created().unwrap_or(ready);
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        if self.end == Hang {
            since(begun).as_secs_f64() + TIMEOUT + GRACE
        } else {
            since(ready).as_secs_f64()
        }
    }
}

fn seconds(time: &str) -> f64 {
    let time = time.parse::<executor::clock::Timestamp>().unwrap();
    Duration::from_micros(u64::try_from(time.as_microsecond()).unwrap()).as_secs_f64()
}

/// Waits for a batch and for as many runs after it; gives the seconds from each kill to its row.
fn judge(bench: &Bench, title: &str, batch: &[Try]) -> Vec<f64> {
    let after: Vec<String> = batch.iter().map(|one| format!("{}-after", one.id)).collect();
    for id in &after {
        bench.push(id, "tasks.good:noop", json!({}), json!({}));
    }
    let mut open: Vec<&Try> = batch.iter().collect();
    eventually(&format!("{title}: the batch to end"), || {
        open.retain(|one| {
            let ended = bench.executor.job(&one.id).filter(|row| row["finished_at"].is_string());
            let Some(row) = ended else { return true };
            let left = one.survivors();
            assert!(left.is_empty(), "{title} {}: {left:?} outlived its row", one.id);
            one.judge(title, &row);
            false
        });
        std::thread::sleep(POLL);
        open.is_empty().then_some(())
    });
    let storm = batch.iter().any(|one| one.id.contains("bomb"));
    let allowed = if storm { FREE_WITHIN_STORM } else { FREE_WITHIN };
    let mut due: Vec<f64> = Vec::new();
    let mut taken = Vec::new();
    for one in batch {
        let attempt = bench.attempt(&one.id);
        let at = one.due();
        due.push(at);
        let late = seconds(text(&attempt, "finished_at")) - at;
        assert!(late < allowed, "{title} {}: its slot was free {late} s after the kill", one.id);
        taken.push(late);
        for file in [one.path.clone(), one.ready()] {
            std::fs::remove_file(file).unwrap();
        }
    }
    let mut begun: Vec<f64> = after
        .iter()
        .map(|id| {
            bench.executor.ended(id);
            seconds(text(&bench.attempt(id), "started_at"))
        })
        .collect();
    due.sort_by(f64::total_cmp);
    begun.sort_by(f64::total_cmp);
    for (due, begun) in due.iter().zip(begun) {
        assert!(
            begun - due < allowed + BEGINS_WITHIN,
            "{title}: the next run began {} s after the kill",
            begun - due
        );
    }
    taken
}

/// A value of RLIMIT_MSGQUEUE that no other process has.
fn fresh_mark() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MSGQUEUE)
        .unwrap()
        .1
        .min(800_000);
    let first = u64::from(std::process::id()) * 7919;
    1 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % (most - 1)
}

/// All processes alive that bear this mark.
fn marked(mark: u64) -> Vec<i64> {
    let bears = |pid: &i64| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let line =
            text.lines().find(|line| line.starts_with("Max msgqueue size")).unwrap_or_default();
        line.split_ascii_whitespace().nth(3) == Some(mark.to_string().as_str())
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| alive(*pid) && bears(pid))
        .collect()
}

/// A run in another slot, which must notice nothing.
struct Neighbour {
    release: PathBuf,
    seen: Vec<Noted>,
}

impl Neighbour {
    fn begin(bench: &Bench) -> Self {
        let (path, release) = (bench.path("calm"), bench.path("release"));
        bench.push(
            "calm",
            "tasks.escapes:calm",
            json!({"path": path, "release": release}),
            json!({"timeout_seconds": 7200}),
        );
        let seen =
            eventually("the neighbour", || Some(noted(&path)).filter(|seen| !seen.is_empty()));
        Self { release, seen }
    }

    /// The longest pause between two of its steps, in seconds.
    fn end(self, bench: &Bench) -> f64 {
        assert!(self.seen[0].alive());
        std::fs::write(&self.release, "").unwrap();
        let row = bench.executor.ended("calm");
        assert_eq!(
            (&row["status"], &row["attempts"]),
            (&json!("COMPLETED"), &json!(1)),
            "{row:#?}"
        );
        assert_eq!(bench.attempt("calm")["survivors_killed"], 0);
        value_of(&row).as_f64().unwrap()
    }
}

#[test]
fn nothing_outlives_an_executor_that_is_killed() {
    for method in ["spawn", "forkserver"] {
        println!("{}", outlive(method, bench(method)));
        println!("{}", outlive(&format!("{method}, ordinary user"), of_user(method)));
    }
}

fn outlive(title: &str, mut bench: Bench) -> String {
    let hanging: Vec<&Escape> = ZOO.iter().filter(|escape| escape.ends.contains(&Hang)).collect();
    let mut worst = Duration::ZERO;
    for round in 0..rounds().div_ceil(3) {
        for (number, batch) in hanging.chunks(AT_ONCE).enumerate() {
            bench.executor.serve();
            let batch: Vec<Try> = batch
                .iter()
                .map(|escape| Try::push(&bench, &format!("{round}-{number}"), escape, Killed))
                .collect();
            for one in &batch {
                eventually(&one.id, || one.ready().exists().then_some(()));
            }
            let slots = descendants(bench.executor.pid());
            bench.executor.kill();
            let begun = Instant::now();
            let left = || -> Vec<(String, i64)> {
                let theirs = batch
                    .iter()
                    .flat_map(|one| one.survivors().into_iter().map(|pid| (one.id.clone(), pid)));
                let slots = slots
                    .iter()
                    .filter(|pid| alive(**pid))
                    .map(|pid| ("a slot's".to_owned(), *pid));
                theirs.chain(slots).collect()
            };
            while !left().is_empty() && begun.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(left(), [], "{title}: alive 2 s after the executor");
            worst = worst.max(begun.elapsed());
            reset(&mut bench);
        }
    }
    format!("{title}: after kill -9 of the executor all was gone within {} ms", worst.as_millis())
}

/// Forgets all jobs, so that those cut short do not begin again.
fn reset(bench: &mut Bench) {
    for entry in std::fs::read_dir(bench.executor.dir.path()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("ledger.db") && entry.path().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    bench.redis.run::<()>(&["FLUSHALL"]);
    within(PATIENCE, "the directory to be clean", || {
        (!Path::new(&bench.executor.ledger_path()).exists()).then_some(())
    });
}
