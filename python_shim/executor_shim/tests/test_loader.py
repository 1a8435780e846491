"""Which code a target may start: found, read anew, or refused, each with its exact name."""

import json
import os
import subprocess
import sys
import time
import venv

import pytest

from .support import SHIM, write


@pytest.fixture
def good(forked):
    """Tasks with everything in them that an attacker could name."""
    forked.task("tasks/__init__.py", "")
    forked.task(
        "tasks/good.py",
        """
        import functools, os, subprocess
        from json import loads
        from os import system
        from .base import Base, helper

        def traced(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return ['traced', function(*args, **kwargs)]
            return wrapper

        def run():
            return 'run'

        @traced
        def decorated():
            return 'decorated'

        @functools.lru_cache
        def cached():
            return 'cached'

        foreign = traced(loads)
        half = functools.partial(run)
        value = 3
        _private = run

        class T(Base):
            stolen = subprocess.call
            def __init__(self):
                self.x = 'made'
            def run(self):
                return self.x
            @staticmethod
            def still():
                return 'static'
            @classmethod
            def of_class(cls):
                return cls.__name__
            @traced
            def traced_method(self):
                return self.x
            @property
            def prop(self):
                return 1
            class Inner:
                def run(self): return 1

        class Dict(dict):
            pass

        class Needs:
            def __init__(self, x): pass
            def run(self): return 1
            @staticmethod
            def still(): return 'no instance'

        class Fails:
            def __init__(self): raise ConnectionError('in init')
            def run(self): return 1
        """,
    )
    forked.task(
        "tasks/base.py",
        """
        def helper(): return 1
        class Base:
            def inherited(self): return 'inherited by ' + self.x
        """,
    )
    forked.task("tasks/loud.py", "print('imported')\ndef run(): return 1\n")
    return forked


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("tasks.good:run", "run"),
        ("tasks.good:decorated", ["traced", "decorated"]),
        ("tasks.good:cached", "cached"),
        ("tasks.good:T.run", "made"),
        ("tasks.good:T.still", "static"),
        ("tasks.good:T.of_class", "T"),
        ("tasks.good:T.traced_method", ["traced", "made"]),
        ("tasks.good:T.inherited", "inherited by made"),
        ("tasks.good:Needs.still", "no instance"),
    ],
)
def test_what_may_be_called(good, target, value):
    assert good.call(target).value == value


@pytest.mark.parametrize(
    ("target", "error_type"),
    [
        ("os:system", "ModuleNotAllowedError"),
        ("tasks_evil:run", "ModuleNotAllowedError"),
        ("taskss.good:run", "ModuleNotAllowedError"),
        ("tasks..good:run", "ModuleNotAllowedError"),
        (".tasks.good:run", "ModuleNotAllowedError"),
        ("tasks.good.:run", "ModuleNotAllowedError"),
        ("tasks/good:run", "ModuleNotAllowedError"),
        ("tasks.../good:run", "ModuleNotAllowedError"),
        ("tаsks.good:run", "ModuleNotAllowedError"),  # a Cyrillic letter
        ("tasks.good:rún", "ModuleNotAllowedError"),
        ("tasks.good\n:run", "ModuleNotAllowedError"),
        ("tasks.__init__:run", "ModuleNotAllowedError"),
        ("tasks.good:__import__", "ModuleNotAllowedError"),
        ("tasks.good:_private", "ModuleNotAllowedError"),
        ("tasks.good:T.__init__", "ModuleNotAllowedError"),
        ("tasks.good:__builtins__.exec", "ModuleNotAllowedError"),
        ("tasks.good:run.__globals__", "ModuleNotAllowedError"),
        ("tasks.good:T.Inner.run", "ModuleNotAllowedError"),
        ("tasks.good:subprocess.call", "ModuleNotAllowedError"),
        ("tasks.good:os.system", "ModuleNotAllowedError"),
        ("tasks.good:loads", "ModuleNotAllowedError"),
        ("tasks.good:system", "ModuleNotAllowedError"),
        ("tasks.good:helper", "ModuleNotAllowedError"),
        ("tasks.good:foreign", "ModuleNotAllowedError"),
        ("tasks.good:half", "ModuleNotAllowedError"),
        ("tasks.good:Base.inherited", "ModuleNotAllowedError"),
        ("tasks.good:T.stolen", "ModuleNotAllowedError"),
        ("tasks.good:Dict.update", "ModuleNotAllowedError"),
        ("tasks.os:system", "ToolNotFoundError"),
        ("tasks.good.os:system", "ToolNotFoundError"),
        ("tasks.missing:run", "ToolNotFoundError"),
        ("tasks.good.T:run", "ToolNotFoundError"),
        ("tasks.good:exec", "ToolError"),
        ("tasks.good:missing", "ToolError"),
        ("tasks.good:value", "ToolError"),
        ("tasks.good:T", "ToolError"),
        ("tasks.good:T.missing", "ToolError"),
        ("tasks.good:T.prop", "ToolError"),
        ("tasks.good:T.Inner", "ToolError"),
        ("tasks.good:Missing.run", "ToolError"),
        ("tasks.good:Needs.run", "ToolError"),
    ],
)
def test_what_may_not(good, target, error_type):
    ended = good.call(target)
    assert ended.code == 0
    assert (ended.result["kind"], ended.result["error_type"]) == ("unfit", error_type), ended.result
    assert ended.result["error"]
    assert ended.result["traceback"]


