//! Every setting: what it may be, what it is by default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::entries;
use super::read::{ConfigErrors, Reading, Secrecy};
use super::source::{Environment, Sources};
use super::values::{self, Word};
use super::{
    Loaded, LogFormat, Mode, OnShutdown, Preload, Python, RedisUrl, Retry, Schedule, Settings,
    TaskTypeSettings,
};
use crate::job::{Limits, StartMethod, TaskType};
use crate::payload::is_name;

const SECOND: Duration = Duration::from_secs(1);
const MEGABYTE: u64 = 1024 * 1024;
const DURATION: &str = "a duration over 0, such as 8, 0.5, 500ms, 8s, 5m, 2h or 7d";
/// Never passed on to runs, whatever `PASS_ENV` says.
const SECRETS: &[&str] = &["REDIS_URL", "DB_URL", "DATABASE_URL"];
/// What a run sees without being asked.
const BASIC: &[&str] = &["PATH", "HOME", "LANG", "TZ"];

pub(super) fn check(sources: Sources, environment: &Environment) -> Result<Loaded, ConfigErrors> {
    let mut r = Reading::new(sources);
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let redis = redis(&mut r);
    let ledger_path = here.join(ledger(&mut r));
    let (executor_id, concurrency) = identity(&mut r);
    let (shutdown_grace, on_shutdown, heartbeat_interval) = life(&mut r);
    let http_addr = http_addr(&mut r);
    let job_queue = r.read("queue.name", "executor:jobs".to_owned(), "a text", values::text);
    let status_ttl = r.read("queue.status_ttl", 3600 * SECOND, DURATION, values::positive);
    let python = python(&mut r, environment, &here);
    let tool_timeout = optional_duration(&mut r, "timeouts.tool_execution", 300 * SECOND);
    let kill_grace =
        r.read("timeouts.kill_grace", 2 * SECOND, "a duration, 0 for none", values::duration);
    let retry = retry(&mut r);
    let (result_max_bytes, log_tail_bytes, ledger_keep) = kept(&mut r);
    let (log_format, log_level) = log(&mut r);
    let limits = limits(&mut r);
    let timezone = timezone(&mut r);
    let mode = word(
        &mut r,
        "mode",
        &[("trigger", Mode::Trigger), ("cron", Mode::Cron), ("speedrun", Mode::Speedrun)],
    );
    let channels = vec!["fullsend:execute_now".to_owned()];
    let settings = Settings {
        redis,
        ledger_path,
        executor_id,
        concurrency,
        shutdown_grace,
        on_shutdown,
        heartbeat_interval,
        http_addr,
        job_queue,
        status_ttl,
        python,
        tool_timeout,
        kill_grace,
        retry,
        result_max_bytes,
        log_tail_bytes,
        ledger_keep,
        log_format,
        log_level,
        limits,
        mode,
        trigger_channels: r.read("trigger.channels", channels, "a list of channels", values::list),
        cron_check_interval: r.read("cron.check_interval", 60 * SECOND, DURATION, values::positive),
        cron_catch_up_window: r.read(
            "cron.catch_up_window",
            3600 * SECOND,
            "a duration, 0 for none",
            values::duration,
        ),
        timezone,
        eligible_states: eligible_states(&mut r),
        speedrun_interval: r.read(
            "speedrun.interval_seconds",
            5 * SECOND,
            DURATION,
            values::positive,
        ),
        speedrun_max_per_cycle: usize::try_from(r.read(
            "speedrun.max_experiments_per_cycle",
            3,
            "a whole number from 1 to 1000",
            |v| values::whole(v, 1, 1000),
        ))
        .unwrap_or(3),
        task_types: task_types(&mut r),
        schedules: schedules(&mut r),
    };
    r.finish().map(|report| Loaded { settings, report })
}

/// Our name, and how many attempts run at one time.
fn identity(r: &mut Reading) -> (String, usize) {
    let host = host_name();
    let executor_id =
        r.read("executor.id", host, "1 to 100 printable ASCII characters without spaces", |v| {
            values::text(v).filter(|id| is_id(id))
        });
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let concurrency = r.read("executor.concurrency", cpus, "a whole number from 1 to 1024", |v| {
        values::whole(v, 1, 1024)
    });
    (executor_id, usize::try_from(concurrency).unwrap_or(1))
}

/// How we end, and how often we show that we live.
fn life(r: &mut Reading) -> (Duration, OnShutdown, Duration) {
    let shutdown_grace = r.read("executor.shutdown_grace", 8 * SECOND, DURATION, values::positive);
    let on_shutdown = word(
        r,
        "executor.on_shutdown",
        &[("requeue", OnShutdown::Requeue), ("fail", OnShutdown::Fail)],
    );
    let heartbeat_interval =
        r.read("executor.heartbeat_interval", 5 * SECOND, "a duration of at least 100ms", |v| {
            values::duration(v).filter(|interval| *interval >= SECOND / 10)
        });
    (shutdown_grace, on_shutdown, heartbeat_interval)
}

