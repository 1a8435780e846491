"""Plays the executor: makes the descriptors, sends the request, reads the frames, waits for the exit."""

import array
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

SHIM = Path(__file__).resolve().parents[2]
REPOSITORY = SHIM.parent
STACK_SIGNAL = 50
PATIENCE = 30  # seconds; only a fault makes a test wait that long

# What the keeper does, as far as the runner can tell: an interpreter without `site`, configured, then forked.
KEEPER = """
import os, sys
sys.path.append(sys.argv[2])
from executor_shim import runner, values
config, say = values.decode(sys.argv[1]), int(sys.argv[3])
import _signal
for number in (1, 2, 15):
    _signal.signal(number, _signal.SIG_IGN)
_signal.pthread_sigmask(_signal.SIG_BLOCK, [10])
ctl = os.dup(0)
null = os.open("/dev/null", os.O_RDWR)
os.dup2(null, 0)
os.close(null)
runner.configure(config)
pid = os.fork()
if pid == 0:
    os.close(say)
    os.setsid()
    os._exit(runner.attend(runner.requests(ctl)))
os.close(ctl)
os.write(say, pid.to_bytes(4, "little"))
_, status = os.waitpid(pid, 0)
os.write(say, status.to_bytes(4, "little"))
os._exit(0)
"""


@dataclasses.dataclass
class Ended:
    frames: list
    stdout: bytes
    stderr: bytes
    dump: bytes
    code: int  # negative: the signal

    @property
    def result(self):
        assert self.frames, f"no frames; exit {self.code}; {self.stderr!r}"
        assert self.frames[-1]["t"] == "result", self.frames
        return self.frames[-1]

    @property
    def value(self):
        assert self.result["ok"], self.result.get("traceback")
        return self.result["value"]

    def kinds(self, kind):
        return [frame for frame in self.frames if frame["t"] == kind]


class Runs:
    """A directory of tools and tasks, and a way to run them."""

    def __init__(self, base: Path, method: str):
        self.base = base
        self.method = method
        self.tools = base / "tools"
        self.tasks = base / "root"
        self.tools.mkdir()
        (self.tasks / "tasks").mkdir(parents=True)
        self.config = {
            "tasks_path": str(self.tasks),
            "tools_path": str(self.tools),
            "allowed": ["tasks"],
            "result_max_bytes": 10240,
            "sys_path": None,
            "stack_signal": STACK_SIGNAL,
            "preload": {"learn": "none", "names": []},
            "shim": str(SHIM),
            "start_method": method,
        }
        self.prefix: list[str] = []  # in front of the interpreter
        self.python = sys.executable
        self.environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

    def tool(self, name, source):
        return write(self.tools / f"{name}.py", source)

    def task(self, path, source):
        return write(self.tasks / path, source)

    def call(self, target, parameters=None, **more):
        live = self.start()
        live.send(target, parameters, **more)
        return live.wait()

    def call_source(self, source, parameters=None, **more):
        self.tool("probe", source)
        return self.call("probe", parameters, **more)

    def start(self):
        return Live(self)


class Live:
    """One process that waits for its request, or works on it."""

    def __init__(self, runs: Runs):
        self.runs = runs
        self.ctl, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = dict(runs.config)
        if config["sys_path"] is None:
            config["sys_path"] = [path for path in sys.path if path and "python_shim" not in path]
        self.said = None
        interpreter = [*runs.prefix, runs.python, "-I", "-S", "-X", "utf8"]
        if runs.method == "spawn":
            command = [*interpreter, str(SHIM / "executor_shim" / "spawned.py")]
            self.process = subprocess.Popen(
                [*command, json.dumps(config)], stdin=theirs, env=runs.environment, start_new_session=True
            )
            self.pid = self.process.pid
        else:
            self.said, say = os.pipe()
            command = [*interpreter, "-c", KEEPER, json.dumps(config), str(SHIM), str(say)]
            self.process = subprocess.Popen(command, stdin=theirs, env=runs.environment, pass_fds=(say,))
            os.close(say)
            self.pid = int.from_bytes(os.read(self.said, 4), "little")
        theirs.close()
        self._readers = []
        self._data = {}
        self.dump = None

    def send(self, target, parameters=None, *, action="call", pid=None, memfd=False, **more):
        name, cls, function = (target, None, None) if ":" not in target else callable_target(target)
        known = {"job_id": "job-1", "attempt": 1, "run_id": None, "experiment_id": None, "tmpdir": "/tmp"}
        assert more.keys() <= known.keys()
        start = [pid or self.pid, *{**known, **more}.values()]
        request = json.dumps([*start, action == "check", name, cls, function, parameters or {}]).encode()
        self.send_raw(b"M" if memfd or len(request) > 4096 else b"[", request, pid)

    def send_raw(self, kind, body, pid=None):
        ends = {name: os.pipe() for name in ("frames", "stdout", "stderr")}
        dump = os.memfd_create("dump")
        given = [*(write for _, write in ends.values()), dump]
        message = body if kind == b"[" else kind + (pid or self.pid).to_bytes(4, "little")
        if kind == b"M":
            memory = os.memfd_create("request", os.MFD_ALLOW_SEALING)
            os.write(memory, body)
            given.append(memory)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))
        self.ctl.sendmsg([message], [rights])
        for descriptor in given:
            if descriptor != dump:
                os.close(descriptor)
        if pid not in (None, self.pid):
            os.close(dump)
            for read, _ in ends.values():
                assert os.read(read, 1) == b"", "the message for another is dropped with its descriptors"
                os.close(read)
            return
        self.dump = dump
        for name, (read, _) in ends.items():
            reader = threading.Thread(target=self._read, args=(name, read), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, name, descriptor):
        self._data[name] = bytearray()
        while part := os.read(descriptor, 65536):
            self._data[name] += part
        os.close(descriptor)

    def output(self, name):
        return bytes(self._data.get(name, b""))

    def wait(self):
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
            raise
        if self.said is None:
            code = self.process.returncode
        else:
            code = os.waitstatus_to_exitcode(int.from_bytes(os.read(self.said, 4), "little"))
        self.finish_reading()
        dump = os.pread(self.dump, 1 << 20, 0) if self.dump is not None else b""
        self.close()
        frames = [json.loads(line) for line in self.output("frames").splitlines()]
        return Ended(frames, self.output("stdout"), self.output("stderr"), dump, code)

    def finish_reading(self):
        for reader in self._readers:
            reader.join(PATIENCE)
            assert not reader.is_alive(), "somebody holds a pipe open"

    def close(self):
        self.ctl.close()
        for descriptor in (self.said, self.dump):
            if descriptor is not None:
                os.close(descriptor)


def callable_target(text):
    module, _, rest = text.partition(":")
    cls, _, function = rest.rpartition(".")
    return module, cls or None, function


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path