def test_refused_before_the_import_where_the_name_says_so(good):
    for target in ("tasks.loud:__init__", "tasks.loud:_x", "tasks.loud:Cls.__call__", "tasks.loud.x:run"):
        ended = good.call(target)
        assert (ended.result["kind"], ended.stdout) == ("unfit", b""), target


def test_a_class_that_needs_arguments_is_named(good):
    error = good.call("tasks.good:Needs.run").result["error"]
    assert "Needs cannot be made without arguments" in error
    assert "'x'" in error


def test_what_making_the_instance_raises_is_the_users(good):
    result = good.call("tasks.good:Fails.run").result
    assert (result["kind"], result["error_type"], result["transient"]) == ("raised", "ConnectionError", True)


def test_links_stay_under_their_root(forked, tmp_path):
    outside = write(tmp_path / "outside" / "evil.py", "print('ran')\ndef run(): return 1\n")
    write(tmp_path / "outside" / "__init__.py", "print('ran')\n")
    forked.task("tasks/__init__.py", "")
    forked.task("tasks/near.py", "def run(): return 'near'\n")
    (forked.tasks / "tasks" / "link.py").symlink_to(outside)
    (forked.tasks / "tasks" / "linked").symlink_to(outside.parent)
    (forked.tasks / "tasks" / "inner.py").symlink_to("near.py")
    (forked.tools / "link.py").symlink_to(outside)
    forked.tool("real", "def run(): return 'real'\n")
    (forked.tools / "inner.py").symlink_to("real.py")
    for target in ("tasks.link:run", "tasks.linked.evil:run", "tasks.linked:run", "link"):
        ended = forked.call(target)
        assert ended.result["error_type"] == "ModuleNotAllowedError", target
        assert ended.stdout == b"", target
    assert forked.call("tasks.inner:run").value == "near"
    assert forked.call("inner").value == "real"


@pytest.mark.parametrize("name", ["../x", "a/b", "_x", "__init__", "x.y", "", "ünï", "x\n", "1x", "a b", "x\0"])
def test_tool_names_keep_their_rule(forked, name):
    write(forked.base / "x.py", "print('ran')\ndef run(): return 1\n")
    write(forked.tools / "a" / "b.py", "print('ran')\ndef run(): return 1\n")
    write(forked.tools / "_x.py", "print('ran')\ndef run(): return 1\n")
    ended = forked.call(name)
    assert (ended.result["error_type"], ended.stdout) == ("ModuleNotAllowedError", b"")