/// How much is kept: of a result, of the output, and for how long.
fn kept(r: &mut Reading) -> (usize, usize, Option<Duration>) {
    let result_max_bytes =
        r.read("result.max_bytes", 10_240, "a whole number of bytes from 64 to 524288", |v| {
            values::whole(v, 64, 524_288)
        });
    let log_tail_bytes =
        r.read("log.tail_bytes", 65_536, "a whole number of bytes up to 16777216", |v| {
            values::whole(v, 0, 16 * MEGABYTE)
        });
    let keep_days = r.read("db.keep_days", 30, "a whole number of days, 0 for all", |v| {
        values::whole(v, 0, 36_500)
    });
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let keep = (keep_days > 0).then(|| Duration::from_secs(keep_days * 86_400));
    (bytes(result_max_bytes), bytes(log_tail_bytes), keep)
}

/// A word of a closed set; the first one is the default.
fn word<T: Copy>(r: &mut Reading, key: &'static str, words: &[(&'static str, T)]) -> T {
    let right = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
    let default = Word(words[0].1, words[0].0);
    r.read(key, default, &right, |v| {
        let text = values::text(v)?.to_ascii_lowercase();
        words.iter().find(|(word, _)| *word == text).map(|(word, value)| Word(*value, word))
    })
    .0
}

fn redis(r: &mut Reading) -> Option<RedisUrl> {
    const KEY: &str = "redis.url";
    const DEFAULT: &str = "redis://127.0.0.1:6379";
    let right = "redis://[user:password@]host[:port][/db], rediss://… for TLS, or none";
    let set = r.set(KEY, Secrecy::Secret, right, |v| {
        let text = values::text(v)?;
        if values::is_none(v) {
            return Some("none".to_owned());
        }
        let known = ["redis://", "rediss://", "unix://"].iter().any(|s| text.starts_with(s));
        (known && redis::Client::open(text.as_str()).is_ok()).then_some(text)
    });
    r.unset(KEY, DEFAULT.into());
    let url = set.unwrap_or_else(|| DEFAULT.to_owned());
    (url != "none").then(|| RedisUrl::new(url))
}

fn ledger(r: &mut Reading) -> PathBuf {
    const KEY: &str = "db.url";
    const DEFAULT: &str = "sqlite:data/executor.db";
    let right = "sqlite:PATH or sqlite:///PATH (other databases are not supported)";
    let set = r
        .set(KEY, Secrecy::Secret, right, |v| values::text(v).filter(|url| path_of(url).is_some()));
    r.unset(KEY, DEFAULT.into());
    path_of(&set.unwrap_or_else(|| DEFAULT.to_owned())).unwrap_or_else(|| "data/executor.db".into())
}

/// `sqlite:data/x.db`, `sqlite:/x.db`, `sqlite:///x.db`; a database in memory would lose everything.
fn path_of(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split('?').next().unwrap_or_default();
    (!path.is_empty() && !path.starts_with(':') && !path.ends_with('/')).then(|| path.into())
}

fn is_id(id: &str) -> bool {
    (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| is_id(name)).unwrap_or_else(|| "executor".to_owned())
}

fn http_addr(r: &mut Reading) -> Option<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 8080));
    let right = "ADDRESS:PORT, such as 127.0.0.1:8080 or 0.0.0.0:8080, or none";
    let text = r.read("http.addr", default.to_string(), right, |v| {
        if values::is_none(v) {
            return Some("none".to_owned());
        }
        address(&values::text(v)?).map(|address| address.to_string())
    });
    text.parse().ok()
}

fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let host: IpAddr = match host.trim_matches(['[', ']']) {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        "" | "*" => IpAddr::from([0, 0, 0, 0]),
        host => host.parse().ok()?,
    };
    Some(SocketAddr::new(host, port.parse().ok()?))
}

fn python(r: &mut Reading, environment: &Environment, here: &Path) -> Python {
    let names = "names of packages: ASCII letters, digits and _";
    let modules = vec!["tasks".to_owned()];
    let allowed_modules = r.read("python.allowed_modules", modules, names, |v| {
        values::list(v).filter(|list| list.iter().all(|name| is_name(name)))
    });
    // Collecting the components leaves out a `.` in between.
    let path = |v: &Value| values::text(v).map(|path| here.join(path).components().collect());
    let tasks_path = r.read("python.tasks_path", here.to_owned(), "a directory", path);
    let tools_path = r.read("python.tools_path", here.join("tools"), "a directory", path);
    let interpreter =
        r.read("python.interpreter", "python3".to_owned(), "a program or its path", values::text);
    let start_method = word(
        r,
        "python.start_method",
        &[("forkserver", StartMethod::Forkserver), ("spawn", StartMethod::Spawn)],
    );
    Python {
        interpreter,
        allowed_modules,
        tasks_path,
        tools_path,
        start_method,
        preload: preload(r),
        run_environment: run_environment(r, environment),
    }
}

