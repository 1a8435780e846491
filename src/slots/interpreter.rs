//! What the configured interpreter is: asked once, by itself. Makes the constant configuration of runs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Interpreter, Options, SlotsError, past, proc, spawn};
use crate::job::StartMethod;

/// The private real-time signal that makes a run write its stack.
pub(super) const STACK_SIGNAL: i32 = 50;
/// How long it may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(20);
const OLDEST: (u32, u32) = (3, 11);

/// Says what `site` made of it. Never `realpath`: behind the link a virtual environment is lost.
const PROBE: &str = r#"
import sys, os, json
def lines(directory):
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        if name.endswith(".pth") and name != "distutils-precedence.pth":
            try:
                with open(os.path.join(directory, name), errors="replace") as file:
                    yield from file
            except OSError:
                pass
print("\n" + json.dumps({
    "executable": sys.executable, "version": list(sys.version_info[:3]), "implementation": sys.implementation.name,
    "sys_path": [p for p in sys.path if p], "prefix": sys.prefix, "exec_prefix": sys.exec_prefix,
    "base_prefix": sys.base_prefix, "base_exec_prefix": sys.base_exec_prefix,
    "run_site": not sys.modules.keys().isdisjoint(("sitecustomize", "usercustomize"))
        or any(l.startswith(("import ", "import\t")) for p in sys.path if p for l in lines(p))}))
"#;

/// An interpreter's own account.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Probe {
    pub(super) executable: PathBuf,
    version: (u32, u32, u32),
    implementation: String,
    sys_path: Vec<String>,
    prefix: String,
    exec_prefix: String,
    base_prefix: String,
    base_exec_prefix: String,
    run_site: bool,
}

impl Probe {
    /// Asks the interpreter. Blocks for as long as it takes to start one, or two where a `.pth` file runs code.
    pub(super) fn ask(options: &Options, shim: &Path) -> Result<Self, SlotsError> {
        let refuse = |reason: String| SlotsError::Interpreter {
            interpreter: options.interpreter.clone(),
            reason,
        };
        let mut command = Command::new(&options.interpreter);
        command.args(["-P", "-X", "utf8", "-c", PROBE]);
        let asked = answer(command, options, PATIENCE, &AtomicBool::new(false));
        let output = asked.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => refuse("it does not answer within 20 s".to_owned()),
            _ => refuse(format!("it cannot be started: {error}")),
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("it says nothing")
                .to_owned();
            return Err(refuse(format!(
                "asked for its version and paths it fails ({}): {last}; it must be Python 3.11 or newer",
                output.status
            )));
        }
        let mut probe: Self = last_line(&output.stdout).ok_or_else(|| {
            refuse("asked for its version and paths it gives no answer".to_owned())
        })?;
        probe.check().map_err(refuse)?;
        probe.run_site = probe.run_site && probe.needs_site(options, shim);
        Ok(probe)
    }

    /// Whether what `.pth` files run leaves anything that a run would miss (`site_effects.py`).
    fn needs_site(&self, options: &Options, shim: &Path) -> bool {
        let mut command = Command::new(&self.executable);
        command
            .args(["-I", "-S", "-X", "utf8"])
            .arg(shim.join("executor_shim/site_effects.py"))
            .arg(json!(self.sys_path).to_string());
        let effects: Option<Vec<String>> =
            answer(command, options, PATIENCE, &AtomicBool::new(false))
                .ok()
                .filter(|output| output.status.success())
                .and_then(|output| last_line(&output.stdout));
        match effects {
            Some(effects) if effects.is_empty() => false,
            Some(effects) => {
                let what = effects.join(", ");
                tracing::info!(event = "site_runs", effects = %what, "slots run `site`, for .pth files leave something behind; each start takes longer");
                true
            }
            None => true,
        }
    }

    /// Has it compile the shim once. A slot that does so itself keeps the memory that it took, a megabyte, and each of
    /// its runs pays for every page. If it cannot be done, slots do it.
    pub(super) fn compile(&self, options: &Options, shim: &Path) {
        let mut command = Command::new(&self.executable);
        command.args(["-I", "-S", "-X", "utf8", "-m", "compileall", "-q"]).arg(shim);
        let done = answer(command, options, PATIENCE, &AtomicBool::new(false));
        if !done.as_ref().is_ok_and(|output| output.status.success()) {
            tracing::debug!(
                event = "shim_not_compiled",
                ?done,
                "slots compile the shim themselves"
            );
        }
    }

    fn check(&self) -> Result<(), String> {
        if (self.version.0, self.version.1) < OLDEST {
            return Err(format!(
                "it is Python {}, and 3.11 or newer is needed",
                self.version_text()
            ));
        }
        if self.implementation != "cpython" {
            return Err(format!("it is {}, and CPython is needed", self.implementation));
        }
        if self.executable.as_os_str().is_empty() {
            return Err("it does not know its own executable".to_owned());
        }
        Ok(())
    }

    fn version_text(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{major}.{minor}.{patch}")
    }

    pub(super) fn describe(&self) -> Interpreter {
        Interpreter { executable: self.executable.clone(), version: self.version_text() }
    }

    /// The constant configuration (frames.md section 1).
    pub(super) fn config(&self, options: &Options, shim: &Path) -> Value {
        let start_method = match options.start_method {
            StartMethod::Forkserver => "forkserver",
            StartMethod::Spawn => "spawn",
        };
        json!({
            "tasks_path": options.tasks_path, "tools_path": options.tools_path, "allowed": options.allowed_modules,
            "result_max_bytes": options.result_max_bytes, "sys_path": self.sys_path, "executable": self.executable,
            "prefix": self.prefix, "exec_prefix": self.exec_prefix, "base_prefix": self.base_prefix,
            "base_exec_prefix": self.base_exec_prefix, "run_site": self.run_site, "stack_signal": STACK_SIGNAL,
            "environment": options.environment, "shim": shim, "start_method": start_method,
        })
    }
}

