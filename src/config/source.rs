//! Where settings come from: the layers, merged by figment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::providers::Format;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde_saphyr::figment::Yaml;

use super::read::ConfigError;

/// The file that is read where none is named; it may be missing.
const DEFAULT_FILE: &str = "config/schedule.yaml";
/// Names another file.
const FILE_VARIABLE: &str = "CONFIG_FILE";

/// Marks a name in the file that has a dot in it: it would be taken for no key at all.
pub(super) const DOTTED: &str = "\0";

/// A setting: its key in the file and its names in the environment, the first of which counts.
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) variables: &'static [&'static str],
}

const fn key(path: &'static str, variables: &'static [&'static str]) -> Key {
    Key { path, variables }
}

/// All settings, in the order of SPEC 3.
pub(super) const KEYS: &[Key] = &[
    key("redis.url", &["REDIS_URL"]),
    key("db.url", &["DB_URL", "DATABASE_URL"]),
    key("executor.id", &["EXECUTOR_ID"]),
    key("executor.concurrency", &["CONCURRENCY"]),
    key("executor.shutdown_grace", &["SHUTDOWN_GRACE"]),
    key("executor.on_shutdown", &["ON_SHUTDOWN"]),
    key("executor.heartbeat_interval", &["HEARTBEAT_INTERVAL"]),
    key("http.addr", &["HTTP_ADDR"]),
    key("queue.name", &["JOB_QUEUE"]),
    key("queue.status_ttl", &["JOB_STATUS_TTL"]),
    key("python.allowed_modules", &["ALLOWED_MODULES"]),
    key("python.tasks_path", &["TASKS_PATH"]),
    key("python.tools_path", &["TOOLS_PATH"]),
    key("python.interpreter", &["PYTHON"]),
    key("python.start_method", &["START_METHOD"]),
    key("python.preload", &["PRELOAD_MODULES"]),
    key("python.pass_env", &["PASS_ENV"]),
    key("timeouts.tool_execution", &["TOOL_TIMEOUT"]),
    key("timeouts.kill_grace", &["KILL_GRACE"]),
    key("retry.max_attempts", &["RETRY_MAX_ATTEMPTS"]),
    key("retry.backoff_min", &["RETRY_BACKOFF_MIN"]),
    key("retry.backoff_max", &["RETRY_BACKOFF_MAX"]),
    key("result.max_bytes", &["RESULT_MAX_BYTES"]),
    key("log.tail_bytes", &["LOG_TAIL_BYTES"]),
    key("db.keep_days", &["LEDGER_KEEP_DAYS"]),
    key("log.format", &["LOG_FORMAT"]),
    key("log.level", &["LOG_LEVEL"]),
    key("limits.memory_mb", &["LIMIT_MEMORY_MB"]),
    key("limits.cpu_seconds", &["LIMIT_CPU_SECONDS"]),
    key("limits.open_files", &["LIMIT_OPEN_FILES"]),
    key("limits.file_size_mb", &["LIMIT_FILE_SIZE_MB"]),
    key("limits.processes", &["LIMIT_PROCESSES"]),
    key("mode", &["SCHEDULE_MODE"]),
    key("trigger.channels", &["TRIGGER_CHANNELS"]),
    key("cron.check_interval", &["CRON_CHECK_INTERVAL"]),
    key("cron.catch_up_window", &["CRON_CATCH_UP_WINDOW"]),
    key("cron.timezone", &["TIMEZONE"]),
    key("experiments.eligible_states", &["ELIGIBLE_STATES"]),
    key("speedrun.interval_seconds", &["SPEEDRUN_INTERVAL"]),
    key("speedrun.max_experiments_per_cycle", &["SPEEDRUN_MAX_PER_CYCLE"]),
    key("task_types", &["TASK_TYPES"]),
    key("schedules", &["SCHEDULES"]),
];

/// A flag that overrides a setting.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The setting's key in the file.
    pub key: &'static str,
    /// The flag as typed, such as `--concurrency`.
    pub name: &'static str,
    /// Its value as typed.
    pub value: String,
}

/// What the command line says of settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The others.
    pub overrides: Vec<Flag>,
}

/// A copy of the environment. A variable that is empty counts as not set.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// That of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        Self::from_pairs(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// Any other.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect())
    }

    /// One variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The merged layers, and what each layer was called.
