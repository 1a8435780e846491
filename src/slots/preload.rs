//! What slots load ahead: named by the user or learned from runs, each probed before.
//!
//! Decides which modules; starts no slot itself. Names come from runs, so nothing is believed but that they are
//! names: the probe (`preload_probe.py`) says what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Setup, interpreter, spawn};
use crate::config::Preload as Wanted;
use crate::frame::Imported;
use crate::job::StartMethod;

/// How long all probes of one round may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// More is not learned: each module is paid for by every fork.
const MOST: usize = 600;
const LONGEST_NAME: usize = 200;

/// What a new slot is to load. A slot with a lower generation is out of date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) generation: u64,
    pub(super) names: Vec<String>,
}

/// The modules known so far.
#[derive(Debug)]
pub(super) struct Preload {
    /// What runs are asked to tell: `none`, `stdlib` or `auto`.
    learn: &'static str,
    named: Vec<String>,
    /// Where what was learned outlives the executor.
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    recipe: Recipe,
    left_out: BTreeSet<String>,
    waiting: Vec<String>,
    stale: bool,
    renewing: bool,
}

impl Preload {
    pub(super) fn new(wanted: &Wanted, start_method: StartMethod, file: PathBuf) -> Self {
        let (learn, named) = match (start_method, wanted) {
            (StartMethod::Spawn, _) | (_, Wanted::None) => ("none", Vec::new()),
            (_, Wanted::Stdlib) => ("stdlib", Vec::new()),
            (_, Wanted::Auto) => ("auto", Vec::new()),
            (_, Wanted::Names(names)) => ("stdlib", names.clone()),
        };
        Self { learn, named, file, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a slot started now loads.
    pub(super) fn recipe(&self) -> Recipe {
        self.state().recipe.clone()
    }

    /// Its part of a slot's configuration (frames.md section 1).
    pub(super) fn config(&self, names: &[String]) -> Value {
        json!({"learn": self.learn, "names": names})
    }

    /// Takes what a run told. True: somebody must renew the slots, and nobody does yet.
    pub(super) fn note(&self, imported: Imported) -> bool {
        let mut state = self.state();
        let fresh: Vec<String> =
            imported.names.into_iter().filter(|name| state.is_new(name)).collect();
        let room = MOST.saturating_sub(state.recipe.names.len() + state.waiting.len());
        state.waiting.extend(fresh.into_iter().take(room));
        state.stale |= imported.stale;
        state.begin()
    }

    /// The same for what an earlier executor with this ledger had learned.
    pub(super) fn remember(&self) -> bool {
        if self.learn == "none" {
            return false;
        }
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let names = text.lines().map(str::to_owned).collect();
        self.note(Imported { names, stale: false })
    }

    /// Probes what waits. True: slots started from now on differ from those before. Blocks.
    pub(super) fn renew(&self, setup: &Setup) -> bool {
        let (names, stale) = {
            let mut state = self.state();
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.stale))
        };
        let good = self.probe(setup, &names, &names);
        if good.is_empty() && !stale {
            return false;
        }
        if !good.is_empty() {
            let modules = good.join(" ");
            tracing::info!(
                event = "preload_learned",
                modules,
                "modules that runs imported are loaded ahead from now on"
            );
        }
        let mut state = self.state();
        state.recipe.names.extend(good);
        state.recipe.generation += 1;
        let learned = state.recipe.names.join("\n");
        drop(state);
        // Only a later start is the slower without it.
        let _ = fs::write(&self.file, learned);
        true
    }

    /// Whether something came in meanwhile; if not, the renewing is over.
    pub(super) fn goes_on(&self) -> bool {
        let mut state = self.state();
        state.renewing = !state.waiting.is_empty() || state.stale;
        state.renewing
    }

    /// Probes what the user named, before the first slot starts. Blocks.
    pub(super) fn begin(&self, setup: &Setup) {
        if !self.named.is_empty() {
            let good = self.probe(setup, &self.named, &[]);
            self.state().recipe.names = good;
        }
    }

