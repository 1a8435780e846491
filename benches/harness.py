"""What all benches share: a private Redis with AOF, a serving executor, its clock of CPU time.

Every process started here is ended by its own pid.
"""

import json
import os
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
EXECUTOR = ROOT / "target" / "release" / "executor"
QUEUE = "executor:jobs"
RECORD = struct.Struct("<dd")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended by its pid."""
    child = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(what, look, seconds: float = 60.0):
    """Looks until there is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.002)
    raise TimeoutError(what)


@contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """A Redis that logs its writes."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--dir", str(directory), "--appendonly", "yes", "--save", ""]
    with process(command, stdout=subprocess.DEVNULL):
        client = redis.Redis(port=port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_for("redis", answers)
        yield port


class Serving:
    """An executor at work, and how to give it jobs."""

    def __init__(self, directory: Path, port: int, child: subprocess.Popen[bytes], env: dict[str, str]) -> None:
        self.directory = directory
        self.port = port
        self.client = redis.Redis(port=port)
        self.child = child
        self.env = env
        self._number = 0

    def payload(self, target: str, parameters: dict[str, object]) -> str:
        """A job of its own id."""
        self._number += 1
        job = {"job_id": f"b{os.getpid()}-{self._number}", "task_type": "event", "target": target}
        return json.dumps({**job, "parameters": parameters})

    def push(self, count: int, target: str, parameters: dict[str, object]) -> None:
        """So many jobs at once."""
        left = count
        while left:
            batch = min(left, 5000)
            self.client.lpush(QUEUE, *(self.payload(target, parameters) for _ in range(batch)))
            left -= batch

    def completed(self, count: int, target: str, parameters: dict[str, object]) -> float:
        """Seconds until `count` jobs pushed at once have all completed, as told on the channel of events.

        Who measures works on the same cores: jobs are written before, and events are counted, not read.
        """
        payloads = [self.payload(target, parameters) for _ in range(count)]
        with socket.create_connection(("127.0.0.1", self.port)) as events:
            events.sendall(b"SUBSCRIBE executor:job_events\r\n")
            events.recv(4096)
            begun = time.perf_counter()
            self.client.lpush(QUEUE, *payloads)
            self.follow(events, count)
            return time.perf_counter() - begun

    @staticmethod
    def follow(events: socket.socket, count: int) -> None:
        """Counts events until so many jobs have completed."""
        events.settimeout(60)
        end = b""
        while count > 0:
            more = events.recv(1 << 20)
            if not more:
                raise EOFError(f"Redis is gone; {count} jobs left")
            said = end + more
            if b'"FAILED"' in said:
                raise RuntimeError(said.decode(errors="replace"))
            count -= said.count(b'"COMPLETED"')
            end = said[-10:]  # a word may be cut in two, but none of eleven bytes is counted again
            time.sleep(0.005)

    def latencies(self, count: int, target: str, pause: float = 0.02) -> list[float]:
        """Milliseconds from `LPUSH` to the first line of the callable, one job at a time."""
        path = self.directory / f"latency-{time.monotonic_ns()}"
        for number in range(count):
            self.client.lpush(QUEUE, self.payload(target, {"path": str(path), "sent": time.time()}))
            wait_for("a record", lambda: path.exists() and path.stat().st_size >= (number + 1) * RECORD.size)  # noqa: B023
            time.sleep(pause)
        return [(begun - sent) * 1000 for sent, begun in records(path)]

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far: of the executor, of its slots, and of the runs they have reaped."""
        pid = self.child.pid
        tasks = os.listdir(f"/proc/{pid}/task")
        children = [c for t in tasks for c in Path(f"/proc/{pid}/task/{t}/children").read_text().split()]
        runs = 0.0
        for child in children:
            fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
            runs += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
        return {"executor": on_cpu(pid), "slots": sum(map(on_cpu, children)), "runs": runs}

    def status(self) -> dict[str, float]:
        """What should not grow: memory in MB, descriptors, threads, zombies."""
        pid = self.child.pid
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        states = subprocess.run(["ps", "-e", "-o", "stat="], capture_output=True, text=True, check=True).stdout
        return {
            "memory_mb": int(status["VmRSS"].split()[0]) / 1024,
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(status["Threads"]),
            "zombies": sum(state.startswith("Z") for state in states.split()),
        }


def on_cpu(pid: int | str) -> float:
    """Seconds on a core, of all threads."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    except OSError:
        return 0.0
    return total / 1e9


def records(path: Path) -> list[tuple[float, float]]:
    """What `probe.record` wrote: when each job was sent, and when its body began."""
    data = path.read_bytes() if path.exists() else b""
    return [RECORD.unpack_from(data, at) for at in range(0, len(data) - RECORD.size + 1, RECORD.size)]


@contextmanager
def executor(fill: Callable[[Path], None] | None = None, **settings: str) -> Iterator[Serving]:
    """A serving executor with its own Redis, the tasks of `benches/tasks`, and these settings.

    `fill` is given the ledger between a first start, which makes it, and the one that is measured.
    """
    with tempfile.TemporaryDirectory(prefix="executor-bench-") as name:
        directory = Path(name)
        with redis_server(directory) as port:
            env = {
                "PATH": os.environ["PATH"],
                "REDIS_URL": f"redis://127.0.0.1:{port}",
                "DB_URL": f"sqlite:{directory}/ledger.db",
                "HTTP_ADDR": "none",
                "TASKS_PATH": str(HERE),
                "CONCURRENCY": os.environ.get("CONCURRENCY", "8"),
                "LOG_LEVEL": "warn",
                "EXECUTOR_ID": "bench",
                **settings,
            }
            if fill is not None:
                with serving_in(directory, port, env) as serving:
                    serving.completed(1, "tasks.noop:run", {})
                fill(directory / "ledger.db")
            with serving_in(directory, port, env) as serving:
                yield serving


@contextmanager
def serving_in(directory: Path, port: int, env: dict[str, str]) -> Iterator[Serving]:
    """One life of an executor."""
    with (
        (directory / "log").open("ab") as log,
        process([str(EXECUTOR), "serve"], env=env, cwd=directory, stdout=log) as child,
    ):
        serving = Serving(directory, port, child, env)
        wait_for("the heartbeat", lambda: serving.client.exists("executor:heartbeat:bench"))
        time.sleep(1)
        yield serving


def percentile(values: list[float], share: float) -> float:
    """The value that so many are below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def spread(values: list[float]) -> dict[str, float]:
    """Mean, median and the hundredth from the top."""
    return {"mean": statistics.mean(values), "p50": percentile(values, 0.5), "p99": percentile(values, 0.99)}