/// What a script of ours answered: JSON on its last line, whatever modules it imported wrote before.
pub(super) fn last_line<T: DeserializeOwned>(stdout: &[u8]) -> Option<T> {
    let text = String::from_utf8_lossy(stdout);
    serde_json::from_str(text.lines().next_back()?).ok()
}

/// Runs an interpreter that answers a question, which is known as a child for as long as it lives: at most
/// for so long, and only until nobody cares any more. Its stdin is open for as long as somebody does.
pub(super) fn answer(
    mut command: Command,
    options: &Options,
    patience: Duration,
    given_up: &AtomicBool,
) -> io::Result<Output> {
    let mut known = spawn::known();
    let mut child = command
        .env_clear()
        .envs(&options.environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let lifeline = child.stdin.take();
    let pid = spawn::pid_of(&child);
    known.insert(pid);
    drop(known);
    // Should we die before it answers, the next life sees to its end.
    past::remember(&options.runtime_dir, pid, past::Kind::Asked)?;
    let begun = Instant::now();
    let mut late = false;
    while child.try_wait()?.is_none() && !late {
        std::thread::sleep(Duration::from_millis(2));
        late = begun.elapsed() > patience || given_up.load(Ordering::Relaxed);
    }
    if late {
        past::end(pid, proc::stat(pid).map_or(0, |stat| stat.start));
        child.kill()?;
    }
    let output = child.wait_with_output();
    drop(lifeline);
    spawn::known().remove(&pid);
    if late { Err(io::ErrorKind::TimedOut.into()) } else { output }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(version: (u32, u32, u32), implementation: &str) -> Probe {
        Probe {
            executable: "/x/python".into(),
            version,
            implementation: implementation.into(),
            sys_path: vec![],
            prefix: String::new(),
            exec_prefix: String::new(),
            base_prefix: String::new(),
            base_exec_prefix: String::new(),
            run_site: false,
        }
    }

    #[test]
    fn old_and_foreign_interpreters_are_refused_in_a_sentence() {
        assert!(probe((3, 11, 0), "cpython").check().is_ok());
        assert!(probe((4, 0, 0), "cpython").check().is_ok());
        assert_eq!(
            probe((3, 10, 9), "cpython").check().unwrap_err(),
            "it is Python 3.10.9, and 3.11 or newer is needed"
        );
        assert!(probe((3, 11, 0), "pypy").check().unwrap_err().contains("CPython"));
    }
}
