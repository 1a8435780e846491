//! Runs in slots: what they return, how they are ended, what they cannot harm.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use executor::config::Preload;
use executor::job::{JobId, Limits, StartMethod, Target};
use executor::log::{OutputLine, OutputSink};
use executor::outcome::{Cause, Exit, Failure, Limit, Outcome, Report, RunEvent};
use executor::slots::{Action, Options, Run, Slots, Stop};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};

/// Slots with a directory of tools, and all that they write.
struct Bench {
    root: tempfile::TempDir,
    slots: Slots,
    lines: tokio::task::JoinHandle<Vec<OutputLine>>,
}

fn options(root: &std::path::Path, start_method: StartMethod) -> Options {
    let path = |name: &str| {
        let path = root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    Options {
        launcher: PathBuf::from(env!("CARGO_BIN_EXE_executor")),
        slots: 1,
        interpreter: "python3".into(),
        start_method,
        preload: Preload::None,
        environment: ["PATH", "HOME"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect::<BTreeMap<_, _>>(),
        allowed_modules: vec!["tasks".into()],
        tasks_path: path("tasks_root"),
        tools_path: path("tools"),
        runtime_dir: path("runtime"),
        limits: Limits { open_files: Some(1024), ..Limits::default() },
        kill_grace: Duration::from_millis(300),
        result_max_bytes: 10240,
        log_tail_bytes: 65536,
    }
}

impl Bench {
    async fn new(start_method: StartMethod, change: impl FnOnce(&mut Options)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut options = options(root.path(), start_method);
        change(&mut options);
        let (sink, mut receiver) = OutputSink::channel(64);
        let lines = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(line) = receiver.recv().await {
                all.push(line);
            }
            all
        });
        let slots = Slots::start(options, sink).await.unwrap();
        Self { root, slots, lines }
    }

    fn tool(&self, name: &str, text: &str) -> Run {
        std::fs::write(self.root.path().join(format!("tools/{name}.py")), text).unwrap();
        Run {
            job_id: JobId::fresh(),
            attempt: 1,
            run_id: None,
            experiment_id: None,
            target: Target::Tool(name.into()),
            parameters: RawValue::from_string("{}".into()).unwrap(),
            timeout: Duration::from_secs(20),
            action: Action::Call,
        }
    }

    async fn run(&self, run: Run) -> Report {
        let (_stop, stop) = watch::channel(Stop::No);
        let (events, mut receiver) = mpsc::channel(1000);
        let report = self.slots.run(run, stop, |_| {}, events).await;
        receiver.close();
        report
    }

    /// Processes that bear this word in their command line.
    fn find(&self, word: &str) -> Vec<i32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(word) {
                found.push(pid);
            }
        }
        found
    }

    async fn close(self) -> Vec<OutputLine> {
        self.slots.close().await;
        drop(self.slots);
        self.lines.await.unwrap()
    }
}

fn failure(report: &Report) -> &Failure {
    match &report.outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}\n{}", report.log_tail),
    }
}

fn value(report: &Report) -> &str {
    match &report.outcome {
        Outcome::Succeeded(success) => success.value.get(),
        other => panic!("{other:?}\n{}", report.log_tail),
    }
}

