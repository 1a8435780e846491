//! What a run can reach, and what is left of it: process trees, environment, descriptors, directories.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    BOTH, Bench, Noted, alive, descendants, eventually, noted, text, value_of, within,
};

fn all_gone(all: &[Noted]) -> Option<()> {
    all.iter().all(|process| !process.alive()).then_some(())
}

#[test]
fn at_the_deadline_the_whole_tree_is_gone_and_the_slot_is_free() {
    for method in BOTH {
        let bench = Bench::start(method, &[("CONCURRENCY", "2"), ("KILL_GRACE", "200ms")]);
        let release = bench.path("release");
        bench.push(
            "calm",
            "tasks.good:waits_for",
            json!({"path": release}),
            json!({"timeout_seconds": 60}),
        );
        for (name, survivors) in [
            ("ignores_sigterm", 0),
            ("double_forks_setsid", 1),
            ("stopped_child", 0),
            ("fork_chain", 1),
            ("execs_sleep", 0),
        ] {
            let path = bench.path(name);
            let row = bench.run(
                name,
                &format!("tasks.bad:{name}"),
                json!({"path": path}),
                json!({"timeout_seconds": 0.8}),
            );
            let seen = noted(&path);
            assert!(!seen.is_empty(), "{name} has noted nobody");
            assert_eq!(all_gone(&seen), Some(()), "{method} {name}: the row was written too early");
            assert_eq!(row["error_type"], "ToolTimeoutError", "{row:#?}");
            let attempt = bench.attempt(name);
            let killed = attempt["survivors_killed"].as_i64().unwrap();
            assert!(killed >= survivors, "{method} {name}: {attempt:#?}");
            let taken = seconds(text(&attempt, "started_at"), text(&attempt, "finished_at"));
            // Deadline, grace, and at most a second for the kill.
            assert!((0.8..0.8 + 0.2 + 1.0).contains(&taken), "{method} {name} took {taken} s");
            let begun = Instant::now();
            assert_eq!(bench.value(&format!("after-{name}"), "tasks.good:add", json!({"a": 1})), 2);
            assert!(begun.elapsed() < Duration::from_secs(3));
        }
        // The neighbour has noticed nothing of it.
        assert_eq!(bench.executor.job("calm").unwrap()["status"], "RUNNING");
        std::fs::write(release, "").unwrap();
        let row = bench.executor.ended("calm");
        assert_eq!(
            (&row["status"], &row["attempts"]),
            (&json!("COMPLETED"), &json!(1)),
            "{row:#?}"
        );
        assert_eq!(bench.attempt("calm")["survivors_killed"], 0);
    }
}

fn seconds(from: &str, to: &str) -> f64 {
    let time = |text: &str| text.parse::<executor::clock::Timestamp>().unwrap();
    time(to).duration_since(time(from)).as_secs_f64()
}

#[test]
fn what_outlives_a_run_is_killed_and_counted() {
    for method in BOTH {
        let bench = Bench::start(method, &[]);
        for (id, target, more) in [
            ("daemon", "leaves_daemon", json!({})),
            ("grandchild", "double_forks_setsid", json!({"hang": false})),
        ] {
            let path = bench.path(id);
            let mut parameters = json!({"path": path});
            parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let row = bench.run(id, &format!("tasks.bad:{target}"), parameters, json!({}));
            assert_eq!(row["status"], "COMPLETED", "{row:#?}");
            let seen = noted(&path);
            assert_eq!((seen.len(), all_gone(&seen)), (1, Some(())), "{method} {id}");
            assert_eq!(bench.attempt(id)["survivors_killed"], 1, "{method} {id}");
        }
    }
}

#[test]
fn if_the_executor_is_killed_its_runs_are_gone_and_begin_again() {
    for method in BOTH {
        let mut bench = Bench::start(method, &[("CONCURRENCY", "2")]);
        let (tree, release, started) =
            (bench.path("tree"), bench.path("release"), bench.path("started"));
        bench.push(
            "escapes",
            "tasks.bad:double_forks_setsid",
            json!({"path": tree}),
            json!({"timeout_seconds": 60}),
        );
        bench.push(
            "waits",
            "tasks.good:waits_for",
            json!({"path": release, "started": started}),
            json!({"timeout_seconds": 60}),
        );
        eventually("both runs", || (noted(&tree).len() == 1 && started.exists()).then_some(()));
        eventually("their pids", || {
            ["escapes", "waits"].iter().all(|id| bench.attempt(id)["pid"].is_i64()).then_some(())
        });
        let all = descendants(bench.executor.pid());
        assert!(all.len() >= 4, "two slots and two runs: {all:?}");
        bench.executor.kill();
        let begun = Instant::now();
        within(Duration::from_secs(2), "every process of the executor to be gone", || {
            (all.iter().all(|pid| !alive(*pid)) && all_gone(&noted(&tree)).is_some()).then_some(())
        });
        println!("{method}: gone after {:?}", begun.elapsed());
        std::fs::write(&release, "").unwrap();
        bench.executor.serve();
        let row = bench.executor.ended("waits");
        assert_eq!(row["status"], "COMPLETED", "{row:#?}");
        assert_eq!(
            (&row["attempts"], &row["interruptions"], &row["failures"]),
            (&json!(2), &json!(1), &json!(0))
        );
        let attempts = bench.executor.attempts("waits");
        assert_eq!(
            (&attempts[0]["outcome"], &attempts[1]["outcome"]),
            (&json!("lost"), &json!("succeeded"))
        );
        // The other one runs again, too.
        let row = bench.executor.until("escapes", "RUNNING");
        assert_eq!((&row["attempts"], &row["interruptions"]), (&json!(2), &json!(1)));
    }
}