def test_what_is_wrong_with_a_tool(forked):
    assert forked.call("absent").result["error"] == "Tool not found: absent"
    assert forked.call("absent").result["error_type"] == "ToolNotFoundError"
    forked.tool("empty", "x = 1\n")
    result = forked.call("empty").result
    assert result["error_type"] == "ToolError"
    assert result["error"] == "Tool empty has no callable function"
    assert "Define `empty` or `run` in" in result["traceback"]
    forked.tool("borrowed", "from os import system as run\n")
    assert forked.call("borrowed").result["error_type"] == "ModuleNotAllowedError"
    forked.tool("tuned", "import os as tuned\ndef run(): return 1\n")
    assert forked.call("tuned").value == 1
    (forked.tools / "folder.py").mkdir()
    assert forked.call("folder").result["error_type"] == "ToolNotFoundError"


def test_errors_inside_a_module_are_the_users(forked):
    forked.task("tasks/broken.py", "import not_there\ndef run(): return 1\n")
    forked.task("tasks/parent/__init__.py", "1 / 0\n")
    forked.task("tasks/parent/child.py", "def run(): return 1\n")
    forked.task("tasks/wrong.py", "def run(:\n")
    forked.task("tasks/uses.py", "from . import wrong\ndef run(): return 1\n")
    forked.tool("needs", "import not_there\ndef run(): return 1\n")
    for target, error_type in [
        ("tasks.broken:run", "ModuleNotFoundError"),
        ("tasks.parent.child:run", "ZeroDivisionError"),
        ("tasks.wrong:run", "SyntaxError"),
        ("tasks.uses:run", "SyntaxError"),
        ("needs", "ModuleNotFoundError"),
    ]:
        result = forked.call(target).result
        assert (result["kind"], result["error_type"]) == ("raised", error_type), target
        assert "importlib" not in result["traceback"]
        assert "executor_shim" not in result["traceback"]
    assert 'uses.py", line 1' in forked.call("tasks.uses:run").result["traceback"]


def test_an_edit_takes_effect_though_size_and_time_are_the_same(runs):
    runs.task("tasks/__init__.py", "")
    runs.tool("tool", "import side\nimport tasks.near\ndef run(): return [1, side.X, tasks.near.X]\n")
    for path in (runs.tools / "tool.py", runs.tools / "side.py", runs.tasks / "tasks" / "near.py"):
        if path.name != "tool.py":
            write(path, "X = 1\n")
        os.utime(path, ns=(10**18, 10**18))
    assert runs.call("tool").value == [1, 1, 1]
    assert not list(runs.base.rglob("*.pyc"))
    plant_stale_bytecode(runs)
    assert runs.call("tool").value == [2, 2, 2]


def plant_stale_bytecode(runs):
    import py_compile

    for path in (runs.tools / "tool.py", runs.tools / "side.py", runs.tasks / "tasks" / "near.py"):
        py_compile.compile(str(path), doraise=True)
        path.write_text(path.read_text().replace("[1,", "[2,").replace("X = 1", "X = 2"))
        os.utime(path, ns=(10**18, 10**18))


def test_no_tool_or_task_shadows_a_library(runs):
    for name in ("json", "random", "string"):
        runs.tool(name, f"import {name} as real\ndef run(): return real.__file__\n")
        runs.task(f"{name}.py", "raise RuntimeError('shadowed')\n")
        value = runs.call(name).value
        assert value.startswith((sys.prefix, sys.base_prefix))
        assert f"/{name}" in value


def test_tools_import_their_neighbours(runs):
    runs.tool("helper", "X = 5\n")
    runs.tool("pkg/__init__", "")
    runs.tool("pkg/inner", "Y = 6\n")
    runs.tool("main_tool", "import helper\nfrom pkg.inner import Y\ndef run(): return [helper.X, Y]\n")
    runs.tool("relative", "from . import helper\nfrom .pkg import inner\ndef run(): return [helper.X, inner.Y]\n")
    assert runs.call("main_tool").value == [5, 6]
    assert runs.call("relative").value == [5, 6]


