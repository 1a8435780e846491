//! Each layer, each kind of fault, several at once, and what is never shown.

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::from_pairs(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

fn with_file(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("settings.yaml");
    std::fs::write(&path, text).unwrap();
    let flags = Flags { file: Some(path), overrides: Vec::new() };
    load(&flags, &environment(pairs)).map_err(|errors| errors.to_string())
}

fn with(pairs: &[(&str, &str)]) -> Result<Loaded, String> {
    with_file("", pairs)
}

fn line<'a>(loaded: &'a Loaded, key: &str) -> &'a SettingLine {
    loaded.report.iter().find(|line| line.key == key).unwrap()
}

#[test]
fn every_setting_is_reported_once_with_its_default() {
    let loaded = with(&[]).unwrap();
    let keys: Vec<_> = loaded.report.iter().map(|line| line.key.as_str()).collect();
    let known: Vec<_> = source::KEYS.iter().map(|key| key.path).collect();
    assert_eq!(keys, known);
    assert!(loaded.report.iter().all(|line| line.origin == "default"));
    assert_eq!(line(&loaded, "timeouts.tool_execution").value, 300);
    let settings = loaded.settings;
    assert_eq!(settings.shutdown_grace, Duration::from_secs(8));
    assert_eq!(settings.limits.open_files, Some(1024));
    assert_eq!(settings.tool_timeout, None, "not set: a type's default stands before it");
    assert_eq!(settings.python.start_method, StartMethod::Forkserver);
}

#[test]
fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    std::fs::write(&path, "executor:\n  concurrency: 2\nretry:\n  max_attempts: 7\n").unwrap();
    let mut flags = Flags { file: Some(path.clone()), overrides: Vec::new() };
    let loaded = load(&flags, &environment(&[])).unwrap();
    assert_eq!(loaded.settings.concurrency, 2);
    assert_eq!(line(&loaded, "executor.concurrency").origin, path.display().to_string());
    let env = environment(&[("CONCURRENCY", "3")]);
    let loaded = load(&flags, &env).unwrap();
    assert_eq!(loaded.settings.concurrency, 3);
    assert_eq!(line(&loaded, "executor.concurrency").origin, "environment CONCURRENCY");
    assert_eq!(loaded.settings.retry.max_attempts, Some(7));
    let flag = Flag { key: "executor.concurrency", name: "--concurrency", value: "4".into() };
    flags.overrides.push(flag);
    let loaded = load(&flags, &env).unwrap();
    assert_eq!(loaded.settings.concurrency, 4);
    assert_eq!(line(&loaded, "executor.concurrency").origin, "flag --concurrency");
}