fn preload(r: &mut Reading) -> Preload {
    let right = "stdlib, auto, none, or names of modules";
    let words = r.read("python.preload", vec!["stdlib".to_owned()], right, |v| {
        let dotted = |name: &String| name.split('.').all(is_name);
        values::list(v).filter(|list| list.iter().all(dotted))
    });
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["stdlib"] => Preload::Stdlib,
        ["auto"] => Preload::Auto,
        ["none"] => Preload::None,
        _ => Preload::Names(words),
    }
}

fn run_environment(r: &mut Reading, environment: &Environment) -> BTreeMap<String, String> {
    let right = "names of variables, PREFIX_*, or *";
    let pass = r.set("python.pass_env", Secrecy::Open, right, |v| {
        if values::is_none(v) {
            return Some(Vec::new());
        }
        let name = |name: &String| {
            let stem = name.strip_suffix('*').unwrap_or(name);
            stem.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        values::list(v).filter(|list| list.iter().all(name))
    });
    r.unset("python.pass_env", Value::Array(Vec::new()));
    let pass = pass.unwrap_or_default();
    let passed = |name: &str| {
        !SECRETS.contains(&name)
            && (BASIC.contains(&name)
                || name.starts_with("LC_")
                || pass.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(stem) => name.starts_with(stem),
                    None => pattern == name,
                }))
    };
    let picked = environment.iter().filter(|(name, _)| passed(name));
    picked.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A setting whose absence matters, because a type's own default stands between.
fn optional_duration(r: &mut Reading, key: &'static str, default: Duration) -> Option<Duration> {
    let set = r.set(key, Secrecy::Open, DURATION, values::positive);
    r.unset(key, default.as_secs().into());
    set
}

fn retry(r: &mut Reading) -> Retry {
    let attempts = "retry.max_attempts";
    let max_attempts = r
        .set(attempts, Secrecy::Open, "a whole number from 1 to 100", |v| values::whole(v, 1, 100));
    r.unset(attempts, 3.into());
    let backoff_min =
        r.read("retry.backoff_min", SECOND, "a duration, 0 for none", values::duration);
    let backoff_max =
        r.read("retry.backoff_max", 30 * SECOND, "a duration, 0 for none", values::duration);
    if backoff_min > backoff_max {
        r.fault(
            &["retry.backoff_min", "retry.backoff_max"],
            format!("retry.backoff_min ({backoff_min:?}) is over retry.backoff_max ({backoff_max:?}); it must not be"),
        );
    }
    Retry {
        max_attempts: max_attempts.and_then(|n| u32::try_from(n).ok()),
        backoff_min,
        backoff_max,
    }
}

fn log(r: &mut Reading) -> (LogFormat, String) {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let (json, pretty) = (("json", LogFormat::Json), ("pretty", LogFormat::Pretty));
    let format = word(r, "log.format", &if terminal { [pretty, json] } else { [json, pretty] });
    let right = "trace, debug, info, warn, error, off, or tracing directives";
    let level = r.read("log.level", "info".to_owned(), right, |v| {
        let text = values::text(v)?;
        let level = text.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let directives = text.contains(['=', ','])
            && text.parse::<tracing_subscriber::filter::EnvFilter>().is_ok();
        (level || directives).then_some(text)
    });
    (format, level)
}

fn limits(r: &mut Reading) -> Limits {
    let right = "a whole number over 0, or none";
    let mut limit = |key, default: Option<u64>| {
        r.read(key, default, right, |v| values::optional(v, |v| values::whole(v, 1, 1 << 40)))
    };
    let memory = limit("limits.memory_mb", None);
    let open_files = limit("limits.open_files", Some(1024));
    let file_size = limit("limits.file_size_mb", None);
    let processes = limit("limits.processes", None);
    let cpu = r.read("limits.cpu_seconds", None, "a duration over 0, or none", |v| {
        values::optional(v, values::positive)
    });
    Limits {
        memory_bytes: memory.map(|mb| mb.saturating_mul(MEGABYTE)),
        cpu,
        open_files,
        file_size_bytes: file_size.map(|mb| mb.saturating_mul(MEGABYTE)),
        processes,
    }
}

fn timezone(r: &mut Reading) -> String {
    let right = "the name of a time zone, such as UTC or Europe/Berlin";
    r.read("cron.timezone", "UTC".to_owned(), right, |v| {
        values::text(v).filter(|zone| jiff::tz::TimeZone::get(zone).is_ok())
    })
}

fn eligible_states(r: &mut Reading) -> Option<Vec<String>> {
    let key = "experiments.eligible_states";
    let states = r.set(key, Secrecy::Open, "a list of states", values::list);
    r.unset(key, "by mode".into());
    states
}

fn task_types(r: &mut Reading) -> BTreeMap<TaskType, TaskTypeSettings> {
    r.read_entries("task_types", entries::task_types)
}

fn schedules(r: &mut Reading) -> Vec<Schedule> {
    r.read_entries("schedules", entries::schedules)
}
