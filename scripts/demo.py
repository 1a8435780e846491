"""Shows the executor at work: `make demo`.

Starts a private Redis and `executor serve` in a temporary directory, pushes jobs that succeed, fail, hang and crash,
shows them live as `executor:job_events` tells of them, then what the ledger has of each, and ends the executor by
SIGTERM. Exit 0 if all went as it should, else 1 with the end of the executor's log. Standard library only.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 50
TERMINAL = ("COMPLETED", "FAILED")
F5 = "tasks.f5portalupdate.main:run"


class SurpriseError(Exception):
    """Something is not as the demo promises."""


class Job(NamedTuple):
    """What is pushed, and how it must end."""

    name: str
    target: str
    parameters: dict[str, Any]
    ends: str  # "COMPLETED", or the error_type of the failure
    attempts: int = 1
    timeout_seconds: int = 20

    def payload(self) -> str:
        """As it is pushed on the queue."""
        return json.dumps(
            {
                "job_id": self.name,
                "task_type": "on_demand",
                "target": self.target,
                "parameters": self.parameters,
                "max_attempts": self.attempts,
                "timeout_seconds": self.timeout_seconds,
            }
        )


JOBS = (
    Job("hangs", "tasks.demo.mishaps:hangs", {}, "ToolTimeoutError", timeout_seconds=3),
    Job("f5-customer-1", F5, {"customer_id": 1}, "COMPLETED"),
    Job("f5-customer-2", F5, {"customer_id": 2}, "COMPLETED"),
    Job("f5-customer-3", F5, {"customer_id": 3}, "COMPLETED"),
    Job("example", "example_tool", {"param1": "demo", "param2": 3}, "COMPLETED"),
    Job("fails-twice", "tasks.demo.mishaps:fails", {"customer_id": 4}, "RuntimeError", attempts=2),
    Job("segfaults", "tasks.demo.mishaps:segfaults", {}, "CrashedError"),
)


class Redis:
    """As much of the Redis protocol as the demo needs."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
        # Unbuffered, so that what `select` says of the socket is all there is.
        self._replies = self._socket.makefile("rb", buffering=0)

    def call(self, *words: str) -> Any:
        """Send a command and return its reply."""
        parts = [word.encode() for word in words]
        message = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(message)
        return self.read()

    def has_reply(self, timeout: float) -> bool:
        """Wait for the next message, at most `timeout` seconds."""
        return bool(select.select([self._socket], [], [], timeout)[0])

    def read(self) -> Any:
        """Return the next reply or message."""
        line = self._replies.readline()
        if not line:
            raise SurpriseError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise SurpriseError(f"Redis says: {rest.decode()}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._bulk(int(rest))
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        return rest.decode()

    def _bulk(self, size: int) -> str:
        content = b""
        while len(content) < size + 2:
            content += self._replies.read(size + 2 - len(content)) or b""
        return content[:-2].decode()


class Board:
    """The live table: updated in place on a terminal, else one line for each change."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._started = time.monotonic()
        self._states = {job.name: "pushed" for job in JOBS}
        self._drawn = False

    def update(self, event: dict[str, Any]) -> None:
        """Show an event of `executor:job_events`."""
        text = f"{event['status']:<9}  attempt {event.get('attempts') or 0}"
        if event.get("error_type"):
            text += f"  {event['error_type']}: {event.get('error')}"
        self._states[event["job_id"]] = text
        if self._in_place:
            self.draw()
        else:
            print(f"{time.monotonic() - self._started:6.2f} s  {event['job_id']:<14} {text}", flush=True)

    def draw(self) -> None:
        """Draw the whole table over the one before."""
        if not self._in_place:
            return
        width = shutil.get_terminal_size().columns - 1
        if self._drawn:
            print(f"\x1b[{len(self._states)}A", end="")
        self._drawn = True
        for name, state in self._states.items():
            print(f"\x1b[2K{f'{name:<14} {state}'[:width]}")
        sys.stdout.flush()


def start_redis(directory: Path, processes: list[subprocess.Popen[bytes]]) -> int:
    """Start a Redis of the demo's own, and return its port once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--save", ""]
    command += ["--appendonly", "yes", "--logfile", "redis.log"]
    processes.append(subprocess.Popen(command, cwd=directory, start_new_session=True))
    deadline = time.monotonic() + 10
    while True:
        try:
            Redis(port).call("PING")
        except (OSError, SurpriseError) as error:
            if time.monotonic() > deadline or processes[-1].poll() is not None:
                raise SurpriseError(f"Redis does not start: {error}") from error
            time.sleep(0.05)
        else:
            return port


def environment(directory: Path, port: int) -> dict[str, str]:
    """The executor's whole environment: settings of the user's own would change what is shown."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    return kept | {
        "REDIS_URL": f"redis://127.0.0.1:{port}",
        "DB_URL": f"sqlite://{directory}/executor.db",
        "EXECUTOR_ID": "demo",
        "CONCURRENCY": "3",
        "HTTP_ADDR": "127.0.0.1:0",
        "LOG_FORMAT": "json",
        "TASKS_PATH": str(ROOT),
        "TOOLS_PATH": str(ROOT / "tools"),
        "PASS_ENV": "F5_*",
        "F5_PORTAL_DB": str(directory / "f5_portal.db"),
    }


def events(subscriber: Redis, deadline: float, serve: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Messages on `executor:job_events`, until the deadline."""
    while time.monotonic() < deadline:
        if subscriber.has_reply(0.2):
            yield json.loads(subscriber.read()[2])
        elif serve.poll() is not None:
            raise SurpriseError(f"the executor left with exit code {serve.returncode}")
    raise SurpriseError(f"not all jobs ended within {DEADLINE_SECONDS} s")


def watch(subscriber: Redis, serve: subprocess.Popen[bytes]) -> None:
    """Show what happens until every job has ended."""
    board = Board()
    board.draw()
    open_jobs = {job.name for job in JOBS}
    for event in events(subscriber, time.monotonic() + DEADLINE_SECONDS, serve):
        board.update(event)
        if event["status"] in TERMINAL:
            open_jobs.discard(event["job_id"])
        if not open_jobs:
            return


def show(executor: Path, name: str, env: dict[str, str], directory: Path) -> dict[str, Any]:
    """The ledger's row of a job."""
    command = [str(executor), "job", "show", name, "--json"]
    shown = subprocess.run(command, env=env, cwd=directory, capture_output=True, text=True, timeout=20, check=False)
    if shown.returncode != 0:
        raise SurpriseError(f"`executor job show {name}` failed: {shown.stderr.strip()}")
    row: dict[str, Any] = json.loads(shown.stdout)
    return row


def seconds_between(start: str | None, end: str | None) -> str:
    """The time between two RFC 3339 times of the ledger."""
    from datetime import datetime

    if start is None or end is None:
        return "-"
    return f"{(datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds():.2f}"


def outcome(row: dict[str, Any]) -> list[str]:
    """A row of the final table."""
    attempts = row["attempts"]
    told = f"{row['error_type']}: {row['error']}" if row["error_type"] else str(row["result"])
    peak = max((attempt["max_rss_bytes"] or 0 for attempt in attempts), default=0)
    last = attempts[-1] if attempts else {}
    return [
        row["id"],
        row["status"],
        str(len(attempts)),
        seconds_between(last.get("started_at"), last.get("finished_at")),
        f"{sum(attempt['cpu_seconds'] or 0 for attempt in attempts):.2f}",
        f"{peak / 2**20:.1f}",
        told if len(told) <= 70 else told[:69] + "…",
    ]


def print_table(rows: list[list[str]]) -> None:
    """Print rows under a heading, in columns."""
    table = [["job", "status", "tries", "last s", "cpu s", "peak MiB", "result or error"], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]))


