//! Python as its users know it: edits take effect at once, a virtual environment is one, and no task
//! shadows a library.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::support::{BOTH, Bench, Executor, alive, eventually, text};

fn write(path: PathBuf, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Writes it with a time of its own, so that only the bytes tell that it was changed.
fn write_dated(path: PathBuf, content: &str) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    write(path.clone(), content);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

/// Its roots are directories of its own.
fn with_roots(bench: &mut Bench) {
    for (name, place) in [("TASKS_PATH", "root"), ("TOOLS_PATH", "tools")] {
        let path = bench.path(place);
        std::fs::create_dir_all(&path).unwrap();
        bench.executor.set(name, path.to_str().unwrap());
    }
    write(bench.path("root/tasks/__init__.py"), "");
}

#[test]
fn an_edit_takes_effect_at_once() {
    for method in BOTH {
        let mut bench = Bench::new(method, &[]);
        with_roots(&mut bench);
        let root = bench.path("");
        let edit = |n: i32| {
            write_dated(
                root.join("root/tasks/job.py"),
                &format!("from .helper import VALUE\ndef run():\n    return [{n}, VALUE]\n"),
            );
            write_dated(root.join("root/tasks/helper.py"), &format!("VALUE = {n}\n"));
            write_dated(root.join("tools/tool.py"), &format!("def tool():\n    return {n}\n"));
        };
        edit(1);
        // A planted bytecode of the same time and size, as an earlier run of plain python leaves it.
        for module in ["tasks/job.py", "tasks/helper.py"] {
            let status = Command::new("python3")
                .args(["-m", "py_compile"])
                .arg(bench.path("root").join(module))
                .status();
            assert!(status.unwrap().success());
        }
        edit(2);
        bench.executor.serve();
        assert_eq!(bench.value("j2", "tasks.job:run", json!({})), json!([2, 2]));
        assert_eq!(bench.value("t2", "tool", json!({})), 2);
        edit(3);
        assert_eq!(bench.value("j3", "tasks.job:run", json!({})), json!([3, 3]));
        assert_eq!(bench.value("t3", "tool", json!({})), 3);
        // And what is new is found, what is gone is not.
        write(bench.path("root/tasks/fresh.py"), "def run():\n    return 'fresh'\n");
        assert_eq!(bench.value("new", "tasks.fresh.run", json!({})), "fresh");
        std::fs::remove_file(bench.path("root/tasks/fresh.py")).unwrap();
        let row = bench.run("gone", "tasks.fresh:run", json!({}), json!({}));
        assert_eq!(row["error_type"], "ToolNotFoundError", "{row:#?}");
        write(bench.path("root/tasks/job.py"), "def run(:\n");
        let row = bench.run("broken", "tasks.job:run", json!({}), json!({}));
        assert_eq!(row["error_type"], "SyntaxError", "{row:#?}");
        assert!(text(&row, "traceback").contains("job.py"), "{row:#?}");
    }
}

const TASK: &str = r#"
import sys
def where():
    import editable_path, editable_finder, plain, both, json
    return [sys.prefix, sys.base_prefix != sys.prefix, editable_path.WHO, editable_finder.WHO, plain.WHO, both.WHO,
            len(json.dumps([]))]
def customized():
    return CUSTOMIZED
def only_here():
    import helper
    return helper.WHO
def leaves(code=None):
    print("before")
    exit(code)
def runs_itself():
    import subprocess
    code = "import editable_path, editable_finder, sys; print(editable_path.WHO, editable_finder.WHO)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
"#;

const FINDER: &str = r#"
import sys
from importlib.machinery import PathFinder
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "editable_finder":
            return PathFinder.find_spec(name, [SOURCE])
sys.meta_path.append(Finder)
"#;

/// A virtual environment with packages, two of them editable; gives its interpreter.
fn virtual_environment(root: &Path) -> PathBuf {
    let place = root.join("venv");
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&place).status();
    assert!(made.unwrap().success());
    let lib = std::fs::read_dir(place.join("lib")).unwrap().next().unwrap().unwrap().path();
    let site = lib.join("site-packages");
    let source = root.join("source");
    for name in ["editable_path", "editable_finder"] {
        write(source.join(format!("{name}.py")), &format!("WHO = '{name}'\n"));
    }
    write(site.join("__editable__.one.pth"), &format!("{}\n", source.display()));
    // As setuptools does for packages that a path cannot say.
    std::fs::rename(source.join("editable_finder.py"), {
        write(root.join("far/x"), "");
        root.join("far/editable_finder.py")
    })
    .unwrap();
    let far = format!("{:?}", root.join("far").to_str().unwrap());
    write(site.join("__editable___two_finder.py"), &FINDER.replace("SOURCE", &far));
    write(site.join("__editable__.two.pth"), "import __editable___two_finder\n");
    write(
        site.join("sitecustomize.py"),
        "import builtins\nbuiltins.CUSTOMIZED = 'by sitecustomize'\n",
    );
    for (name, who) in [("plain", "installed"), ("both", "installed"), ("listed", "installed")] {
        write(
            site.join(name).join("__init__.py"),
            &format!("WHO = '{who}'\ndef run():\n    return WHO\n"),
        );
    }
    write(site.join("vendored/jobs.py"), "def run(a: int):\n    return ['vendored', a]\n");
    write(site.join("vendored/__init__.py"), "");
    place.join("bin/python3")
}

