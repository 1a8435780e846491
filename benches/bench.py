"""Measures the executor: `make bench`.

A private Redis with AOF, the release build, no-op jobs. Prints a table and writes `benches/results.json`. One run on
one machine: compare ratios within it, not numbers between machines.
"""

import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import redis

ROOT = Path(__file__).resolve().parents[1]
EXECUTOR = ROOT / "target" / "release" / "executor"
TICKS = os.sysconf("SC_CLK_TCK")
NOOP = "tasks.noop:run"


def free_port():
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(command, **options):
    """A process that is ended by its pid."""
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=30)


def wait_for(what, look, seconds=30.0):
    """Looks until there is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.002)
    raise TimeoutError(what)


@contextmanager
def redis_server(directory):
    """A Redis that logs its writes, and a client of it."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--dir", str(directory), "--appendonly", "yes", "--save", ""]
    with process(command, stdout=subprocess.DEVNULL):
        client = redis.Redis(port=port)

        def answers():
            try:
                return client.ping()
            except redis.ConnectionError:
                return False

        wait_for("redis", answers)
        yield client, port


@contextmanager
def executor(directory, port, start_method, concurrency):
    """A serving executor with a no-op task."""
    tasks = directory / "root" / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    (tasks / "__init__.py").touch()
    (tasks / "noop.py").write_text("def run():\n    return None\n")
    env = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": f"redis://127.0.0.1:{port}",
        "DB_URL": f"sqlite:{directory}/ledger-{start_method}.db",
        "HTTP_ADDR": "none",
        "TASKS_PATH": str(directory / "root"),
        "START_METHOD": start_method,
        "CONCURRENCY": str(concurrency),
        "LOG_LEVEL": "warn",
        "EXECUTOR_ID": f"bench-{start_method}",
    }
    with (
        (directory / "log").open("wb") as log,
        process([EXECUTOR, "serve"], env=env, cwd=directory, stdout=log) as child,
    ):
        client = redis.Redis(port=port)
        wait_for("the heartbeat", lambda: client.exists(f"executor:heartbeat:bench-{start_method}"))
        time.sleep(1)
        yield child


def cpu_seconds(pid):
    """User and system time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid):
    """Resident memory of one process, without what it shares with its file."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1024


def latencies(client, count):
    """LPUSH to the RUNNING and to the COMPLETED message, one job at a time, in milliseconds."""
    events = client.pubsub(ignore_subscribe_messages=True)
    events.subscribe("executor:job_events")
    events.get_message(timeout=1)
    running, completed = [], []
    for number in range(count):
        body = json.dumps({"job_id": f"l{time.monotonic_ns()}", "task_type": "event", "target": NOOP})
        begun = time.perf_counter()
        client.lpush("executor:jobs", body)
        while True:
            message = events.get_message(timeout=10)
            if message is None:
                raise TimeoutError(f"job {number}")
            status = json.loads(message["data"])["status"]
            taken = (time.perf_counter() - begun) * 1000
            if status == "RUNNING":
                running.append(taken)
            if status in ("COMPLETED", "FAILED"):
                completed.append(taken)
                break
        time.sleep(0.02)
    events.close()
    return running, completed


def drained(client, count):
    """Seconds until `count` jobs pushed at once have all completed."""
    events = client.pubsub(ignore_subscribe_messages=True)
    events.subscribe("executor:job_events")
    events.get_message(timeout=1)
    pipeline = client.pipeline()
    for number in range(count):
        body = json.dumps({"job_id": f"t{time.monotonic_ns()}-{number}", "task_type": "event", "target": NOOP})
        pipeline.lpush("executor:jobs", body)
    begun = time.perf_counter()
    pipeline.execute()
    left = count
    while left:
        message = events.get_message(timeout=30)
        if message is None:
            raise TimeoutError(f"{left} jobs left")
        left -= json.loads(message["data"])["status"] == "COMPLETED"
    events.close()
    return time.perf_counter() - begun


def steady(client, pid, rate, seconds):
    """The executor's own share of a core while so many jobs a second come in."""
    before = cpu_seconds(pid)
    begun = time.monotonic()
    for number in range(rate * seconds):
        body = json.dumps({"job_id": f"s{time.monotonic_ns()}", "task_type": "event", "target": NOOP})
        client.lpush("executor:jobs", body)
        time.sleep(max(0.0, begun + (number + 1) / rate - time.monotonic()))
    return (cpu_seconds(pid) - before) / (time.monotonic() - begun)


def percentile(values, share):
    """The value that so many are below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(start_method, concurrency, directory):
    """All figures of one start method."""
    with (
        redis_server(directory) as (client, port),
        executor(directory, port, start_method, concurrency) as child,
    ):
        idle_cpu = cpu_seconds(child.pid)
        time.sleep(10)
        idle_cpu = (cpu_seconds(child.pid) - idle_cpu) / 10
        idle_memory = memory_mb(child.pid)
        latencies(client, 20)
        running, completed = latencies(client, 300)
        count = 3000 if start_method == "forkserver" else 300
        seconds = drained(client, count)
        share = steady(client, child.pid, 50, 15)
        figures = {
            "idle_memory_mb": idle_memory,
            "idle_cpu_percent": idle_cpu * 100,
            "running_mean_ms": statistics.mean(running),
            "running_p99_ms": percentile(running, 0.99),
            "completed_p50_ms": percentile(completed, 0.5),
            "completed_p99_ms": percentile(completed, 0.99),
            "jobs_per_second": count / seconds,
            "cpu_percent_at_50_jobs_per_second": share * 100,
            "memory_after_mb": memory_mb(child.pid),
        }
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=20)
        return figures


def main():
    """Both start methods."""
    concurrency = int(os.environ.get("CONCURRENCY", "4"))
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "concurrency": concurrency,
    }
    for start_method in ("forkserver", "spawn"):
        with tempfile.TemporaryDirectory(prefix="executor-bench-") as directory:
            results[start_method] = measure(start_method, concurrency, Path(directory))
    print(f"{results['machine']}; CONCURRENCY={concurrency}; {results['date']}")
    print(f"{'':36}{'forkserver':>12}{'spawn':>12}")
    for name in results["forkserver"]:
        print(f"{name:36}{results['forkserver'][name]:12.2f}{results['spawn'][name]:12.2f}")
    (ROOT / "benches" / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
