"""Measures the executor beside its peers and the machine's floor: `make bench`.

The release build, a private Redis with AOF, everything durable. Prints a table and writes `benches/results.json`. One
run on one machine: compare ratios within it, not numbers between machines. `bench.py PART…` runs only these parts.
"""

import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime

from harness import EXECUTOR, HERE, ROOT, executor, spread

NOOP = ("tasks.noop:run", {})
RECORD, STANDARD, HEAVY = "tasks.probe:record", "tasks.standard:record", "tasks.heavy:record"
ROUNDS = 5
MILLION = int(os.environ.get("BACKLOG", "1000000"))


def floor() -> dict[str, float]:
    """The kernel and CPython alone: a plain fork, import and call; and a newly executed interpreter."""
    python = getattr(sys, "_base_executable", sys.executable)
    answer = subprocess.run([python, HERE / "floor.py", python], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(answer))


def throughput() -> dict[str, object]:
    """Jobs a second from a backlog in Redis to durable rows, the floor before and after each round, CPU per run."""
    rounds, floors, used = [], [floor()["warm_per_s_2_cores"]], []
    with executor() as serving:
        serving.completed(500, *NOOP)
        for _ in range(ROUNDS):
            before = serving.cpu()
            rounds.append(2000 / serving.completed(2000, *NOOP))
            used.append({part: (now - before[part]) / 2 for part, now in serving.cpu().items()})
            floors.append(floor()["warm_per_s_2_cores"])
    shares = [rate / statistics.mean(floors[at : at + 2]) for at, rate in enumerate(rounds)]
    return {
        "jobs_per_second": statistics.median(rounds),
        "floor_per_second": statistics.median(floors),
        "share_of_floor": statistics.median(shares),
        "cpu_ms_per_run": {part: statistics.median(one[part] for one in used) for part in used[0]},
    }


def latency() -> dict[str, object]:
    """`LPUSH` to the first line of the callable on an idle executor: a bare task, and one with eight imports."""
    with executor() as serving:
        serving.latencies(50, RECORD)
        bare = serving.latencies(300, RECORD)
        cold = serving.latencies(1, STANDARD)
        serving.latencies(50, STANDARD)  # meanwhile they are learned
        return {
            "first_line_ms": spread(bare),
            "eight_imports_first_run_ms": cold[0],
            "eight_imports_ms": spread(serving.latencies(300, STANDARD)),
        }


def spawn() -> dict[str, object]:
    """One slot, a newly executed interpreter for each run, against a bare `python3 -I -S` that does the same."""
    bare = [floor()["cold_ms"]]
    with executor(START_METHOD="spawn", CONCURRENCY="1") as serving:
        serving.completed(20, *NOOP)
        each = []
        for _ in range(3):
            each.append(serving.completed(100, *NOOP) * 10)
            bare.append(floor()["cold_ms"])
        waits = serving.latencies(100, RECORD)
    return {
        "ms_per_run": statistics.median(each),
        "bare_python_ms": statistics.median(bare),
        "ratio": statistics.median(each) / statistics.median(bare),
        "first_line_ms": spread(waits),
    }


def heavy() -> dict[str, object]:
    """`import numpy` in the task: loaded ahead, and with `spawn`."""
    with executor(PYTHON=sys.executable, PRELOAD_MODULES="numpy") as serving:
        serving.latencies(20, HEAVY)
        ahead = serving.latencies(200, HEAVY)
    with executor(PYTHON=sys.executable, START_METHOD="spawn") as serving:
        spawned = serving.latencies(20, HEAVY, pause=0.3)
    return {"loaded_ahead_ms": spread(ahead), "spawn_ms": spread(spawned)}


