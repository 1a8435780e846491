"""Modules loaded ahead: what runs tell of, what is noticed as changed, what is left out and why."""

import json
import os
import subprocess
import sys
import time

import pytest

from .support import SHIM, write


def imports(ended):
    frames = ended.kinds("imports")
    return frames[0] if frames else None


def test_a_run_tells_what_it_loaded_from_the_standard_library_and_nothing_else(forked):
    forked.config["preload"] = {"learn": "stdlib", "names": []}
    write(forked.tasks / "tasks" / "__init__.py", "")
    write(forked.tasks / "tasks" / "helper.py", "import colorsys\n")
    write(forked.tasks / "tasks" / "job.py", "import csv\nfrom tasks import helper\ndef run(): return 1\n")
    told = imports(forked.call("tasks.job:run"))
    assert {"csv", "_csv", "colorsys"} <= set(told["names"])
    assert not [name for name in told["names"] if name.startswith(("tasks", "executor"))]
    assert told["stale"] is False


def test_a_run_that_loads_nothing_tells_nothing(forked):
    forked.config["preload"] = {"learn": "stdlib", "names": ["csv"]}
    assert imports(forked.call_source("import csv\ndef run(): return 1\n")) is None
    assert imports(forked.call_source("def run(): return 1\n")) is None


def test_nothing_is_told_where_nothing_is_learned(forked):
    assert imports(forked.call_source("import csv\ndef run(): return 1\n")) is None


def test_third_party_modules_are_told_of_only_with_auto(forked, tmp_path):
    site = tmp_path / "site-packages"
    write(site / "party.py", "X = 1\n")
    forked.config["sys_path"] = [*(path for path in sys.path if path and "python_shim" not in path), str(site)]
    for learn, expected in (("stdlib", None), ("auto", ["party"])):
        forked.config["preload"] = {"learn": learn, "names": []}
        told = imports(forked.call_source("import party\ndef run(): return party.X\n"))
        assert (told and told["names"]) == expected


def test_a_changed_module_of_the_users_own_is_read_anew_and_told_of(forked):
    write(forked.tasks / "tasks" / "__init__.py", "")
    shared = forked.tasks / "tasks" / "shared.py"
    write(shared, "X = 1\n")
    write(forked.tasks / "tasks" / "job.py", "from tasks import shared\ndef run(): return shared.X\n")
    forked.config["preload"] = {"learn": "stdlib", "names": ["tasks.shared"]}
    live = forked.start()
    live.send("tasks.job:run")
    ended = live.wait()
    assert ended.value == 1
    assert imports(ended) is None
    live = forked.start()
    write(shared, "X = 22\n")
    live.send("tasks.job:run")
    ended = live.wait()
    assert ended.value == 22
    assert imports(ended)["stale"] is True


def test_one_that_fails_in_the_slot_is_left_out_with_a_line(forked):
    forked.config["preload"] = {"learn": "stdlib", "names": ["no_such_module"]}
    assert forked.call_source("def run(): return 1\n").value == 1


def ask(command):
    """The answer of a probe whose stdin stays open, as the executor keeps it."""
    reader, writer = os.pipe()
    try:
        environment = {"PATH": os.environ["PATH"]}
        run = subprocess.run(command, stdin=reader, capture_output=True, check=True, env=environment)
    finally:
        os.close(reader)
        os.close(writer)
    return json.loads(run.stdout)


THREADS = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("X = 1\n", None),
        ("1 / 0\n", "it cannot be imported: ZeroDivisionError: division by zero"),
        ("raise SystemExit\n", "it cannot be imported: SystemExit:"),
        (THREADS, "it starts threads"),
        ("import socket\nS = socket.socket()\n", "it opens sockets"),
        ("F = open('/etc/passwd')\n", "it keeps /etc/passwd open"),
        ("import subprocess\nP = subprocess.Popen(['sleep', '60'])\n", "it starts processes"),
        ("import os\nos._exit(0)\n", "its import ends the process"),
        ("print('loud')\n", None),
    ],
)
def test_each_is_probed_first(forked, tmp_path, source, reason):
    write(tmp_path / "site-packages" / "party.py", source)
    config = dict(forked.config, preload={"learn": "stdlib", "names": []})
    config["sys_path"] = [
        *(path for path in sys.path if path and "python_shim" not in path),
        str(tmp_path / "site-packages"),
    ]
    command = [sys.executable, "-I", "-S", str(SHIM / "executor_shim" / "preload_probe.py"), json.dumps(config)]
    answer = ask([*command, json.dumps([["csv", "party"], ["csv"]])])
    assert answer == {"csv": None, "party": reason}


def test_nothing_is_left_of_a_probe_once_whoever_asked_is_gone(forked, tmp_path):
    noted = tmp_path / "pid"
    source = f"import os, time\nopen({str(noted)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    write(tmp_path / "site-packages" / "party.py", source)
    config = dict(forked.config, preload={"learn": "stdlib", "names": []})
    paths = [path for path in sys.path if path and "python_shim" not in path]
    config["sys_path"] = [*paths, str(tmp_path / "site-packages")]
    command = [sys.executable, "-I", "-S", str(SHIM / "executor_shim" / "preload_probe.py"), json.dumps(config)]
    probe = subprocess.Popen([*command, json.dumps([["party"], []])], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (noted.exists() and noted.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    probe.stdin.close()
    assert probe.wait(timeout=30) == 1
    probe.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text()), 0)


def test_modules_of_tools_and_tasks_are_loaded_ahead_only_if_named(forked):
    write(forked.tasks / "tasks" / "__init__.py", "")
    config = dict(forked.config, preload={"learn": "auto", "names": []})
    config["sys_path"] = [path for path in sys.path if path and "python_shim" not in path]
    command = [sys.executable, "-I", "-S", str(SHIM / "executor_shim" / "preload_probe.py"), json.dumps(config)]
    for learned, reason in ((["tasks"], "it is a module of tools or tasks"), ([], None)):
        assert ask([*command, json.dumps([["tasks"], learned])]) == {"tasks": reason}
