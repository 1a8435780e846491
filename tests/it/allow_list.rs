//! Attacks on the list of allowed modules, pushed as real payloads: each is refused, and none had an effect.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{BOTH, Bench, text};

const MODULE: &str = r#"
import functools, os, subprocess
from json import loads
from os import system
from tasks.base import Base, borrowed, decorated_elsewhere

call = subprocess.call
lazy = functools.partial(os.system)

def mark(path):
    open(path, "w").close()

def _hidden(path):
    mark(path)

class Callable:
    def __call__(self, path):
        mark(path)

instance = Callable()

class T:
    def __init__(self, path="/dev/null"):
        mark(path)
    def method(self, a: int = 0):
        return a
    foreign = os.system
    static_foreign = staticmethod(os.system)
    nested = Callable

class Sub(subprocess.Popen):
    pass

class Inherits(Base):
    pass

def decorator(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return ["wrapped", function(*args, **kwargs)]
    return wrapper

@decorator
def wrapped(a: int):
    return a

class Wrapped:
    @decorator
    def method(self, a: int):
        return a
    @classmethod
    @decorator
    def of_class(cls, a: int):
        return a

disguised = functools.wraps(mark)(os.system.__call__) if hasattr(os.system, "__wrapped__") else os.system
"#;

const BASE: &str = "
class Base:
    def inherited(self, a: int):
        return a
    @classmethod
    def named(cls):
        return cls.__name__
def borrowed(path):
    open(path, 'w').close()
def decorated_elsewhere():
    return 1
";

/// A root of tasks with everything an attacker could wish for; all that is outside of the list makes `mark`.
fn prepare(bench: &mut Bench, mark: &Path) {
    let root = bench.path("root");
    let mischief = format!("open({:?}, 'w').close()\ndef run(**k): pass\n", mark.to_str().unwrap());
    for (path, content) in [
        ("root/tasks/__init__.py", ""),
        ("root/tasks/x.py", MODULE),
        ("root/tasks/base.py", BASE),
        ("root/tasks_evil/__init__.py", &mischief),
        ("root/evil.py", &mischief),
        ("root/sitecustomize.py", &mischief),
        ("root/usercustomize.py", &mischief),
        ("sitecustomize.py", &mischief),
        ("json.py", &mischief),
        ("root/json.py", &mischief),
        ("root/_json.py", &mischief),
        ("outside/mod.py", &mischief),
        ("outside/__init__.py", &mischief),
        ("tools/json.py", &mischief.replace("open", "0 and open")),
        ("tools/honest.py", "import json\ndef run():\n    return json.loads('[1]')\n"),
    ] {
        let path = bench.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    symlink(bench.path("outside/mod.py"), root.join("tasks/link.py")).unwrap();
    symlink(bench.path("outside"), root.join("tasks/linked")).unwrap();
    symlink(bench.path("outside/mod.py"), bench.path("tools/link.py")).unwrap();
    let tools = bench.path("tools");
    bench
        .executor
        .set("TASKS_PATH", root.to_str().unwrap())
        .set("TOOLS_PATH", tools.to_str().unwrap());
}

fn attacks(mark: &Path) -> Vec<(Value, Value)> {
    let touch = json!({"command": format!("touch {}", mark.display())});
    let path = json!({"path": mark});
    let args = json!({"args": ["touch", mark]});
    let code = json!({"source": format!("open({mark:?}, 'w')")});
    let target = |name: &str, parameters: &Value| (json!({"target": name}), parameters.clone());
    let triple = |module: &str, class: Value, method: &str, parameters: &Value| {
        (
            json!({"module_path": module, "class_name": class, "method_name": method}),
            parameters.clone(),
        )
    };
    vec![
        // Elsewhere by name.
        target("os:system", &touch),
        target("os.system", &touch),
        target("subprocess:call", &args),
        target("builtins:exec", &code),
        target("evil:run", &path),
        target("tasks_evil:run", &path),
        target("executor_shim.runner:configure", &json!({"config": {}})),
        target("executor_tools.honest:run", &json!({})),
        target("__main__:run", &path),
        triple("os", Value::Null, "system", &touch),
        // Through what a module imported.
        target("tasks.os:system", &touch),
        target("tasks.os.system", &touch),
        target("tasks.x.os.system", &touch),
        target("tasks.x.subprocess.call", &args),
        target("tasks.x:subprocess.call", &args),
        target("tasks.x:os.system", &touch),
        target("tasks.x.T.nested.run", &path),
        triple("tasks.x", json!("subprocess"), "call", &args),
        triple("tasks.x", json!("os"), "system", &touch),
        triple("tasks.x.os", Value::Null, "system", &touch),
        triple("tasks.x", Value::Null, "os.system", &touch),
        // What a module merely re-exports, or names.
        target("tasks.x:system", &touch),
        target("tasks.x:call", &args),
        target("tasks.x:loads", &json!({"s": "1"})),
        target("tasks.x:lazy", &touch),
        target("tasks.x:borrowed", &path),
        target("tasks.x:decorated_elsewhere", &json!({})),
        target("tasks.x:disguised", &touch),
        target("tasks.x:instance", &path),
        target("tasks.x:T", &path),
        target("tasks.x:Base.inherited", &json!({"a": 1})),
        target("tasks.x:Sub.kill", &json!({})),
        target("tasks.x:Sub.communicate", &json!({})),
        target("tasks.x:T.foreign", &touch),
        target("tasks.x:T.static_foreign", &touch),
        target("tasks.x:T.nested", &path),
        // Private names and dunders.
        target("tasks.x:_hidden", &path),
        target("tasks.x:__import__", &json!({"name": "os"})),
        target("tasks.x:__builtins__", &json!({})),
        target("tasks.x:T.__init__", &path),
        target("tasks.x:T.__class__", &json!({})),
        target("tasks.x:T.__init_subclass__", &json!({})),
        target("tasks.x:T.method.__globals__", &json!({})),
        target("tasks.__init__:run", &path),
        triple("tasks.x", json!("__class__"), "mro", &json!({})),
        // Names that are none.
        target("tasks..x:mark", &path),
        target(".tasks.x:mark", &path),
        target("tasks.x.:mark", &path),
        target("tasks.x::mark", &path),
        target("tasks.x:mark:mark", &path),
        target("tasks/x:mark", &path),
        target("tasks.x:mark\n", &path),
        target("tasks.x:mark\u{0}", &path),
        target("../evil:run", &path),
        target("../evil", &path),
        target("/etc/passwd", &path),
        target("t\u{430}sks.x:mark", &path),
        target("tasks.x:m\u{430}rk", &path),
        target("tasks.x:\u{1d5c6}ark", &path),
        target("\u{ff54}asks.x:mark", &path),
        // Links out of the roots.
        target("tasks.link:run", &path),
        target("tasks.linked.mod:run", &path),
        target("tasks.linked:run", &path),
        target("link", &path),
        // Parameters that reach for more.
        target("tasks.x:T.method", &json!({"__class__": 1})),
        target("tasks.x:T.method", &json!({"self": 1})),
        target("tasks.x:T.method", &json!({"a": {"__reduce__": ["os.system", "true"]}})),
        target("tasks.x:mark", &json!({"path": mark, "__globals__": {}})),
    ]
}

#[test]
fn every_attack_is_refused_without_effect() {
    for method in BOTH {
        let mut bench = Bench::new(method, &[]);
        let mark = bench.path("mark");
        prepare(&mut bench, &mark);
        bench.executor.serve();
        let attacks = attacks(&mark);
        for (number, (payload, parameters)) in attacks.iter().enumerate() {
            let mut payload = payload.clone();
            payload["job_id"] = json!(format!("a{number}"));
            payload["task_type"] = json!("event");
            payload["parameters"] = parameters.clone();
            bench.redis.push(&payload);
        }
        for (number, (payload, parameters)) in attacks.iter().enumerate() {
            let row = bench.executor.ended(&format!("a{number}"));
            let seen = format!("{method} {payload} {parameters}: {row:#?}");
            assert_eq!(row["status"], "FAILED", "{seen}");
            let expected: &[&str] = match payload["target"].as_str() {
                _ if row["attempts"] == 0 => &["ModuleNotAllowedError", "InvalidPayloadError"],
                Some("tasks.x:mark" | "tasks.x:T.method") => &["InvalidParametersError"],
                Some("tasks.x:T" | "tasks.x:T.nested" | "tasks.x:T.foreign") => {
                    &["ToolError", "ModuleNotAllowedError"]
                }
                Some("tasks.os:system") => &["ToolNotFoundError"],
                // The package itself is the longest prefix that is a module; it has no class `os`.
                Some("tasks.os.system") => &["ToolError"],
                Some("../evil" | "/etc/passwd") => &["ModuleNotAllowedError"],
                _ => &["ModuleNotAllowedError", "ToolNotFoundError"],
            };
            assert!(expected.contains(&text(&row, "error_type")), "{seen}");
            assert!(row["attempts"].as_i64().unwrap() <= 1, "never retried: {seen}");
            assert!(!mark.exists(), "it had an effect: {seen}");
        }
        let row = bench.run("control", "tasks.x:mark", json!({"path": mark}), json!({}));
        assert_eq!(
            (&row["status"], mark.exists()),
            (&json!("COMPLETED"), true),
            "the mark does work"
        );
    }
}

#[test]
fn what_is_inherited_or_decorated_within_the_list_is_accepted() {
    for method in BOTH {
        let mut bench = Bench::new(method, &[]);
        let mark = bench.path("mark");
        prepare(&mut bench, &mark);
        bench.executor.serve();
        for (number, (target, parameters, result)) in [
            ("tasks.x:Inherits.inherited", json!({"a": 3}), json!(3)),
            ("tasks.x.Inherits.named", json!({}), json!("Inherits")),
            ("tasks.x:wrapped", json!({"a": 4}), json!(["wrapped", 4])),
            ("tasks.x:Wrapped.method", json!({"a": 5}), json!(["wrapped", 5])),
            ("tasks.x:Wrapped.of_class", json!({"a": 6}), json!(["wrapped", 6])),
            ("tasks.base:decorated_elsewhere", json!({}), json!(1)),
            ("honest", json!({}), json!([1])),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(bench.value(&format!("g{number}"), target, parameters), result, "{target}");
        }
        let row = bench.run("unfit", "tasks.x:wrapped", json!({"a": "4"}), json!({}));
        assert_eq!(row["error_type"], "InvalidParametersError", "{row:#?}");
        assert!(!mark.exists(), "something of what lies about was loaded");
    }
}