const BOTH: [StartMethod; 2] = [StartMethod::Spawn, StartMethod::Forkserver];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_returns_its_result_and_sees_its_environment() {
    for method in BOTH {
        let bench = Bench::new(method, |_| {}).await;
        let text = "import os, sys, tempfile\n\
            def run():\n    print('hello'); os.write(2, b'err\\n')\n    \
            return [os.environ['EXECUTOR_ATTEMPT'], os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd')),\n            \
            os.path.isdir(os.environ['TMPDIR']), os.environ['TMPDIR'], os.readlink('/proc/self/fd/0')]\n";
        let mut run = bench.tool("env", text);
        run.attempt = 3;
        let report = bench.run(run).await;
        let seen: serde_json::Value = serde_json::from_str(value(&report)).unwrap();
        assert_eq!(seen[0], "3");
        assert_eq!(seen[1], true);
        assert_eq!(seen[3], true);
        assert_eq!(seen[5], "/dev/null");
        let fds: Vec<&str> =
            seen[2].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert!(fds.len() <= 6 && fds.contains(&"200") && fds.contains(&"201"), "{fds:?}");
        assert!(!std::path::Path::new(seen[4].as_str().unwrap()).exists());
        assert_eq!(report.exit, Some(Exit::Code(0)));
        assert_eq!(report.log_bytes, 10);
        assert_eq!(report.survivors_killed, 0);
        assert!(report.log_tail.contains("hello\n") && report.log_tail.contains("err\n"));
        let lines = bench.close().await;
        assert_eq!(lines.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exception_is_told_with_its_traceback() {
    for method in BOTH {
        let bench = Bench::new(method, |_| {}).await;
        let report = bench.run(bench.tool("bad", "def run():\n    raise KeyError('x')\n")).await;
        let failure = failure(&report);
        assert_eq!(failure.error_type, "KeyError");
        assert!(failure.traceback.contains("bad.py"), "{}", failure.traceback);
        assert_eq!(failure.cause, Cause::Raised { transient: false });
        let report = bench.run(bench.tool("bad", "def run():\n    return 2\n")).await;
        assert_eq!(value(&report), "2");
        bench.close().await;
    }
}

/// Every way out of a tree that we know of.
const ESCAPES: &str = "
import os, signal, subprocess, sys, time
def hide():
    for n in (1, 2, 15):
        signal.signal(n, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {1, 2, 15})
def child(act):
    if os.fork() == 0:
        act()
        os._exit(0)
WAIT = 'import time; time.sleep(1000) #'
def daemon():
    os.setsid()
    if os.fork() == 0:
        hide()
        os.execv(sys.executable, [sys.executable, '-c', WAIT + WORD])
def stopped():
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, '-c', 'import os; os.kill(os.getpid(), 19) #' + WORD])
def bomb():
    os.setsid()
    end = time.time() + 30
    n = 0
    while time.time() < end:
        if os.fork():
            os._exit(0)
        os.setsid()
def storm():
    for _ in range(7):
        os.fork()
    hide()
    end = time.time() + 30
    while time.time() < end:
        if os.fork() == 0:
            os._exit(0)
        os.waitpid(-1, 0)
def run(word):
    global WORD
    WORD = word
    hide()
    child(daemon); child(stopped); child(bomb); child(storm)
    subprocess.Popen([sys.executable, '-c', WAIT + word], start_new_session=True)
    print('ready', flush=True)
    LEAVE
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_deadline_everything_dies_whatever_it_did() {
    for method in BOTH {
        let bench = Bench::new(method, |_| {}).await;
        let word = format!("escapee-{}", JobId::fresh());
        let mut run = bench.tool("escape", &ESCAPES.replace("LEAVE", "time.sleep(1000)"));
        run.parameters = RawValue::from_string(format!("{{\"word\":\"{word}\"}}")).unwrap();
        run.timeout = Duration::from_millis(1200);
        let begun = Instant::now();
        let report = bench.run(run).await;
        assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
        let failure = failure(&report);
        assert_eq!(failure.error, "Tool execution exceeded 1.2s");
        assert!(failure.traceback.contains("escape.py"), "{}", failure.traceback);
        assert!(report.survivors_killed >= 3, "{}", report.survivors_killed);
        assert_eq!(bench.find(&word), Vec::<i32>::new());
        // Forks bear the command line of what they were forked from: slot and next process remain.
        let root = bench.root.path().to_str().unwrap();
        assert!(
            until(Duration::from_secs(2), || bench.find(root).len() == 2).await,
            "{:?}",
            bench.find(root)
        );
        let report = bench.run(bench.tool("next", "def run():\n    return 1\n")).await;
        assert_eq!(value(&report), "1");
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_leaves_behind_is_killed_after_a_normal_end() {
    let bench = Bench::new(StartMethod::Spawn, |_| {}).await;
    let word = format!("survivor-{}", JobId::fresh());
    let mut run = bench.tool("leave", &ESCAPES.replace("LEAVE", "return 5"));
    run.parameters = RawValue::from_string(format!("{{\"word\":\"{word}\"}}")).unwrap();
    let report = bench.run(run).await;
    assert_eq!(value(&report), "5");
    assert!(report.survivors_killed >= 2, "{}", report.survivors_killed);
    assert_eq!(bench.find(&word), Vec::<i32>::new());
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_say_why() {
    for method in BOTH {
        let bench = Bench::new(method, |_| {}).await;
        let crash = "import ctypes\ndef run():\n    ctypes.string_at(0)\n";
        let report = bench.run(bench.tool("segv", crash)).await;
        assert_eq!(failure(&report).error_type, "CrashedError");
        assert!(
            failure(&report).traceback.contains("Segmentation fault"),
            "{}",
            failure(&report).traceback
        );
        assert_eq!(report.exit, Some(Exit::Signal(11)));
        let report = bench
            .run(bench.tool(
                "leave",
                "import os\ndef run():\n    print('last words', flush=True)\n    os._exit(7)\n",
            ))
            .await;
        assert_eq!(failure(&report).error, "left without a result (exit code 7)");
        assert!(failure(&report).traceback.ends_with("last words"));
        let report =
            bench
                .run(bench.tool(
                    "fds",
                    "import os\ndef run():\n    os.closerange(0, 1024)\n    return 1\n",
                ))
                .await;
        assert_eq!(failure(&report).error, "the callable closed its descriptors");
        let report = bench
            .run(bench.tool("kill", "import os\ndef run():\n    os.kill(os.getpid(), 9)\n"))
            .await;
        assert_eq!(failure(&report).error, "killed from outside, perhaps out of memory");
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_counted_whole_and_its_end_kept() {
    let bench = Bench::new(StartMethod::Spawn, |options| options.log_tail_bytes = 1000).await;
    let text = "import sys\ndef run():\n    for _ in range(5000):\n        sys.stdout.write('x' * 9999 + '\\n')\n    print('the end')\n";
    let report = bench.run(bench.tool("flood", text)).await;
    assert_eq!(value(&report), "null");
    assert_eq!(report.log_bytes, 50_000_008);
    assert!(report.log_tail.len() == 1000 && report.log_tail.ends_with("x\nthe end\n"));
    assert_eq!(bench.close().await.len(), 5001);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_of_the_whole_tree() {
    for method in BOTH {
        let bench = Bench::new(method, |options| {
            options.limits.memory_bytes = Some(80 << 20);
            options.limits.cpu = Some(Duration::from_secs(1));
            options.limits.processes = Some(4);
        })
        .await;
        let memory = "import os, time\ndef run():\n    for _ in range(2):\n        os.fork()\n    kept = b'x' * (30 << 20)\n    time.sleep(15)\n";
        let report = bench.run(bench.tool("memory", memory)).await;
        assert_eq!(failure(&report).cause, Cause::Limit(Limit::Memory), "{:?}", failure(&report));
        assert!(report.usage.max_rss_bytes > 80 << 20);
        let report =
            bench.run(bench.tool("huge", "def run():\n    return len(bytearray(4 << 30))\n")).await;
        assert_eq!(failure(&report).error_type, "MemoryLimitError", "{:?}", failure(&report));
        let cpu = "import os\ndef run():\n    os.fork()\n    while True: pass\n";
        let report = bench.run(bench.tool("cpu", cpu)).await;
        assert_eq!(failure(&report).error_type, "CpuLimitError", "{:?}", failure(&report));
        assert!(report.usage.cpu_seconds > 1.0);
        let many = "import os, time\ndef run():\n    for _ in range(5):\n        if os.fork() == 0: break\n    time.sleep(15)\n";
        let report = bench.run(bench.tool("many", many)).await;
        assert_eq!(failure(&report).error_type, "ProcessLimitError", "{:?}", failure(&report));
        let small =
            bench.run(bench.tool("small", "def run():\n    return len(b'x' * (20 << 20))\n")).await;
        assert_eq!(value(&small), "20971520");
        assert!(
            small.usage.max_rss_bytes > 20 << 20 && small.usage.max_rss_bytes < 60 << 20,
            "{:?}",
            small.usage
        );
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_may_kill_its_slot_but_the_next_one_gets_another() {
    let bench = Bench::new(StartMethod::Spawn, |_| {}).await;
    let word = format!("orphan-{}", JobId::fresh());
    let text = format!(
        "import os, subprocess, sys, time\ndef run():\n    slot = os.getppid()\n    \
         subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000) #{word}'], start_new_session=True)\n    \
         os.kill(slot, 9)\n    time.sleep(1000)\n"
    );
    let report = bench.run(bench.tool("rebel", &text)).await;
    assert_eq!(failure(&report).error, "its slot was killed under it");
    assert_eq!(bench.find(&word), Vec::<i32>::new());
    // Killed while idle, and then the process parked in it.
    for of_slot in [true, false] {
        let root = bench.root.path().to_str().unwrap().to_owned();
        assert!(until(Duration::from_secs(5), || bench.find(&root).len() == 2).await);
        let me = std::process::id();
        let victim = bench.find(&root).into_iter().find(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains(&format!("PPid:\t{me}\n")) == of_slot
        });
        let victim = nix::unistd::Pid::from_raw(victim.unwrap());
        nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
        let dead = || match std::fs::read_to_string(format!("/proc/{victim}/status")) {
            Ok(status) => status.contains("\nState:\tZ"),
            Err(_) => true,
        };
        assert!(until(Duration::from_secs(5), dead).await);
        let report = bench.run(bench.tool("after", "def run():\n    return 4\n")).await;
        assert_eq!(value(&report), "4");
    }
    let stopping = "import os, time\ndef run():\n    os.kill(os.getppid(), 19)\n    return 3\n";
    let report = bench.run(bench.tool("stopper", stopping)).await;
    assert_eq!(value(&report), "3");
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_to_everybody_reach_only_its_own_slot() {
    let bench = Bench::new(StartMethod::Spawn, |_| {}).await;
    if bench.slots.tier().name == "landlock-scope" {
        let text = format!(
            "import os\ndef run():\n    try:\n        os.kill({}, 0)\n    except PermissionError:\n        return 'refused'\n",
            std::process::id()
        );
        let report = bench.run(bench.tool("reach", &text)).await;
        assert_eq!(value(&report), "\"refused\"");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_kills_everybody_harms_itself_alone() {
    let bench = Bench::new(StartMethod::Forkserver, |options| options.slots = 2).await;
    if bench.slots.tier().name != "landlock-scope" {
        bench.close().await;
        return;
    }
    let calm =
        bench.tool("calm", "import time\ndef run():\n    time.sleep(1)\n    return 'calm'\n");
    let wild = "import os, time\ndef run():\n    os.kill(-1, 9)\n    time.sleep(1000)\n";
    let wild = bench.tool("wild", wild);
    let (calm, wild) = tokio::join!(bench.run(calm), bench.run(wild));
    assert_eq!(value(&calm), "\"calm\"");
    assert_eq!(failure(&wild).error_type, "CrashedError");
    let more = [1, 2, 3].map(|_| bench.tool("calm", "def run():\n    return 2\n"));
    for run in more {
        assert_eq!(value(&bench.run(run).await), "2");
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_stuck_delays_no_deadline() {
    let root = tempfile::tempdir().unwrap();
    let (sink, stuck) = OutputSink::channel(1);
    let slots = Slots::start(options(root.path(), StartMethod::Spawn), sink).await.unwrap();
    let bench = Bench { root, slots, lines: tokio::spawn(async { Vec::new() }) };
    let mut run = bench.tool("flood", "def run():\n    while True: print('x' * 100)\n");
    run.timeout = Duration::from_millis(500);
    let begun = Instant::now();
    let report = bench.run(run).await;
    assert_eq!(failure(&report).cause, Cause::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(report.log_bytes > 60_000 && report.log_bytes < 1_000_000, "{}", report.log_bytes);
    drop(stuck);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_are_followed_in_their_order() {
    let bench = Bench::new(StartMethod::Spawn, |_| {}).await;
    let polite = "import signal, threading\ndef run():\n    gone = threading.Event()\n    \
        signal.signal(15, lambda *a: gone.set())\n    print('ready', flush=True)\n    \
        from executor_shim import emit\n    emit('ready')\n    gone.wait()\n    return 'finished'\n";
    let stubborn = "import signal, time\nfrom executor_shim import emit, partial\ndef run():\n    \
        signal.signal(15, signal.SIG_IGN)\n    partial({'n': 1})\n    emit('ready')\n    time.sleep(1000)\n";
    for (text, stop, cause) in [
        (polite, Stop::Shutdown(Duration::from_secs(5)), None),
        (stubborn, Stop::Shutdown(Duration::from_millis(100)), Some(Cause::Shutdown)),
        (stubborn, Stop::Cancel, Some(Cause::Cancelled)),
        (stubborn, Stop::Kill, Some(Cause::Shutdown)),
    ] {
        let run = bench.tool("stop", text);
        let (raise, receiver) = watch::channel(Stop::No);
        let (events, mut told) = mpsc::channel(10);
        let waits = async {
            while let Some(event) = told.recv().await {
                if matches!(&event, RunEvent::Emit { name, .. } if name == "ready") {
                    raise.send(stop).unwrap();
                }
            }
        };
        let (report, ()) = tokio::join!(bench.slots.run(run, receiver, |_| {}, events), waits);
        match cause {
            None => assert_eq!(value(&report), "\"finished\""),
            Some(cause) => {
                assert_eq!(failure(&report).cause, cause);
                assert_eq!(failure(&report).partial_results.as_ref().unwrap().get(), "{\"n\":1}");
                assert!(
                    failure(&report).traceback.contains("stop.py"),
                    "{}",
                    failure(&report).traceback
                );
            }
        }
    }
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_any_size_arrives() {
    let bench = Bench::new(StartMethod::Forkserver, |_| {}).await;
    let mut run = bench.tool("big", "def run(text):\n    return len(text)\n");
    run.parameters =
        RawValue::from_string(format!("{{\"text\":\"{}\"}}", "x".repeat(900_000))).unwrap();
    assert_eq!(value(&bench.run(run).await), "900000");
    bench.close().await;
}

#[tokio::test]
async fn an_interpreter_that_is_none_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for interpreter in ["/nonexistent/python3", "/bin/false"] {
        let options =
            Options { interpreter: interpreter.into(), ..options(root.path(), StartMethod::Spawn) };
        let error = Slots::start(options, OutputSink::channel(1).0).await.unwrap_err();
        assert!(error.to_string().starts_with(interpreter), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_costs() {
    for method in BOTH {
        let bench = Bench::new(method, |options| options.slots = 4).await;
        let run = bench.tool("noop", "def run():\n    return None\n");
        let begun = Instant::now();
        let total: u32 = 200;
        let mut left = tokio::task::JoinSet::new();
        for _ in 0..total {
            let (slots, run) = (bench.slots.clone(), run.clone());
            left.spawn(async move {
                let (_stop, stop) = watch::channel(Stop::No);
                let (events, _receiver) = mpsc::channel(1000);
                slots.run(run, stop, |_| {}, events).await
            });
        }
        while let Some(report) = left.join_next().await {
            assert_eq!(value(&report.unwrap()), "null");
        }
        println!("{method}: {:.0} runs/s", f64::from(total) / begun.elapsed().as_secs_f64());
        bench.close().await;
    }
}

/// Not a test by itself: what `if_the_executor_is_killed_…` starts as a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_to_be_killed() {
    let Ok(word) = std::env::var("SLOTS_TO_BE_KILLED") else { return };
    let ready = std::env::var("SLOTS_READY").unwrap();
    executor::slots::harden().unwrap();
    let bench = Bench::new(StartMethod::Forkserver, |_| {}).await;
    let text =
        ESCAPES.replace("LEAVE", "from executor_shim import emit; emit('ready'); time.sleep(1000)");
    let mut run = bench.tool("escape", &text);
    run.parameters = RawValue::from_string(format!("{{\"word\":\"{word}\"}}")).unwrap();
    let (_stop, stop) = watch::channel(Stop::No);
    let (events, mut told) = mpsc::channel(10);
    let waits = async {
        told.recv().await.unwrap();
        let made = format!("{ready}.new");
        std::fs::write(&made, bench.root.path().to_str().unwrap()).unwrap();
        std::fs::rename(&made, &ready).unwrap();
    };
    tokio::join!(bench.slots.run(run, stop, |_| {}, events), waits);
}

/// Waits until it is so, at most `patience`.
async fn until(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if so() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    so()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_executor_is_killed_every_tree_is_gone_in_two_seconds() {
    let bench = Bench::new(StartMethod::Spawn, |_| {}).await;
    let word = format!("lifeline-{}", JobId::fresh());
    let ready = bench.root.path().join("ready");
    let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "slots::an_executor_to_be_killed", "--nocapture"])
        .env("SLOTS_TO_BE_KILLED", &word)
        .env("SLOTS_READY", &ready)
        .env("REDIS_URL", "redis://:hunter2@nowhere")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert!(
        until(Duration::from_secs(20), || ready.exists() && !bench.find(&word).is_empty()).await
    );
    let environment = std::fs::read(format!("/proc/{}/environ", holder.id())).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&environment).contains("hunter2"));
    let root = std::fs::read_to_string(&ready).unwrap();
    assert!(bench.find(&root).len() > 3, "slot, run and their forks");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let gone = || bench.find(&word).is_empty() && bench.find(&root).is_empty();
    assert!(until(Duration::from_secs(2), gone).await, "{:?}", bench.find(&root));
    std::fs::remove_dir_all(root).unwrap();
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_begins_with_little_more_memory_than_a_bare_interpreter() {
    const OWN: &str = "open('/proc/self/status').read().split('RssAnon:')[1].split()[0]";
    let bench = Bench::new(StartMethod::Forkserver, |options| {
        // Much to compile, and little that comes of it.
        let text = format!("x = {}1\n", "1 + ".repeat(40)).repeat(170);
        for number in 0..8 {
            std::fs::write(options.tools_path.join(format!("many{number}.py")), &text).unwrap();
        }
    })
    .await;
    let bare = std::process::Command::new(&bench.slots.interpreter().executable)
        .args(["-I", "-S", "-X", "utf8", "-c", &format!("print({OWN})")])
        .output()
        .unwrap();
    let bare: u64 = String::from_utf8(bare.stdout).unwrap().trim().parse().unwrap();
    let run = bench.tool("own", &format!("def run():\n    return int({OWN})\n"));
    let own: u64 = value(&bench.run(run).await).parse().unwrap();
    assert!(own < bare + 1536, "{own} KB, bare {bare} KB");
    bench.close().await;
}