def test_modules_look_like_imported_ones(runs):
    runs.tool(
        "whole",
        """
        from __future__ import annotations
        import dataclasses, inspect, pickle, typing, sys
        @dataclasses.dataclass
        class Point:
            x: int
            y: typing.ClassVar[int] = 3
        def run():
            copy = pickle.loads(pickle.dumps(Point(4)))
            here = sys.modules[__name__]
            return [copy, inspect.getsource(run).splitlines()[0], __name__, inspect.getfile(here),
                    typing.get_type_hints(Point)['x'].__name__, __spec__.origin, pickle.loads(pickle.dumps(run)) is run]
        """,
    )
    path = str(runs.tools / "whole.py")
    assert runs.call("whole").value == [{"x": 4}, "def run():", "executor_tools.whole", path, "int", path, True]


def test_allowed_names_are_looked_up_in_tasks_path_first(runs, tmp_path):
    elsewhere = tmp_path / "site"
    write(elsewhere / "tasks" / "__init__.py", "raise RuntimeError('the installed one')\n")
    write(elsewhere / "other.py", "X = 'installed'\n")
    write(runs.tasks / "other.py", "X = 'tasks path'\n")
    runs.task("tasks/__init__.py", "")
    runs.task("tasks/a.py", "import other\ndef run(): return other.X\n")
    use_path(runs, elsewhere)
    assert runs.call("tasks.a:run").value == "installed"


def use_path(runs, directory):
    runs.config["sys_path"] = [str(directory), *(p for p in sys.path if p and "python_shim" not in p)]


def test_an_installed_package_of_an_allowed_name_counts(runs, tmp_path):
    site = tmp_path / "site"
    write(site / "vendor" / "__init__.py", "from .jobs import run\n")
    path = write(site / "vendor" / "jobs.py", "def run(): return 1\n")
    write(site / "single.py", "def run(): return 'single'\n")
    write(tmp_path / "outside.py", "def run(): return 1\n")
    (site / "vendor" / "link.py").symlink_to(tmp_path / "outside.py")
    runs.config["allowed"] = ["tasks", "vendor", "single"]
    use_path(runs, site)
    assert runs.call("vendor.jobs:run").value == 1
    assert runs.call("single:run").value == "single"
    assert runs.call("vendor.link:run").result["error_type"] == "ModuleNotAllowedError"
    assert runs.call("vendor.gone:run").result["error_type"] == "ToolNotFoundError"
    assert runs.call("vendor:run").result["error_type"] == "ModuleNotAllowedError"
    os.utime(path, ns=(10**18, 10**18))
    import py_compile

    py_compile.compile(str(path), doraise=True)
    path.write_text("def run(): return 2\n")
    os.utime(path, ns=(10**18, 10**18))
    assert runs.call("vendor.jobs:run").value == 2


PROBE = """
import json, sys
print(json.dumps({"sys_path": [p for p in sys.path if p], "executable": sys.executable, "prefix": sys.prefix,
    "exec_prefix": sys.exec_prefix, "base_prefix": sys.base_prefix, "base_exec_prefix": sys.base_exec_prefix}))
"""