#[test]
fn a_run_sees_a_small_environment_and_no_secrets() {
    for method in BOTH {
        let mut bench =
            Bench::new(method, &[("PASS_ENV", "ALPHA,BETA_*"), ("RESULT_MAX_BYTES", "500000")]);
        // What is asked for by name is no secret; what is not, is.
        for (name, value) in [
            ("ALPHA", "a"),
            ("BETA_1", "b"),
            ("GAMMA", "hunter2-gamma"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
        ] {
            bench.executor.set(name, value);
        }
        let url = bench.redis.url().replace("redis://", "redis://:hunter2-redis@");
        bench.redis.run::<String>(&["CONFIG", "SET", "requirepass", "hunter2-redis"]);
        bench.executor.set("REDIS_URL", &url);
        bench.executor.serve();
        let payload =
            json!({"job_id": "env", "task_type": "event", "target": "tasks.good:surroundings"});
        let mut connection = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
        redis::cmd("LPUSH")
            .arg("executor:jobs")
            .arg(payload.to_string())
            .exec(&mut connection)
            .unwrap();
        let row = bench.executor.ended("env");
        assert_eq!(row["status"], "COMPLETED", "{row:#?}");
        let seen = value_of(&row);
        let mut names: Vec<&str> =
            seen["environment"].as_object().unwrap().keys().map(String::as_str).collect();
        names.retain(|name| *name != "LC_CTYPE"); // the interpreter's own
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "ALPHA",
                "BETA_1",
                "EXECUTOR_ATTEMPT",
                "EXECUTOR_JOB_ID",
                "HOME",
                "LC_ALL",
                "PATH",
                "TMPDIR",
                "TZ"
            ]
        );
        assert_eq!(seen["environment"]["EXECUTOR_JOB_ID"], "env");
        // Up to the executor itself, and in its memory.
        let parents = seen["parents"].as_array().unwrap();
        assert!(parents.iter().any(|one| one["pid"] == bench.executor.pid()), "{parents:#?}");
        for parent in parents.iter().take_while(|one| one["pid"] != bench.executor.pid()) {
            for place in ["environ", "cmdline"] {
                assert!(!parent[place].as_str().unwrap().contains("hunter2"), "{parent:#?}");
            }
        }
        let own = parents.iter().find(|one| one["pid"] == bench.executor.pid()).unwrap();
        assert!(!own["environ"].as_str().unwrap().contains("hunter2"), "{own:#?}");
        assert!(!own["cmdline"].as_str().unwrap().contains("hunter2"), "{own:#?}");
        let scoped = bench
            .executor
            .line("isolation or ready", |line| line.contains_key("isolation"))["isolation"]
            == "landlock-scope";
        if scoped {
            assert_eq!(own["memory"], "PermissionError", "{own:#?}");
        }
        let all = seen.to_string();
        assert!(!all.contains("hunter2") && !all.contains("ledger.db\""), "{all}");
        assert_eq!(seen["stdin"], "/dev/null");
        assert_eq!(seen["no_new_privs"], "1");
        assert_eq!(
            seen["cwd"],
            bench.executor.dir.path().canonicalize().unwrap().to_str().unwrap()
        );
        assert_eq!((&seen["own_session"], &seen["tmp_mode"]), (&json!(true), &json!(0o700)));
        let descriptors = seen["descriptors"].as_object().unwrap();
        let numbers: Vec<&str> = descriptors.keys().map(String::as_str).collect();
        assert_eq!(numbers, ["0", "1", "2", "200", "201"], "{descriptors:#?}");
        assert!(!std::path::Path::new(seen["environment"]["TMPDIR"].as_str().unwrap()).exists());
    }
}

#[test]
fn a_tmpdir_is_removed_with_all_that_is_in_it() {
    for method in BOTH {
        let bench = Bench::start(method, &[("KILL_GRACE", "200ms")]);
        let path = bench.path("where");
        for (id, end, more) in
            [("full", "return", 10.0), ("killed", "hang", 2.0), ("crashed", "crash", 10.0)]
        {
            bench.run(
                id,
                "tasks.bad:fills_tmpdir",
                json!({"path": path, "end": end}),
                json!({"timeout_seconds": more}),
            );
            let dir = std::fs::read_to_string(&path).unwrap();
            assert!(!std::path::Path::new(&dir).exists(), "{method} {id}: {dir}");
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn one_run_leaves_nothing_to_the_next() {
    for method in BOTH {
        let bench = Bench::start(method, &[("CONCURRENCY", "1")]);
        let state = |id: &str| {
            let mut state = bench.value(id, "tasks.good:state", json!({}));
            state.as_object_mut().unwrap().remove("random");
            state
        };
        let random = |id: &str| bench.value(id, "tasks.good:state", json!({}))["random"].clone();
        let before = state("before");
        for target in [
            "patches_modules",
            "changes_process_state",
            "closes_streams",
            "closes_all_fds",
            "kills_parent",
            "aborts",
        ] {
            bench.run(target, &format!("tasks.bad:{target}"), json!({}), json!({}));
            assert_eq!(state(&format!("after-{target}")), before, "{method}");
        }
        let numbers: Vec<Value> = ["r1", "r2", "r3"].map(random).to_vec();
        assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2], "{numbers:?}");
    }
}
