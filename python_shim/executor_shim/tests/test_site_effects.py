"""What `.pth` files leave behind, asked in a real virtual environment."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

HELPER = "import json, tempfile\nCACHE = None\ndef warm():\n    global CACHE\n    CACHE = 1\n"
SCRIPT = Path(__file__).resolve().parents[1] / "site_effects.py"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    packages = next(home.glob("lib/python*/site-packages"))
    return home / "bin" / "python3", packages


def effects(environment, line):
    python, packages = environment
    (packages / "helper.py").write_text(HELPER)
    file = packages / "a.pth"
    file.write_text(line + "\n")
    try:
        show = "import sys, json; print(json.dumps([p for p in sys.path if p]))"
        told = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True).stdout
        command = [python, "-I", "-S", "-X", "utf8", SCRIPT, told.splitlines()[-1]]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(answer.splitlines()[-1])
    finally:
        file.unlink()


@pytest.mark.parametrize(
    "line",
    [
        "import helper",
        "import helper; helper.warm()",
        "import typing, random, logging, datetime, math",
        "import os; exec('try:\\n import missing\\nexcept ImportError:\\n pass')",
    ],
)
def test_what_is_only_imported_is_nothing(environment, line):
    assert effects(environment, line) == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("import sys; sys.meta_path.insert(0, type('Finder', (), {'find_spec': lambda *_: None})())", "finders"),
        ("import os; os.environ['LEFT'] = '1'", "environment"),
        ("import builtins; builtins.left = 1", "builtins.left"),
        ("import os; os.getcwd = lambda: '/'", "os.getcwd"),
        ("import textwrap; textwrap.dedent = lambda text: 'x'", "textwrap"),
        ("import textwrap; textwrap.TextWrapper.wrap = lambda self, text: 'x'", "textwrap"),
        ("import socket; socket.setdefaulttimeout(3)", "timeout of sockets"),
        ("import sys, types; m = sys.modules.setdefault('left', types.ModuleType('left'))", "left"),
        ("import sys; sys.excepthook = print", "hooks"),
        ("import sys; sys.addaudithook(lambda *_: None)", "an audit hook"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "threads"),
        ("import warnings; warnings.simplefilter('ignore')", "warning filters"),
        ("import helper; helper.warm = print", "helper"),
        ("import helper; helper.warm.__code__ = (lambda: None).__code__", "helper"),
    ],
)
def test_what_is_left_is_named(environment, line, names):
    assert any(names in one for one in effects(environment, line))


def test_this_very_interpreter_can_be_asked():
    path = json.dumps([path for path in sys.path if path])
    command = [sys.executable, "-I", "-S", SCRIPT, path]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert isinstance(json.loads(answer.splitlines()[-1]), list)