pub(super) struct Sources {
    pub(super) figment: Figment,
    pub(super) file: String,
    /// Dotted keys as they stand in the file, down to the keys known.
    pub(super) in_file: Vec<String>,
    /// What is wrong with the file as a whole.
    pub(super) faults: Vec<ConfigError>,
    variables: BTreeMap<&'static str, &'static str>,
    flags: BTreeMap<&'static str, &'static str>,
}

impl Sources {
    pub(super) fn gather(flags: &Flags, environment: &Environment) -> Self {
        let named =
            flags.file.clone().or_else(|| environment.get(FILE_VARIABLE).map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let file = path.display().to_string();
        let mut faults = Vec::new();
        if named.is_some() && !path.exists() {
            let says = "there is no such file; name one that exists, or none at all";
            faults.push(ConfigError::file(&file, says));
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let yaml = Yaml::string(&text);
        let in_file = keys_of(&yaml, &file).unwrap_or_else(|fault| {
            faults.push(fault);
            Vec::new()
        });
        let from_environment = Layer::of_environment(environment);
        let from_flags = Layer::of_flags(flags);
        let variables = from_environment.names.clone();
        let flag_names = from_flags.names.clone();
        let mut figment = Figment::new();
        if faults.is_empty() {
            figment = figment.merge(yaml);
        }
        let figment = figment.merge(from_environment).merge(from_flags);
        Self { figment, file, in_file, faults, variables, flags: flag_names }
    }

    /// What the setting's value came from, in words; `None`: it is not set.
    pub(super) fn origin(&self, path: &str) -> Option<String> {
        self.figment.find_value(path).ok()?;
        Some(if let Some(flag) = self.flags.get(path) {
            format!("flag {flag}")
        } else if let Some(variable) = self.variables.get(path) {
            format!("environment {variable}")
        } else {
            self.file.clone()
        })
    }
}

/// The keys of the file, or what is wrong with it as a whole.
fn keys_of(yaml: &impl Provider, file: &str) -> Result<Vec<String>, ConfigError> {
    let data = yaml.data().map_err(|error| ConfigError::file(file, &error.to_string()))?;
    let mut found = Vec::new();
    for dict in data.values() {
        flatten("", dict, &mut found);
    }
    Ok(found)
}

fn flatten(prefix: &str, dict: &Dict, found: &mut Vec<String>) {
    for (name, value) in dict {
        if name.contains('.') {
            found.push(format!("{DOTTED}{name}"));
            continue;
        }
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            // A heading with nothing under it.
            Value::Empty(..)
                if KEYS.iter().any(|key| key.path.starts_with(&format!("{path}."))) => {}
            Value::Dict(_, inner) if !KEYS.iter().any(|key| key.path == path) => {
                flatten(&path, inner, found);
            }
            _ => found.push(path),
        }
    }
}

/// Raw texts by key. figment's own provider for the environment would make numbers of some.
struct Layer {
    title: &'static str,
    dict: Dict,
    names: BTreeMap<&'static str, &'static str>,
}

impl Layer {
    fn new(title: &'static str) -> Self {
        Self { title, dict: Dict::new(), names: BTreeMap::new() }
    }

    fn of_environment(environment: &Environment) -> Self {
        let mut layer = Self::new("environment");
        for key in KEYS {
            let set = key.variables.iter().find_map(|name| Some((name, environment.get(name)?)));
            if let Some((name, value)) = set {
                layer.put(key.path, name, value);
            }
        }
        layer
    }

    fn of_flags(flags: &Flags) -> Self {
        let mut layer = Self::new("flags");
        for flag in &flags.overrides {
            layer.put(flag.key, flag.name, &flag.value);
        }
        layer
    }

    fn put(&mut self, path: &'static str, name: &'static str, value: &str) {
        self.names.insert(path, name);
        match path.split_once('.') {
            None => drop(self.dict.insert(path.to_owned(), value.into())),
            Some((group, leaf)) => {
                let group = self.dict.entry(group.to_owned()).or_insert_with(|| Dict::new().into());
                if let Value::Dict(_, inner) = group {
                    inner.insert(leaf.to_owned(), value.into());
                }
            }
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.title)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}