def check(job: Job, row: dict[str, Any]) -> None:
    """Complain if a job did not end as it should."""
    ended = row["status"] if row["status"] == "COMPLETED" else row["error_type"]
    if ended != job.ends or len(row["attempts"]) != job.attempts:
        raise SurpriseError(f"{job.name} should end as {job.ends} after {job.attempts} attempts: {outcome(row)}")
    if ended != "COMPLETED" and not row["traceback"]:
        raise SurpriseError(f"{job.name} has no traceback")


def demonstrate(executor: Path, directory: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """All of it."""
    port = start_redis(directory, processes)
    env = environment(directory, port)
    subscriber, client = Redis(port), Redis(port)
    subscriber.call("SUBSCRIBE", "executor:job_events")
    with (directory / "executor.log").open("wb") as log:
        serve = subprocess.Popen(
            [str(executor), "serve"],
            env=env,
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    processes.append(serve)
    print(f"executor serve is process {serve.pid}; {len(JOBS)} jobs go on the Redis list executor:jobs\n")
    for job in JOBS:
        client.call("LPUSH", "executor:jobs", job.payload())
    watch(subscriber, serve)

    rows = {job.name: show(executor, job.name, env, directory) for job in JOBS}
    print("\nWhat the ledger has of them (`executor job show ID --json`):\n")
    print_table([outcome(row) for row in rows.values()])
    print("\nWhere the crash was, from the column `traceback` of `segfaults`:\n")
    print("\n".join(f"    {line}" for line in (rows["segfaults"]["traceback"] or "").splitlines()[:12]))
    for job in JOBS:
        check(job, rows[job.name])

    started = time.monotonic()
    serve.send_signal(signal.SIGTERM)
    try:
        code = serve.wait(timeout=15)
    except subprocess.TimeoutExpired:
        raise SurpriseError("the executor did not end within 15 s of SIGTERM") from None
    if code != 0:
        raise SurpriseError(f"the executor left with exit code {code} after SIGTERM")
    print(f"\nSIGTERM: the executor drained and left with exit code 0 after {time.monotonic() - started:.2f} s")


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End what the demo started, the last first."""
    for process in reversed(processes):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def interrupted(_number: int, _frame: object) -> NoReturn:
    """Take SIGTERM as Ctrl-C, so that nothing is left behind."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo and return its exit code."""
    signal.signal(signal.SIGTERM, interrupted)
    profile = "debug" if os.environ.get("DEMO_PROFILE") == "debug" else "release"
    executor = ROOT / "target" / profile / "executor"
    if not executor.exists():
        print(f"there is no target/{profile}/executor: run `make demo`", file=sys.stderr)
        return 1
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="executor-demo-") as name:
        directory = Path(name)
        try:
            demonstrate(executor, directory, processes)
        except (SurpriseError, OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as surprise:
            print(f"\nThe demo went wrong: {type(surprise).__name__}: {surprise}", file=sys.stderr)
            log = directory / "executor.log"
            if log.exists():
                tail = log.read_text(errors="replace").splitlines()[-30:]
                print("\n".join(["The end of the executor's log:", *tail]), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            stop(processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