    /// Those of `names` that may be loaded ahead; each of the others gets a line that says why not.
    fn probe(&self, setup: &Setup, names: &[String], learned: &[String]) -> Vec<String> {
        if names.is_empty() {
            return Vec::new();
        }
        let options = &setup.options;
        let mut command = spawn::launcher(&options.launcher, setup.constant);
        command
            .arg(&setup.executable)
            .args(["-I", "-S", "-X", "utf8"])
            .arg(setup.shim.join("executor_shim/preload_probe.py"))
            .arg(setup.config(&self.state().recipe.names))
            .arg(json!([names, learned]).to_string());
        let answers =
            interpreter::answer(command, options, PATIENCE, &setup.closing).ok().and_then(
                |output| interpreter::last_line::<BTreeMap<String, Option<String>>>(&output.stdout),
            );
        let Some(answers) = answers else {
            tracing::warn!(
                event = "preload_failed",
                modules = names.join(" "),
                "modules could not be probed and are not loaded ahead"
            );
            self.state().left_out.extend(names.iter().cloned());
            return Vec::new();
        };
        let (good, bad): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| matches!(answers.get(*name), Some(None)));
        for name in bad {
            let reason = answers.get(name).cloned().flatten().unwrap_or_default();
            tracing::warn!(
                event = "preload_left_out",
                module = name,
                reason,
                "a module is not loaded ahead"
            );
            self.state().left_out.insert(name.clone());
        }
        good.into_iter().cloned().collect()
    }
}

impl State {
    fn is_new(&self, name: &str) -> bool {
        let is_name = name.len() <= LONGEST_NAME
            && name.split('.').all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            });
        is_name
            && !self.left_out.contains(name)
            && !self.waiting.iter().any(|known| known == name)
            && !self.recipe.names.iter().any(|known| known == name)
    }

    fn begin(&mut self) -> bool {
        let begin = !self.renewing && (self.stale || !self.waiting.is_empty());
        self.renewing |= begin;
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &[&str], stale: bool) -> Imported {
        Imported { names: names.iter().map(|name| (*name).to_owned()).collect(), stale }
    }

    fn preload(wanted: &Wanted) -> Preload {
        Preload::new(wanted, StartMethod::Forkserver, PathBuf::from("/nonexistent/learned"))
    }

    #[test]
    fn what_is_new_is_told_once_and_renewed_by_one() {
        let preload = preload(&Wanted::Stdlib);
        assert!(preload.note(told(&["json", "re"], false)));
        assert!(!preload.note(told(&["json", "csv"], false)), "somebody renews already");
        assert_eq!(preload.state().waiting, ["json", "re", "csv"]);
        preload.state().waiting.clear();
        assert!(!preload.goes_on());
        assert!(preload.note(told(&[], true)), "a changed file alone");
        assert!(preload.goes_on());
    }

    #[test]
    fn what_is_no_name_is_not_believed() {
        let preload = preload(&Wanted::Auto);
        let long = "a".repeat(LONGEST_NAME + 1);
        assert!(!preload.note(told(&["", "a..b", "a b", "a;b", "é", &long], false)));
        let many: Vec<String> = (0..2 * MOST).map(|n| format!("m{n}")).collect();
        assert!(preload.note(Imported { names: many, stale: false }));
        assert_eq!(preload.state().waiting.len(), MOST);
    }

    #[test]
    fn settings_say_what_is_asked_of_runs() {
        let names = Wanted::Names(vec!["numpy".to_owned()]);
        for (wanted, learn, named) in
            [(Wanted::None, "none", 0), (Wanted::Auto, "auto", 0), (names, "stdlib", 1)]
        {
            let made = preload(&wanted);
            assert_eq!((made.learn, made.named.len()), (learn, named));
            let spawn = Preload::new(&wanted, StartMethod::Spawn, PathBuf::new());
            assert_eq!((spawn.learn, spawn.named.len()), ("none", 0));
        }
    }
}
