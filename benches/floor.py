"""The floor for one isolated run on this machine: what the kernel and CPython alone cost, nothing of ours.

Prints one JSON line. `warm` forks from an idle `-I -S -E` interpreter with json loaded; the child parses a request,
imports a one-line module, calls it, encodes the answer and leaves by os._exit. `cold` starts a new interpreter for
the same. Best of five rounds, one core, so `per_s_2_cores` is the most that two cores could do.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BODY = r"""
import sys, os, time, json, importlib, gc
sys.path.insert(0, sys.argv[1])
gc.collect(); gc.freeze()
def child():
    d = json.loads('{"module": "noop", "params": {"x": 1}}')
    json.dumps({"ok": importlib.import_module(d["module"]).run(**d["params"])})
    os.setsid(); os._exit(0)
best = 9e9
for _ in range(5):
    t = time.perf_counter()
    for _ in range(100):
        p = os.fork()
        if p == 0: child()
        os.waitpid(p, 0)
    best = min(best, (time.perf_counter() - t) / 100 * 1e3)
print(best)
"""


def warm_ms(python: str, directory: str) -> float:
    """A fork of a warm interpreter."""
    command = [python, "-I", "-S", "-E", "-c", BODY, directory]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def cold_ms(python: str, directory: str) -> float:
    """A new interpreter."""
    code = f"import sys, json; sys.path.insert(0, {directory!r}); import noop; json.dumps(noop.run(json.loads('1')))"
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(10):
            pid = os.posix_spawn(python, [python, "-I", "-S", "-E", "-c", code], os.environ)
            os.waitpid(pid, 0)
        best = min(best, (time.perf_counter() - begun) / 10 * 1e3)
    return best


def main() -> None:
    """Both, and what two cores could do of each."""
    python = sys.argv[1] if len(sys.argv) > 1 else getattr(sys, "_base_executable", sys.executable)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "noop.py").write_text("def run(x):\n    return x\n")
        subprocess.run([python, "-c", "import noop"], cwd=directory, check=True)
        warm, cold = warm_ms(python, directory), cold_ms(python, directory)
    figures = {"warm_ms": warm, "cold_ms": cold}
    print(json.dumps({**figures, "warm_per_s_2_cores": 2000 / warm, "cold_per_s_2_cores": 2000 / cold}))


if __name__ == "__main__":
    main()