def test_virtual_environments_and_editable_installs_work_as_in_plain_python(runs, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    runs.python = str(tmp_path / "venv" / "bin" / "python")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    write(tmp_path / "source" / "editable.py", "X = 'editable'\n")
    write(tmp_path / "hooked" / "by_code.py", "X = 'by code'\n")
    write(site / "installed.py", "X = 'installed'\n")
    write(site / "a.pth", f"{tmp_path / 'source'}\n")
    write(site / "b.pth", f"import sys; sys.path.append({str(tmp_path / 'hooked')!r})\n")
    said = subprocess.run([runs.python, "-P", "-c", PROBE], capture_output=True, check=True, env=runs.environment)
    runs.config.update(json.loads(said.stdout), run_site=True)
    ended = runs.call_source("""
        import sys, editable, installed, by_code
        def run():
            return [editable.X, installed.X, by_code.X, sys.prefix, sys.executable, sys.prefix != sys.base_prefix]
    """)
    assert ended.value == ["editable", "installed", "by code", str(tmp_path / "venv"), runs.python, True]


def test_a_namespace_package(runs):
    runs.task("tasks/plain/deep.py", "from tasks.plain import other\ndef run(): return other.X\n")
    runs.task("tasks/plain/other.py", "X = 9\n")
    assert runs.call("tasks.plain.deep:run").value == 9
    assert runs.call("tasks.plain:run").result["error_type"] == "ToolNotFoundError"


def test_a_package_with_another_name_under_tasks_path_is_a_root_only_if_allowed(forked):
    forked.task("jobs/__init__.py", "")
    forked.task("jobs/a.py", "def run(): return 1\n")
    assert forked.call("jobs.a:run").result["error_type"] == "ModuleNotAllowedError"
    forked.config["allowed"] = ["tasks", "jobs"]
    assert forked.call("jobs.a:run").value == 1


def test_roots_may_be_links_and_need_not_be_absolute(forked, tmp_path):
    forked.tool("probe", "def run(): return 1\n")
    (tmp_path / "alias").symlink_to(forked.tools)
    forked.config["tools_path"] = str(tmp_path / "alias")
    assert forked.call("probe").value == 1
    forked.config["tools_path"] = os.path.relpath(forked.tools)
    assert forked.call("probe").value == 1


def test_a_module_that_replaces_itself_is_refused(forked):
    forked.task("tasks/sly.py", "import sys, os\nsys.modules[__name__] = os\ndef run(): return 1\n")
    assert forked.call("tasks.sly:system").result["error_type"] == "ModuleNotAllowedError"


def test_links_that_lead_in_circles_hold_nobody_up(forked):
    forked.task("tasks/pkg/main.py", "def run():\n    return 'found'\n")
    forked.task("tasks/pkg/__init__.py", "")
    for name in ("one", "two"):  # each way through them has two more
        (forked.tasks / "tasks" / "pkg" / name).symlink_to(forked.tasks / "tasks")
    assert forked.call("tasks.pkg.main:run").value == "found"


def test_a_function_that_says_it_comes_from_elsewhere_is_refused_however_it_is_called(runs):
    runs.task("tasks/__init__.py", "")
    runs.task("tasks/odd.py", "def run(a, b=1):\n    return a\nrun.__module__ = 'tasks'\n")
    for given in ({"a": 1, "b": 2}, {"a": 1}):
        assert runs.call("tasks.odd:run", given).result["error_type"] == "ModuleNotAllowedError"


def test_what_a_closer_look_takes_is_no_news(forked):
    forked.config["preload"] = {"learn": "stdlib", "names": []}
    forked.task("tasks/plain.py", "def run(a, b=1):\n    return a\n")
    ended = forked.call("tasks.plain:run", {"a": 1})
    assert (ended.value, ended.kinds("imports")) == (1, [])


ASIDE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from executor_shim import armed, sources
real = os.fork
def fork():
    pid = real()
    if pid:
        print(pid, flush=True)
    return pid
armed.fork = fork
armed.read = lambda *_: os.kill(os.getpid(), 9)
armed.arm((sources.Roots(sys.argv[2], "", ("tasks",)),), "executor_tools")
"""


def test_what_compiles_for_a_slot_does_not_outlive_it(forked, tmp_path):
    text = "def f(a, b):\n    return [a + b for _ in range(3)], {'x': a, 'y': b}\n" * 200
    for number in range(10):  # more than a pipe holds
        forked.task(f"tasks/many{number}.py", text)
    command = [sys.executable, "-c", ASIDE, str(SHIM), str(forked.tasks)]
    with (tmp_path / "said").open("w+") as said:
        assert subprocess.run(command, stdout=said, check=False).returncode == -9
        said.seek(0)
        pid = int(said.read())
    deadline = time.monotonic() + 20
    while is_alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            pytest.fail("it waits to be heard")
        time.sleep(0.01)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
