//! Reading one setting at a time: its value or its fault, and its line for `doctor --settings`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::source::{DOTTED, KEYS, Sources};
use super::values::Shown;

/// One setting with where it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettingLine {
    /// Its key in the file.
    pub key: String,
    /// Its value; secrets are hidden, durations are seconds.
    pub value: Value,
    /// `default`, `environment NAME`, `flag --name`, or the file.
    pub origin: String,
}

/// One fault: which setting, what it is, what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct ConfigError {
    origin: String,
    what: String,
}

impl ConfigError {
    pub(super) fn file(file: &str, what: &str) -> Self {
        let what = without_password(&what.lines().collect::<Vec<_>>().join(" "));
        Self { origin: file.to_owned(), what }
    }
}

/// A URL with a password may have come to stand in another setting's place: it is left out.
fn without_password(text: &str) -> String {
    match text.split_once("//") {
        Some((before, rest)) if rest.contains('@') => format!("{before}//***"),
        _ => text.to_owned(),
    }
}

/// A name that is none may be a URL with a password: what stands before an `@` is left out.
fn name_without_password(name: &str) -> String {
    name.rsplit_once('@').map_or_else(|| name.to_owned(), |(_, host)| format!("***@{host}"))
}

/// Every fault of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// How many faults there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Whether a value may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    Open,
    /// Passwords in it are replaced.
    Secret,
}

/// The state of reading.
pub(super) struct Reading {
    sources: Sources,
    faults: Vec<ConfigError>,
    lines: Vec<SettingLine>,
}

impl Reading {
    pub(super) fn new(sources: Sources) -> Self {
        let faults = sources.faults.clone();
        let mut reading = Self { sources, faults, lines: Vec::new() };
        reading.refuse_unknown_keys();
        reading
    }

    fn refuse_unknown_keys(&mut self) {
        for found in &self.sources.in_file {
            if KEYS.iter().any(|key| key.path == found) {
                continue;
            }
            if let Some(dotted) = found.strip_prefix(DOTTED) {
                let what = format!(
                    "{dotted} is written with a dot; nest it: its last part under the others"
                );
                self.faults.push(ConfigError::file(&self.sources.file, &what));
                continue;
            }
            let nearest = KEYS
                .iter()
                .map(|key| (strsim::jaro_winkler(key.path, found), key.path))
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match nearest {
                Some((likeness, path)) if likeness > 0.75 => format!("; did you mean {path}?"),
                _ => "; config/schedule.yaml lists all keys".to_owned(),
            };
            let found = name_without_password(found);
            let what = format!("{found} is not a known key{hint}");
            self.faults.push(ConfigError::file(&self.sources.file, &what));
        }
    }

    /// Reads a setting that has a default.
    pub(super) fn read<T: Shown>(
        &mut self,
        key: &'static str,
        default: T,
        right: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> T {
        match self.set(key, Secrecy::Open, right, parse) {
            Some(value) => value,
            None => {
                self.lines.push(SettingLine {
                    key: key.into(),
                    value: default.shown(),
                    origin: "default".into(),
                });
                default
            }
        }
    }

    /// Reads a setting; `None`: it is not set, or wrong, which is noted.
    pub(super) fn set<T: Shown>(
        &mut self,
        key: &'static str,
        secrecy: Secrecy,
        right: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let origin = self.sources.origin(key)?;
        let found = self.sources.figment.find_value(key).ok()?;
        let value: Value = found.deserialize().unwrap_or(Value::Null);
        if value.is_null() {
            return None;
        }
        let hidden = |value: Value, mask: fn(&str) -> String| match secrecy {
            Secrecy::Open => value,
            Secrecy::Secret => value.as_str().map_or(Value::Null, |text| mask(text).into()),
        };
        let parsed = parse(&value);
        match &parsed {
            Some(parsed) => {
                let value = hidden(parsed.shown(), mask);
                self.lines.push(SettingLine { key: key.into(), value, origin });
            }
            None => {
                let shown = without_password(&hidden(value, mask_refused).to_string());
                let shown: String = shown.chars().take(200).collect();
                let what = format!("{key} is {shown}; it must be {right}");
                self.faults.push(ConfigError { origin, what });
            }
        }
        parsed
    }

    /// Reads a setting that has entries, each of which may have faults; none is its default.
    pub(super) fn read_entries<T: Shown + Default>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, Vec<String>>,
    ) -> T {
        let mut faults = Vec::new();
        // Its own faults are told instead of the general one.
        let before = self.faults.len();
        let read = self
            .read(key, T::default(), "", |value| parse(value).map_err(|found| faults = found).ok());
        if !faults.is_empty() {
            self.faults.truncate(before);
            let origin = self.sources.origin(key).unwrap_or_else(|| "default".to_owned());
            let fault = |what: String| ConfigError {
                origin: origin.clone(),
                what: without_password(&what.lines().collect::<Vec<_>>().join(" ")),
            };
            self.faults.extend(faults.into_iter().map(fault));
        }
        read
    }

    /// Adds the line of a setting that is not set.
    pub(super) fn unset(&mut self, key: &'static str, value: Value) {
        if !self.lines.iter().any(|line| line.key == key) {
            self.lines.push(SettingLine { key: key.into(), value, origin: "default".into() });
        }
    }

    /// Notes a fault between settings; the first of them that is set is blamed.
    pub(super) fn fault(&mut self, keys: &[&str], what: String) {
        let origin = keys.iter().find_map(|key| self.sources.origin(key));
        let origin = origin.unwrap_or_else(|| "default".to_owned());
        self.faults.push(ConfigError { origin, what });
    }

    /// All lines in the order of the settings, or all faults.
    pub(super) fn finish(mut self) -> Result<Vec<SettingLine>, ConfigErrors> {
        if !self.faults.is_empty() {
            return Err(ConfigErrors(self.faults));
        }
        let place = |line: &SettingLine| KEYS.iter().position(|key| key.path == line.key);
        self.lines.sort_by_key(place);
        Ok(self.lines)
    }
}

/// An accepted URL without its password. What stands before the last `@` may be one, wherever a `/` or
/// `?` in it would end a host; so may `pass` and `password` in the query.
fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let masked = match rest.rsplit_once('@') {
        None => rest.to_owned(),
        Some((who, host)) => match who.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => format!("***@{host}"), // a token, or a name: who can tell?
        },
    };
    let Some((place, query)) = masked.split_once('?') else {
        return format!("{scheme}://{masked}");
    };
    let secret = |part: &str| part.starts_with("pass=") || part.starts_with("password=");
    let query: Vec<&str> =
        query.split('&').map(|part| if secret(part) { "pass=***" } else { part }).collect();
    format!("{scheme}://{place}?{}", query.join("&"))
}

/// A refused URL: where its password stands cannot be known, so only its scheme is shown.
fn mask_refused(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphabetic()) => {
            format!("{scheme}://***")
        }
        _ => "***".to_owned(),
    }
}
