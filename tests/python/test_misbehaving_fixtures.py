"""The sins are what they say: a fixture that does nothing would let a test of the isolation pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def commit(root: Path, sin: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    paths = [root / "python_shim", root / "tests" / "fixtures" / "tasks_misbehaving"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", f"from tasks import good, bad\nprint(repr({sin}))"]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, timeout=20, check=False)


@pytest.mark.parametrize(
    ("sin", "code", "out"),
    [
        ("good.add(1)", 0, b"2\n"),
        ("good.Derived().method('!')", 0, b"'instance!'\n"),
        ("bad.raises()", 1, b""),
        ("bad.segfaults()", -11, b""),
        ("bad.aborts()", -6, b""),
        ("bad.kills_itself(15)", -15, b""),
        ("bad.os_exits(3)", 3, b""),
        ("bad.sys_exits(4)", 4, b""),
        ("bad.prints_non_utf8()", 0, b"caf\xe9 \xff\xfe\n\xf0\x9f\x98None\n"),
        ("bad.writes_from_child('x')", 0, b"x\n0\n"),
        ("bad.eats_memory(20)", 0, b"20\n"),
    ],
)
def test_a_sin_ends_as_it_should(root: Path, tmp_path: Path, sin: str, code: int, out: bytes) -> None:
    done = commit(root, sin, tmp_path)
    assert (done.returncode, done.stdout) == (code, out)


def test_fails_until_counts_in_its_file(root: Path, tmp_path: Path) -> None:
    codes = [commit(root, "bad.fails_until('count', 2)", tmp_path).returncode for _ in range(3)]
    assert codes == [1, 1, 0]
