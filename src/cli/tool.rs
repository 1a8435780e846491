//! `executor tool`: the tools under TOOLS_PATH.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::ToolCommand;
use super::job::Format;
use super::{CliError, exit, out, run, runtime, table};
use crate::config::Settings;
use crate::job::Target;
use crate::outcome::Outcome;
use crate::payload::is_name;
use crate::slots::Action;

/// How long loading a tool may take.
const LOADING: Duration = Duration::from_secs(60);

pub(super) fn tool(command: &ToolCommand, settings: &Settings) -> Result<u8, CliError> {
    match command {
        ToolCommand::List { json } => list(settings, Format::of(*json)),
        ToolCommand::Check { path, json } => check(settings, path, Format::of(*json)),
    }
}

fn list(settings: &Settings, format: Format) -> Result<u8, CliError> {
    let dir = &settings.python.tools_path;
    let entries = std::fs::read_dir(dir).map_err(|error| {
        CliError::Failed(format!("the tools' directory {} cannot be read: {error}", dir.display()))
    })?;
    let mut found: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            let python = path.extension().is_some_and(|ext| ext == "py");
            (python && is_name(&name)).then(|| {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                (name, first_words(&text))
            })
        })
        .collect();
    found.sort();
    match format {
        Format::Programs => {
            let one = |(name, about): &(String, String)| json!({"name": name, "doc": about});
            out::json(&found.iter().map(one).collect());
        }
        Format::People if found.is_empty() => {
            out::note(&format!("no tools in {} (TOOLS_PATH)", dir.display()));
        }
        Format::People => {
            let rows: Vec<_> = found.into_iter().map(|(name, about)| vec![name, about]).collect();
            out::line(&table::table(&["TOOL", "WHAT IT SAYS OF ITSELF"], &rows));
        }
    }
    Ok(exit::OK)
}

/// The first line of the first docstring, found without running anything.
fn first_words(text: &str) -> String {
    let Some(at) = text.find("\"\"\"") else { return String::new() };
    let words = text[at + 3..].trim_start().lines().next().unwrap_or_default();
    table::short(words.split("\"\"\"").next().unwrap_or_default(), 80)
}

fn check(settings: &Settings, path: &Path, format: Format) -> Result<u8, CliError> {
    let mut settings = settings.clone();
    let name = match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => {
            settings.python.tools_path = std::path::absolute(dir).map_err(|source| {
                CliError::System { what: "the path cannot be resolved", source }
            })?;
            path.file_stem()
        }
        None if path.extension().is_some() && path.exists() => {
            settings.python.tools_path = std::env::current_dir()
                .map_err(|source| CliError::System { what: "no working directory", source })?;
            path.file_stem()
        }
        None => path.file_stem(),
    };
    let name = name.and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let runtime = runtime()?;
    let target = Target::Tool(name.clone());
    let parameters = run::object("{}")?;
    let ((report, _), interrupted) =
        runtime.block_on(run::once(&settings, target, parameters, LOADING, Action::Check))?;
    if let Some(code) = interrupted {
        return Ok(code);
    }
    Ok(tell(&name, &report.outcome, format))
}

fn tell(name: &str, outcome: &Outcome, format: Format) -> u8 {
    let (fine, body) = match outcome {
        Outcome::Succeeded(success) => {
            (true, serde_json::from_str(success.value.get()).unwrap_or(Value::Null))
        }
        Outcome::Failed(failure) => (
            false,
            json!({"error_type": failure.error_type, "error": failure.error, "traceback": failure.traceback}),
        ),
        Outcome::NotStarted(why) => (false, json!({"error_type": "NotStarted", "error": why})),
    };
    let word = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    match (format, fine) {
        (Format::Programs, _) => {
            let mut body = body.as_object().cloned().unwrap_or_default();
            body.insert("tool".into(), name.into());
            body.insert("ok".into(), fine.into());
            out::json(&Value::Object(body));
        }
        (Format::People, true) => {
            out::line(&format!("{}{}", word("callable"), word("signature")));
            if !word("doc").is_empty() {
                out::line(&format!("\n{}", word("doc").trim_end()));
            }
        }
        (Format::People, false) => {
            if !word("traceback").is_empty() {
                out::note(word("traceback").trim_end());
            }
            out::note(&format!("{name}: {}: {}", word("error_type"), word("error")));
        }
    }
    if fine { exit::OK } else { exit::FAILED }
}

#[cfg(test)]
mod tests {
    use super::first_words;

    #[test]
    fn a_tool_says_itself_what_it_is_for() {
        assert_eq!(first_words("\"\"\"Counts words.\n\nMore.\"\"\"\n"), "Counts words.");
        assert_eq!(first_words("def f():\n    \"\"\"Short.\"\"\"\n"), "Short.");
        assert_eq!(first_words("def f(): pass\n"), "");
    }
}