#[test]
fn each_variable_is_read_and_each_fault_says_what_would_be_right() {
    for (name, good, bad, says) in [
        ("REDIS_URL", "none", "http://x", "redis://"),
        ("DB_URL", "sqlite:///tmp/x.db", "postgres://u:p@h/db", "sqlite:PATH"),
        ("DB_URL", "sqlite:x.db", "sqlite::memory:", "sqlite:PATH"),
        ("DATABASE_URL", "sqlite:x.db", "x.db", "sqlite:PATH"),
        ("EXECUTOR_ID", "007", "a b", "without spaces"),
        ("CONCURRENCY", "1", "0", "1 to 1024"),
        ("SHUTDOWN_GRACE", "500ms", "soon", "a duration"),
        ("ON_SHUTDOWN", "FAIL", "stop", "requeue or fail"),
        ("HEARTBEAT_INTERVAL", "0.5", "10ms", "at least 100ms"),
        ("HTTP_ADDR", "localhost:0", "8080", "ADDRESS:PORT"),
        ("HTTP_ADDR", "none", "example.org:80", "ADDRESS:PORT"),
        ("JOB_STATUS_TTL", "7d", "0", "over 0"),
        ("ALLOWED_MODULES", "tasks, jobs", "tasks,os.path", "names of packages"),
        ("START_METHOD", "spawn", "thread", "forkserver or spawn"),
        ("PRELOAD_MODULES", "numpy,pandas", "a b", "names of modules"),
        ("PASS_ENV", "A,B_*", "A-B", "names of variables"),
        ("TOOL_TIMEOUT", "5m", "-1", "a duration"),
        ("KILL_GRACE", "0", "x", "a duration"),
        ("RETRY_MAX_ATTEMPTS", "100", "101", "1 to 100"),
        ("RESULT_MAX_BYTES", "64", "1", "64 to"),
        ("LOG_TAIL_BYTES", "0", "-1", "whole number"),
        ("LEDGER_KEEP_DAYS", "0", "x", "whole number of days"),
        ("LOG_FORMAT", "pretty", "xml", "json"),
        ("LOG_LEVEL", "warn,executor=trace", "loud", "trace, debug"),
        ("LIMIT_MEMORY_MB", "none", "0", "over 0, or none"),
        ("LIMIT_CPU_SECONDS", "1.5", "x", "over 0, or none"),
        ("LIMIT_PROCESSES", "10", "1.5", "over 0, or none"),
        ("SCHEDULE_MODE", "cron", "sometimes", "trigger or cron or speedrun"),
        ("TIMEZONE", "Europe/Berlin", "Berlin", "time zone"),
        ("TRIGGER_CHANNELS", "a,b", "a,,b", "list of channels"),
        ("SPEEDRUN_MAX_PER_CYCLE", "3", "0", "1 to 1000"),
        ("TASK_TYPES", r#"{"etl": {"timeout": "2h"}}"#, r#"{"urgent": {}}"#, "is no task type"),
        (
            "SCHEDULES",
            r#"[{"id": "a", "cron": "0 9 * * MON", "job": {"target": "t"}}]"#,
            r#"[{"id": "a", "cron": "61 * * * *", "job": {}}]"#,
            "61 is outside 0-59 in the minute field",
        ),
    ] {
        with(&[(name, good)]).unwrap_or_else(|errors| panic!("{name}={good}: {errors}"));
        let errors = with(&[(name, bad)]).map(|_| ()).unwrap_err();
        assert!(errors.contains(says), "{name}={bad}: {errors}");
        assert!(errors.starts_with(&format!("environment {name}: ")), "{errors}");
    }
}

#[test]
fn all_faults_are_reported_together() {
    let text = "redis:\n  ulr: redis://x\nexecutor:\n  concurrency: many\nmode: never\n";
    let errors = with_file(text, &[("KILL_GRACE", "x")]).map(|_| ()).unwrap_err();
    assert_eq!(errors.lines().count(), 4, "{errors}");
    assert!(errors.contains("redis.ulr is not a known key; did you mean redis.url?"), "{errors}");
}

#[test]
fn a_broken_or_missing_file_is_a_fault() {
    let errors = with_file("executor: [\n", &[("KILL_GRACE", "x")]).map(|_| ()).unwrap_err();
    assert!(errors.contains("settings.yaml") && errors.contains("KILL_GRACE"), "{errors}");
    let errors = with_file("executor.concurrency: 3\n", &[]).map(|_| ()).unwrap_err();
    assert!(errors.contains("written with a dot"), "{errors}");
    let flags = Flags { file: Some("/nonexistent/x.yaml".into()), overrides: Vec::new() };
    let errors = load(&flags, &environment(&[])).unwrap_err().to_string();
    assert!(errors.contains("no such file"), "{errors}");
    with_file("redis:\n  # url: x\nexecutor:\n", &[]).unwrap();
}

#[test]
fn passwords_are_never_shown() {
    let url = "redis://user:se@cret@host:6379/1";
    let loaded = with(&[("REDIS_URL", url)]).unwrap();
    assert_eq!(line(&loaded, "redis.url").value, "redis://user:***@host:6379/1");
    assert!(!format!("{:?}", loaded.settings).contains("cret"));
    assert_eq!(loaded.settings.redis.unwrap().expose(), url);
    for (name, url) in [
        ("DB_URL", "postgres://u:secret@h/db"),
        ("DB_URL", "postgres://h/db?user=u&password=secret"),
        ("REDIS_URL", "u:secret@host:6379"),
        ("REDIS_URL", "redis:/u:secret@host"),
        ("REDIS_URL", "redis://u:pa/secret@host:x"),
    ] {
        let errors = with(&[(name, url)]).map(|_| ()).unwrap_err();
        assert!(!errors.contains("secret"), "{errors}");
    }
    let loaded = with(&[("REDIS_URL", "redis://secret@host")]).unwrap();
    assert_eq!(line(&loaded, "redis.url").value, "redis://***@host");
    let unix = "unix:///run/redis.sock?user=u&pass=secret";
    let loaded = with(&[("REDIS_URL", unix)]).unwrap();
    assert_eq!(line(&loaded, "redis.url").value, "unix:///run/redis.sock?user=u&pass=***");
}

#[test]
fn runs_see_the_basic_variables_and_what_is_passed_but_no_secret() {
    let pairs = [
        ("PATH", "/bin"),
        ("LC_ALL", "C"),
        ("F5_SOURCE", "x"),
        ("OTHER", "y"),
        ("REDIS_URL", "none"),
        ("DB_URL", "sqlite:x.db"),
    ];
    let seen = |pass: &str| {
        let mut pairs = pairs.to_vec();
        pairs.push(("PASS_ENV", pass));
        let names = with(&pairs).unwrap().settings.python.run_environment;
        names.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(seen("none"), ["LC_ALL", "PATH"]);
    assert_eq!(seen("F5_*"), ["F5_SOURCE", "LC_ALL", "PATH"]);
    assert_eq!(seen("*"), ["F5_SOURCE", "LC_ALL", "OTHER", "PASS_ENV", "PATH"]);
}

#[test]
fn bounds_between_settings_are_checked() {
    let errors = with(&[("RETRY_BACKOFF_MIN", "60")]).map(|_| ()).unwrap_err();
    assert!(errors.contains("is over retry.backoff_max"), "{errors}");
}

#[test]
fn the_committed_file_names_every_key_commented_out() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/schedule.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "not commented out");
    let uncommented: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("#: "))
        .map(|line| format!("{line}\n"))
        .collect();
    let loaded = with_file(&uncommented, &[]).unwrap();
    let defaults = with(&[]).unwrap();
    for (ours, default) in loaded.report.iter().zip(&defaults.report) {
        let by_machine =
            ["executor.id", "executor.concurrency", "log.format", "experiments.eligible_states"];
        if !by_machine.contains(&ours.key.as_str()) {
            assert_eq!((&ours.key, &ours.value), (&default.key, &default.value));
        }
        assert_ne!(ours.origin, "default", "{} is missing in config/schedule.yaml", ours.key);
    }
}

