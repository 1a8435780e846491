//! One executor under test: its lives, its kills, and what is left of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::checks::{Checked, History, must};
use crate::rows;
use crate::support::{Executor, RedisServer};

/// Until an executor must have begun, on a loaded machine.
const START: Duration = Duration::from_secs(30);
/// Until nothing of an executor that has ended may be left (SPEC 8).
const GONE: Duration = Duration::from_secs(2);
/// Carries the mark of one life into all its processes.
const MARK: &str = "CHAOS_LIFE";

pub(crate) struct Subject {
    pub(crate) executor: Executor,
    pub(crate) lives: u32,
    /// When it was killed.
    pub(crate) kills: Vec<String>,
    pub(crate) slots: usize,
    /// How it last ended by itself.
    pub(crate) last_end: String,
    mark: String,
    history: History,
    alive: bool,
}

impl Subject {
    /// One that has not been started, with a ledger of its own.
    pub(crate) fn new(redis_url: &str, name: &str, slots: usize) -> Self {
        let mut executor = Executor::new(None);
        let tasks = crate::support::fixtures().join("tasks_chaos");
        executor
            .set("REDIS_URL", redis_url)
            .set("EXECUTOR_ID", name)
            .set("CONCURRENCY", &slots.to_string())
            .set("TASKS_PATH", tasks.to_str().unwrap())
            .set("TOOLS_PATH", tasks.join("tools").to_str().unwrap())
            .set("PYTHON", python())
            .set("PASS_ENV", MARK)
            .set("HTTP_ADDR", "none")
            .set("HEARTBEAT_INTERVAL", "1s")
            .set("RETRY_BACKOFF_MIN", "50ms")
            .set("RETRY_BACKOFF_MAX", "200ms")
            .set("KILL_GRACE", "200ms")
            .set("LOG_LEVEL", "info");
        let mark = executor.dir.path().display().to_string();
        Self {
            executor,
            lives: 0,
            kills: Vec::new(),
            slots,
            last_end: String::new(),
            mark,
            history: History::default(),
            alive: false,
        }
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.executor.ledger_path()
    }

    /// A path beside the ledger.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.executor.dir.path().join(name)
    }

    /// Starts it, and does not wait.
    pub(crate) fn begin(&mut self) {
        self.lives += 1;
        let life = format!("{}#{}", self.mark, self.lives);
        self.executor.set(MARK, &life).serve_unready();
        self.alive = true;
    }

    /// Waits until it serves. No process of an earlier life is left by then.
    pub(crate) fn ready(&mut self) -> Checked {
        let begun = Instant::now();
        while self.executor.count("ready") == 0 {
            if let Some(status) = self.executor.exited() {
                return Err(format!("life {} ended before it was ready: {status}", self.lives));
            }
            must(begun.elapsed() < START, || {
                format!("life {} is not ready after {START:?}", self.lives)
            })?;
            std::thread::sleep(Duration::from_millis(2));
        }
        let of_now = format!("{}#{}", self.mark, self.lives);
        let old: Vec<String> =
            marked(&self.mark).into_iter().filter(|(_, life)| *life != of_now).map(tell).collect();
        must(old.is_empty(), || format!("life {} serves, and this is left: {old:?}", self.lives))
    }

    /// Whether it has ended by itself; then its end counts as a kill, now.
    pub(crate) fn has_died(&mut self) -> bool {
        if self.alive && self.executor.exited().is_some() {
            self.last_end = self.executor.wait().to_string();
            self.kills.push(now());
            self.alive = false;
        }
        !self.alive
    }

    pub(crate) fn kill(&mut self) {
        // Once it is dead: it may begin one more job until then, and records of what was cut short are later.
        self.executor.kill();
        self.kills.push(now());
        self.alive = false;
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.alive = false;
        self.executor.terminate()
    }

    /// What has ended stays as it is, and attempts only rise.
    pub(crate) fn sample(&mut self) -> Checked {
        self.history.sample(rows::jobs(&self.ledger()))
    }

    /// `executor fsck` finds nothing.
    pub(crate) fn fsck(&self) -> Checked {
        let output = self.executor.output(&["fsck", "--json"]);
        must(output.status.code() == Some(0), || {
            let (said, error) = (&output.stdout, &output.stderr);
            format!("fsck: {}{}", String::from_utf8_lossy(said), String::from_utf8_lossy(error))
        })
    }

    /// No process of any life is there, once the last has had the time it may take to go.
    pub(crate) fn nothing_left(&self) -> Checked {
        let begun = Instant::now();
        loop {
            let left = marked(&self.mark);
            if left.is_empty() {
                return Ok(());
            }
            must(begun.elapsed() < GONE, || {
                let left: Vec<String> = left.into_iter().map(tell).collect();
                format!("the executor has ended, and {GONE:?} later this is left: {left:?}")
            })?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Keeps its files for whoever looks into a fault.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.executor.dir.disable_cleanup(true);
        self.executor.dir.path().to_owned()
    }
}

#[cfg(feature = "failpoints")]
impl Subject {
    /// Waits for its own end: the exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.alive = false;
        self.executor.wait().code()
    }

    /// Ends it with SIGTERM, unless it has ended, or is about to by itself.
    pub(crate) fn end_by(&mut self, patience: Duration) -> Checked {
        let begun = Instant::now();
        while !self.has_died() {
            if self.executor.count("ready") > 0 {
                let code = self.terminate();
                return must(code == Some(0), || format!("SIGTERM ended it with {code:?}"));
            }
            must(begun.elapsed() < patience, || "it neither begins nor ends".to_owned())?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// What is in Redis of this queue, and in these ledgers, while nobody moves anything.
pub(crate) fn places(
    redis: &RedisServer,
    queue: &str,
    subjects: &[&Subject],
) -> crate::checks::Places {
    let list = redis.run(&["LRANGE", queue, "0", "-1"]);
    let (mut noted, mut jobs) = (Vec::new(), Vec::new());
    for subject in subjects {
        jobs.extend(rows::jobs(&subject.ledger()));
        if let Some(id) = rows::ledger_id(&subject.ledger()) {
            let notes: Vec<(String, Vec<u8>)> =
                redis.run(&["HGETALL", &format!("executor:accepting:{id}")]);
            noted.extend(notes);
        }
    }
    crate::checks::Places { list, noted, jobs }
}

/// The interpreter itself: a launcher before it (pyenv's is several shells) would take most of a life.
fn python() -> &'static str {
    static FOUND: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| {
        let asked = std::process::Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .unwrap();
        String::from_utf8(asked.stdout).unwrap().trim().to_owned()
    })
}

/// Now, as the ledger writes it.
pub(crate) fn now() -> String {
    executor::clock::text(executor::clock::now())
}

fn tell((pid, life): (i32, String)) -> String {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    format!("{pid} of {life}: {}", command.chars().take(120).collect::<String>())
}

/// All processes alive whose environment bears the mark, with the life it names. What is about to
/// die for good (SIGKILL has been sent) is given a moment.
fn marked(mark: &str) -> Vec<(i32, String)> {
    let want = format!("{MARK}={mark}#");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { continue };
        let life = environment
            .split(|byte| *byte == 0)
            .map(String::from_utf8_lossy)
            .find(|word| word.starts_with(&want));
        if let Some(life) = life
            && crate::support::alive(i64::from(pid))
        {
            found.push((pid, life.trim_start_matches(&format!("{MARK}=")).to_owned()));
        }
    }
    found
}
