"""Peers under the same conditions: the same Redis, machine, minute and job body. One JSON line.

`peers.py rq|celery JOBS SINGLES`, in an environment where they are installed.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis
from harness import HERE, RECORD, records, redis_server, spread, wait_for

BIN = Path(sys.executable).parent
Enqueue = Callable[[str], object]


def rq(port: int) -> tuple[Enqueue, list[list[str]]]:
    """Two of RQ's default workers: a fork of the worker for each job."""
    sys.path.insert(0, str(HERE))
    from rq import Queue

    from tasks import probe

    queue = Queue("bench", connection=redis.Redis(port=port))
    command = [str(BIN / "rq"), "worker", "-u", f"redis://127.0.0.1:{port}", "--path", str(HERE), "-q", "bench"]
    return (lambda path: queue.enqueue(probe.record, path, time.time())), [command, command]


def celery(port: int) -> tuple[Enqueue, list[list[str]]]:
    """Celery's prefork pool of two."""
    os.environ["BENCH_REDIS"] = f"redis://127.0.0.1:{port}"
    sys.path.insert(0, str(HERE / "peers"))
    import celery_app

    options = ["-c", "2", "-l", "ERROR", "--without-gossip", "--without-mingle"]
    command = [str(BIN / "celery"), "-A", "celery_app", "worker", *options]
    return (lambda path: celery_app.record.delay(path, time.time())), [command]


def measure(system: str, jobs: int, singles: int, directory: Path) -> dict[str, object]:
    """Throughput of a backlog, then the latency of single jobs."""
    with redis_server(directory) as port:
        enqueue, commands = {"rq": rq, "celery": celery}[system](port)
        backlog, single = directory / "backlog", directory / "single"
        for _ in range(jobs):
            enqueue(str(backlog))
        env = dict(os.environ, PYTHONPATH=f"{HERE}:{HERE / 'peers'}")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        workers = [
            subprocess.Popen(command, cwd=HERE / "peers", env=env, start_new_session=True, **quiet)  # type: ignore[call-overload]
            for command in commands
        ]
        try:
            wait_for("the backlog", lambda: has(backlog, jobs), 300)
            begun = sorted(begun for _, begun in records(backlog))
            for number in range(singles):
                enqueue(str(single))
                wait_for("a job", lambda: has(single, number + 1))  # noqa: B023
                time.sleep(0.05)
        finally:
            for worker in workers:
                os.killpg(worker.pid, signal.SIGKILL)  # its own session: itself and its children
                worker.wait()
        waits = [(began - sent) * 1000 for sent, began in records(single)]
        return {"jobs_per_second": (jobs - 1) / (begun[-1] - begun[0]), "first_line_ms": spread(waits)}


def has(path: Path, count: int) -> bool:
    """Whether so many bodies have begun."""
    return path.exists() and path.stat().st_size >= count * RECORD.size


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="executor-bench-") as place:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(place))))