#[test]
fn a_password_that_has_come_to_stand_elsewhere_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.yaml");
    std::fs::write(&path, "redis: {'redis://:secret@host'}\n").unwrap();
    let flags = Flags { file: Some(path), overrides: Vec::new() };
    let environment =
        Environment::from_pairs([("HTTP_ADDR".to_owned(), "redis://:secret@host".to_owned())]);
    let errors = load(&flags, &environment).unwrap_err().to_string();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(!errors.contains("secret"), "{errors}");
}

#[test]
fn each_fault_of_an_entry_names_the_entry_and_the_field() {
    let schedules = r#"[{"id": "ok", "cron": "0 9 * * *", "job": {}},
        {"id": "nightly", "cron": "0 25 * * *", "job": {}, "timezone": "Mars"},
        {"id": "ok", "cron": "@daily", "job": {}}, {"cron": "@daily", "job": [], "extra": 1}, 5]"#;
    let task_types = r#"{"etl": {"priority": 10, "retry_on": "none"}, "what": {}, "event": 5}"#;
    let settings = environment(&[("SCHEDULES", schedules), ("TASK_TYPES", task_types)]);
    let text = load(&Flags::default(), &settings).unwrap_err().to_string();
    for (line, words) in text.lines().zip([
        ["TASK_TYPES: task_types.etl.priority is 10", "from 1 to 9"],
        ["TASK_TYPES: task_types.etl.retry_on is \"none\"", "all or transient"],
        ["TASK_TYPES: task_types.what is no task type", "scheduled_batch"],
        ["TASK_TYPES: task_types.event is 5", "a map"],
        [
            "SCHEDULES: schedules[2] (nightly).cron is \"0 25 * * *\"",
            "25 is outside 0-23 in the hour",
        ],
        ["SCHEDULES: schedules[2] (nightly).timezone is \"Mars\"", "Europe/Berlin"],
        ["SCHEDULES: schedules[3] (ok) has the id", "its own"],
        ["SCHEDULES: schedules[4].extra is not known", "timezone"],
        ["SCHEDULES: schedules[4].id is null", "a name"],
        ["SCHEDULES: schedules[4].job is []", "a job"],
        ["SCHEDULES: schedules[5] is 5", "a map"],
    ]) {
        assert!(words.iter().all(|word| line.contains(word)), "{words:?}: {line}");
    }
    assert_eq!(text.lines().count(), 11, "{text}");
}
