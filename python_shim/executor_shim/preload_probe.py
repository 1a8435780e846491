"""May these modules be loaded ahead? Each is imported in a throw-away fork first, and looked at there.

`python3 -I -S …/preload_probe.py CONFIG NAMES_JSON` prints a JSON object: each name, and null or why not. NAMES_JSON is
two lists: all names, and those that were learned. A module that fails, starts threads or processes, or keeps files or
sockets open would be a burden to every fork.
"""

import json
import os
import sys
from time import monotonic, sleep

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from executor_shim import preload, runner

_NOTHING = "-"
_PATIENCE = 20.0  # seconds for one module


def _why_not(name: str, open_before: "set[str]") -> "str | None":
    """In the fork."""
    fault = preload.attempt(name)
    if fault:
        return f"it cannot be imported: {fault}"
    if len(os.listdir("/proc/self/task")) > 1:
        return "it starts threads"
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        if file.read().strip():
            return "it starts processes"
    for target in sorted(_open_files() - open_before):
        if not target.endswith("/dev/urandom"):
            return "it opens sockets" if "socket:" in target else f"it keeps {target.partition(' ')[2]} open"
    return None


def _open_files() -> "set[str]":
    """Each open descriptor with what it is."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:
            continue  # the listing itself
    return found


def _probe(name: str) -> "str | None":
    ours, theirs = os.pipe()
    before = _open_files()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, (_why_not(name, before) or _NOTHING).encode()[:2000])
        finally:
            os._exit(0)
    os.close(theirs)
    deadline = monotonic() + _PATIENCE
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if _is_abandoned():
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os._exit(1)
        if monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(ours)
            return f"its import takes more than {_PATIENCE:g} s"
        sleep(0.001)
    said = os.read(ours, 4096).decode(errors="replace")
    os.close(ours)
    return None if said == _NOTHING else said or "its import ends the process"


def _is_abandoned() -> bool:
    """Whoever asked is gone: the end of our stdin is the end of us, whatever is remembered of us elsewhere."""
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def _answers(names: "list[str]", learned: "set[str]") -> "dict[str, str | None]":
    answers: dict[str, str | None] = {}
    for name in names:
        if name in sys.modules:
            answers[name] = None
            continue
        answers[name] = _probe(name)
        if answers[name] is None:
            answers[name] = preload.attempt(name)  # the next ones build on it
        if answers[name] is None and name in learned and not preload.is_standard(name):
            module = sys.modules.get(name)
            if preload.is_own(getattr(module, "__file__", None)):
                answers[name] = "it is a module of tools or tasks"
    return answers


def main() -> None:
    """Ask, answer on what was stdout; what modules print goes to stderr."""
    os.set_blocking(0, False)
    answer = os.dup(1)
    os.dup2(2, 1)
    config = json.loads(sys.argv[1])
    names, learned = json.loads(sys.argv[2])
    runner.stand_in(config)
    with preload.SingleThreaded(names):
        answers = _answers(names, set(learned))
    os.write(answer, b"\n" + json.dumps(answers).encode() + b"\n")
    os._exit(0)


main()
