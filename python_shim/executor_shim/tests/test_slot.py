"""The slot itself, without an executor: it must not be there for longer than whoever started it."""

import json
import os
import socket
import subprocess

from .support import SHIM, write


def start_slot(runs, *, names):
    """A slot with its sockets `go` and `ctl`, as the launcher starts it."""
    config = {**runs.config, "environment": runs.environment, "preload": {"learn": "none", "names": names}}
    config["sys_path"] = json.loads(
        subprocess.check_output([runs.python, "-c", "import sys, json; print(json.dumps(sys.path[1:]))"])
    )
    (go, go_theirs), (ctl, ctl_theirs) = (socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in "12")
    command = [runs.python, "-I", "-S", "-u", "-X", "utf8", str(SHIM / "executor_shim/slot.py"), json.dumps(config)]
    slot = subprocess.Popen(command, stdin=go_theirs, stdout=ctl_theirs, env=runs.environment)
    go_theirs.close()
    ctl_theirs.close()
    return slot, go, ctl


def test_one_that_has_not_started_yet_ends_with_its_executor(forked, tmp_path):
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    write(forked.tools / "slow.py", f"open({str(begun)!r}, 'w').close()\nimport time\nwhile True: time.sleep(60)\n")
    slot, go, ctl = start_slot(forked, names=["slow"])
    begun.read_bytes()  # it is in the midst of loading modules ahead
    go.close()
    ctl.close()
    assert slot.wait(2) == 0