#[test]
fn a_virtual_environment_is_one() {
    let shared = tempfile::tempdir().unwrap();
    let python = virtual_environment(shared.path());
    assert!(python.metadata().unwrap().permissions().mode() & 0o111 != 0);
    for method in BOTH {
        let mut bench = Bench::new(method, &[("ALLOWED_MODULES", "tasks,listed,vendored")]);
        with_roots(&mut bench);
        bench.executor.set("PYTHON", python.to_str().unwrap());
        write(bench.path("root/tasks/job.py"), TASK);
        // In the root: one that is listed, one that is not, one that bears a library's name, one nobody has.
        for name in ["listed", "both", "json", "helper", "plain"] {
            write(
                bench.path("root").join(format!("{name}.py")),
                &format!("WHO = '{name} of the root'\ndef run():\n    return WHO\n"),
            );
        }
        bench.executor.serve();
        let prefix = shared.path().join("venv");
        assert_eq!(
            bench.value("where", "tasks.job:where", json!({})),
            json!([prefix, true, "editable_path", "editable_finder", "installed", "installed", 2]),
            "{method}"
        );
        assert_eq!(bench.value("site", "tasks.job:customized", json!({})), "by sitecustomize");
        assert_eq!(bench.value("last", "tasks.job:only_here", json!({})), "helper of the root");
        assert_eq!(bench.value("listed", "listed:run", json!({})), "listed of the root");
        assert_eq!(
            bench.value("vendored", "vendored.jobs:run", json!({"a": 1})),
            json!(["vendored", 1])
        );
        assert_eq!(
            bench.value("itself", "tasks.job:runs_itself", json!({})),
            json!(["editable_path", "editable_finder"])
        );
        for id in ["plain", "both"] {
            let row = bench.run(id, &format!("{id}:run"), json!({}), json!({}));
            assert_eq!(row["error_type"], "ModuleNotAllowedError", "{row:#?}");
        }
    }
}

#[test]
fn exit_ends_a_run_as_it_ends_python() {
    for method in BOTH {
        let mut bench = Bench::new(method, &[]);
        with_roots(&mut bench);
        write(bench.path("root/tasks/job.py"), TASK);
        bench.executor.serve();
        for (id, code) in [("none", json!(null)), ("zero", json!(0))] {
            let row = bench.run(id, "tasks.job:leaves", json!({"code": code}), json!({}));
            assert_eq!(
                (&row["status"], &row["result"]),
                (&json!("COMPLETED"), &json!("null")),
                "{method} {row:#?}"
            );
        }
        let row = bench.run("three", "tasks.job:leaves", json!({"code": 3}), json!({}));
        assert_eq!(
            (&row["error_type"], text(&row, "error")),
            (&json!("CrashedError"), "the callable left by sys.exit(3)")
        );
        let row = bench.run("text", "tasks.job:leaves", json!({"code": "a reason"}), json!({}));
        assert_eq!(row["error_type"], "CrashedError", "{row:#?}");
        // Two streams have no order between them.
        assert_eq!(bench.output("text", "stdout"), ["before"]);
        assert_eq!(bench.output("text", "stderr"), ["a reason"]);
    }
}

#[test]
fn an_interpreter_that_hung_as_the_executor_died_is_ended_by_the_next() {
    let mut executor = Executor::new(None);
    let (python, asked) = (executor.dir.path().join("python"), executor.dir.path().join("asked"));
    let script = format!(
        "#!/bin/sh\n[ -e {0} ] && exec python3 \"$@\"\necho $$ > {0}.now && mv {0}.now {0}\nexec sleep 600\n",
        asked.display()
    );
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    executor.set("PYTHON", python.to_str().unwrap());
    executor.serve_unready();
    let text = eventually("the interpreter to be asked", || std::fs::read_to_string(&asked).ok());
    let hung: i64 = text.trim().parse().unwrap();
    executor.kill();
    assert!(alive(hung), "it hangs, whoever asked");
    executor.serve();
    assert!(!alive(hung));
}