def peers() -> dict[str, object]:
    """RQ's two forking workers and Celery's two reused processes, the same body; what is not installed is left out."""
    found: dict[str, object] = {}
    for system, jobs in (("rq", 600), ("celery", 3000)):
        command = [sys.executable, HERE / "peers.py", system, str(jobs), "60"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            found[system] = json.loads(answer.stdout)
    with executor() as serving:
        path = str(serving.directory / "record")
        serving.completed(500, RECORD, {"path": path, "sent": 0.0})
        time.sleep(3)  # meanwhile slots with what was learned take their places
        rate = 3000 / serving.completed(3000, RECORD, {"path": path, "sent": 0.0})
    return {"same_body_jobs_per_second": rate, **found}


def backlog() -> dict[str, object]:
    """Throughput with 1 000 and with a million jobs waiting: in Redis, then in the ledger."""
    figures: dict[str, object] = {"waiting": MILLION}
    with executor() as serving:
        serving.completed(500, *NOOP)
        figures["few_per_second"] = statistics.median(1000 / serving.completed(1000, *NOOP) for _ in range(3))
        serving.push(MILLION, *NOOP)
        figures["in_redis"] = under_way(serving)
    with executor(fill=a_million_rows) as serving:
        figures["in_ledger"] = under_way(serving)
    return figures


def under_way(serving) -> dict[str, float]:
    """Throughput of ten seconds while so many wait, memory, and how long `job list` takes."""
    begun, done = time.perf_counter(), finished(serving)
    time.sleep(10)
    rate = (finished(serving) - done) / (time.perf_counter() - begun)
    listed = []
    for _ in range(10):
        begun = time.perf_counter()
        subprocess.run(
            [EXECUTOR, "job", "list", "--json"], env=serving.env, cwd=serving.directory, stdout=-3, check=True
        )
        listed.append((time.perf_counter() - begun) * 1000)
    memory = serving.status()["memory_mb"]
    return {"per_second": rate, "memory_mb": memory, "job_list_ms": statistics.median(listed)}


def finished(serving) -> int:
    """Rows of jobs that ended."""
    with sqlite3.connect(f"file:{serving.directory}/ledger.db?mode=ro", uri=True) as ledger:
        return int(ledger.execute("SELECT count(*) FROM attempts WHERE outcome = 'succeeded'").fetchone()[0])


def a_million_rows(path) -> None:
    """So many copies of the one job that ran, waiting."""
    with sqlite3.connect(path) as ledger:
        columns = [row[1] for row in ledger.execute("PRAGMA table_info(jobs)")]
        changed = {
            "seq": "job.seq + n",
            "id": "job.id || '-' || n",
            "receipt": "job.receipt || '-' || n",
            "status": "'QUEUED'",
            "attempts": "0",
            "ready": "1",
        }
        empty = {"started_at", "finished_at", "result", "result_bytes", "executor_id", "run_started_at"}
        values = ", ".join(changed.get(name, "NULL" if name in empty else f"job.{name}") for name in columns)
        ledger.execute(
            "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < ?)"
            f" INSERT INTO jobs ({', '.join(columns)}) SELECT {values} FROM counted, jobs AS job WHERE job.seq = 1",
            (MILLION,),
        )


def growth() -> dict[str, object]:
    """What 10 000 runs leave behind in the executor, once as many before them have filled its caches."""
    with executor() as serving:
        serving.completed(10_000, *NOOP)
        before = serving.status()
        serving.completed(10_000, *NOOP)
        time.sleep(2)
        return {"before": before, "after": serving.status()}


PARTS = {
    "throughput": throughput,
    "latency": latency,
    "spawn": spawn,
    "heavy": heavy,
    "peers": peers,
    "backlog": backlog,
    "growth": growth,
}


def lines(figures: dict[str, object], prefix: str = "") -> list[str]:
    """The table: one figure a line."""
    found = []
    for name, value in figures.items():
        label = f"{prefix}{name}"
        if isinstance(value, dict):
            found += lines(value, f"{label}.")
        else:
            found.append(f"{label:52}{value:12.2f}" if isinstance(value, float) else f"{label:52}{value:>12}")
    return found


def ratios(results: dict[str, dict]) -> dict[str, float]:
    """What may be compared between machines."""
    found = {}
    for system in ("rq", "celery"):
        peer = results.get("peers", {}).get(system)
        if peer:
            found[f"throughput_to_{system}"] = results["peers"]["same_body_jobs_per_second"] / peer["jobs_per_second"]
        if peer and "latency" in results:
            found[f"{system}_first_line_to_ours"] = (
                peer["first_line_ms"]["p50"] / results["latency"]["first_line_ms"]["p50"]
            )
    return found


def main() -> int:
    """All parts, or those named."""
    results: dict[str, dict] = {
        "machine": {
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        }
    }
    for name in sys.argv[1:] or PARTS:
        results[name] = PARTS[name]()
        print("\n".join(lines({name: results[name]})), flush=True)
    results["ratios"] = ratios(results)
    print("\n".join(lines({"ratios": results["ratios"]})))
    (ROOT / "benches" / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
