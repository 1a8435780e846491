//! Who may use whom: reads the `crate::` paths of every source file and fails on any arrow that the
//! table does not have. `ARCHITECTURE.md` says why the arrows are these.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rooms that use only each other and do no input or output.
const PURE: &[&str] = &["clock", "job", "outcome", "payload", "policy", "frame", "cron"];

/// Rooms that everyone may use beside the pure ones.
const COMMON: &[&str] = &["config", "log", "failpoint"];

/// From a room to the rooms it may use, beside the pure and the common ones.
fn arrows() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("clock", vec![]),
        ("job", vec![]),
        ("outcome", vec![]),
        ("payload", vec![]),
        ("policy", vec!["config"]),
        ("frame", vec![]),
        ("cron", vec![]),
        ("config", vec![]),
        ("log", vec![]),
        ("signals", vec![]),
        ("ledger", vec![]),
        ("slots", vec![]),
        ("link", vec!["health"]),
        ("health", vec![]),
        ("http", vec!["health"]),
        ("experiments", vec!["link"]),
        ("publish", vec!["ledger", "link", "health", "experiments"]),
        ("heartbeat", vec!["health", "link"]),
        ("doors", vec!["ledger", "link", "health", "experiments"]),
        ("flow", vec!["slots", "ledger", "publish", "health", "experiments"]),
        ("dispatcher", vec!["flow", "ledger", "slots", "health", "signals"]),
        ("control", vec!["ledger", "dispatcher", "doors", "experiments"]),
        ("notify", vec!["health"]),
        ("failpoint", vec![]),
        ("fsck", vec!["ledger", "slots", "link", "experiments"]),
    ])
}

/// These wire everything together.
const WIRING: &[&str] = &["cli", "serve", "main", "lib"];

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// Reads the environment only to wipe it.
const WIPES: &str = "slots/spawn.rs";

/// The rooms named in a file after `crate::`, tests left out.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let mut rooms = BTreeSet::new();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for rest in line.split("crate::").skip(1) {
            let room: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !room.is_empty() {
                rooms.insert(room);
            }
        }
    }
    rooms
}

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, arrows, mut seen) = (Vec::new(), arrows(), BTreeSet::new());
    sources(&root, &mut files);
    for path in files {
        let inside = path.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.trim_end_matches(".rs").to_owned();
        if WIRING.contains(&room.as_str()) || path.ends_with("tests.rs") {
            continue;
        }
        let may = arrows
            .get(room.as_str())
            .unwrap_or_else(|| panic!("{} is in no room of the table", inside.display()));
        seen.insert(room.clone());
        for other in used(&std::fs::read_to_string(&path).unwrap()) {
            let common = !PURE.contains(&room.as_str()) && COMMON.contains(&other.as_str());
            let fine = other == room
                || PURE.contains(&other.as_str())
                || common
                || may.contains(&other.as_str());
            assert!(fine, "{} uses {other}, which {room} may not", inside.display());
        }
    }
    let gone: Vec<_> = arrows.keys().filter(|room| !seen.contains(**room)).collect();
    assert!(gone.is_empty(), "rooms of the table that no longer exist: {gone:?}");
}

#[test]
fn unsafe_is_in_two_files_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let with_unsafe: Vec<_> = files
        .iter()
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("unsafe {"))
        .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    for file in with_unsafe {
        assert!(["slots/spawn.rs", "slots/tree.rs"].contains(&file.as_str()), "unsafe in {file}");
    }
}

#[test]
fn only_config_reads_the_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for path in files {
        let inside = path.strip_prefix(&root).unwrap();
        if inside.starts_with("config") || inside == Path::new(WIPES) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(&text);
        assert!(!code.contains("env::var"), "{} reads the environment", inside.display());
    }
}
