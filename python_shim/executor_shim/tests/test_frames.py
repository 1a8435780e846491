"""The frames, byte by byte, against the golden files that the Rust tests read too."""

import json
import os
import threading

import pytest

from executor_shim import frames, values

from .support import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "fixtures" / "frames"


def rebuilt(name, one):
    kind = one["t"]
    if kind == "progress":
        return frames.progress(one["done"], one["total"])
    if kind == "items":
        return frames.items(one["count"])
    if kind == "emit":
        return frames.emit(one["name"], values.text_of(one["fields"], "fields"))
    if kind == "partial":
        return frames.partial(values.text_of(one["value"], "value"))
    if kind == "imports":
        return frames.imported(one["names"], stale=one["stale"])
    if one["ok"]:
        return frames.succeeded(values.text_of(one["value"], "value"), one["bytes"], one["truncated"])
    return frames.failed(
        one["kind"],
        one["error_type"],
        one["error"],
        one["traceback"],
        partial=values.text_of(one["partial"], "partial"),
        transient=one["transient"],
    )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("frame-*.json")), ids=lambda path: path.stem)
def test_golden_frames(path):
    line = path.read_text(encoding="utf-8")
    assert rebuilt(path.stem, json.loads(line)) == line


def test_every_kind_has_a_golden_file():
    kinds = {json.loads(path.read_text(encoding="utf-8"))["t"] for path in GOLDEN.glob("frame-*.json")}
    assert kinds == {"progress", "items", "emit", "partial", "imports", "result"}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("request-*.json")), ids=lambda path: path.stem)
def test_golden_requests_are_understood(path, forked):
    forked.task("tasks/__init__.py", "")
    forked.task("tasks/f5portalupdate/main.py", SOURCE)
    forked.task("tasks/reports/daily.py", "class Report:\n    def build(self, **given): return given\n")
    forked.tool("example_tool", SOURCE)
    request = json.loads(path.read_text(encoding="utf-8"))
    _, job_id, attempt, run_id, experiment_id, tmpdir, check, _, cls, _, given = request
    live = forked.start()
    live.send_raw(b"[", json.dumps([live.pid, *request[1:]]).encode())
    value = live.wait().value
    if check:
        assert value["callable"] == "example_tool.run"
    elif cls:
        assert value == given
    else:
        of_experiment = {"EXECUTOR_RUN_ID": run_id, "EXECUTOR_EXPERIMENT_ID": experiment_id} if run_id else {}
        assert value == {
            "given": given,
            "context": [job_id, attempt, run_id, experiment_id],
            "env": {
                "EXECUTOR_JOB_ID": job_id,
                "EXECUTOR_ATTEMPT": str(attempt),
                "TMPDIR": tmpdir,
                **of_experiment,
            },
        }


SOURCE = """
import os
from executor_shim import context
def run(**given):
    at = context()
    return {"given": given, "context": [at.job_id, at.attempt, at.run_id, at.experiment_id],
            "env": {k: v for k, v in os.environ.items() if k.startswith("EXECUTOR_") or k == "TMPDIR"}}
"""


def read_all(descriptor):
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts)


@pytest.fixture
def channel():
    read, write = os.pipe()
    received = []
    reader = threading.Thread(target=lambda: received.append(read_all(read)))
    reader.start()

    def ended():
        os.close(write)
        reader.join(30)
        return [json.loads(line) for line in received[0].splitlines()]

    one = frames.Channel()
    one.open(write, os.getpid())
    one.ended = ended  # type: ignore[attr-defined]
    yield one
    if reader.is_alive():
        ended()


def test_progress_is_throttled_and_the_last_one_sent(channel):
    for n in range(1000):
        channel.progress(n, 999)
    assert channel.end(frames.succeeded("null", 4, False))
    got = channel.ended()
    assert got[0] == {"t": "progress", "done": 0, "total": 999}
    assert got[-2] == {"t": "progress", "done": 999, "total": 999}
    assert got[-1]["t"] == "result"
    assert len(got) < 100


def test_items_are_throttled_and_the_last_one_sent(channel):
    for n in range(1000):
        channel.items(n)
    channel.end(frames.succeeded("null", 4, False))
    got = channel.ended()
    assert got[-2] == {"t": "items", "count": 999}
    assert len(got) < 100


def test_emits_are_never_dropped_nor_torn_between_threads(channel):
    long = "y" * 20_000

    def work(thread):
        for n in range(200):
            channel.emit("event", {"thread": thread, "n": n, "text": long if n % 20 == 0 else ""})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    channel.end(frames.succeeded("null", 4, False))
    got = channel.ended()
    assert len(got) == 8 * 200 + 1
    for thread in range(8):
        assert [f["fields"]["n"] for f in got[:-1] if f["fields"]["thread"] == thread] == list(range(200))


def test_nothing_follows_the_result(channel):
    channel.end(frames.succeeded("null", 4, False))
    channel.emit("late", {})
    channel.progress(1, 1)
    assert [frame["t"] for frame in channel.ended()] == ["result"]


def test_long_frames_are_shortened(channel):
    channel.emit("n" * 5000, {"text": "\x00" * 3_000_000, "rows": [1] * 2_000_000})
    channel.partial({"rows": [1] * 1_000_000})
    channel.end(frames.failed("raised", "E" * 5000, "x\n" * 5000, "\x01" * 500_000, partial='"' + "p" * 500_000 + '"'))
    got = channel.ended()
    assert got[0]["fields"]["rows"] == 2_000_000
    assert got[1]["value"] == {"rows": 1_000_000}
    assert len(got[2]["error"]) == 2000
    assert len(got[2]["traceback"].encode()) <= 64 * 1024
    assert "left out" in got[2]["traceback"]
    for frame in got:
        assert len(json.dumps(frame)) <= 1024 * 1024


def test_what_cannot_be_told_is_refused_by_name(channel):
    with pytest.raises(TypeError, match=r"fields\['x'\]\[1\] is a object"):
        channel.emit("e", {"x": [1, object()]})
    with pytest.raises(TypeError, match="value is a object"):
        channel.partial(object())
    with pytest.raises(TypeError, match="done must be a number, not str"):
        channel.progress("x", None)
    with pytest.raises(TypeError, match="name must be a string"):
        channel.emit(3, {})
    channel.progress(float("nan"), None)
    channel.progress(0.5, float("inf"))
    channel.end(frames.succeeded("null", 4, False))
    assert channel.ended()[:-1] == [{"t": "progress", "done": 0.5, "total": None}]


def test_a_signal_handler_may_emit(runs):
    ended = runs.call_source("""
        import signal
        from executor_shim import emit
        count = 0
        def handler(*_):
            global count
            count += 1
            emit('tick', text='t' * 5000)
        def run():
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            for n in range(2000):
                emit('work', text='w' * 5000)
            signal.setitimer(signal.ITIMER_REAL, 0)
            return count
    """)
    assert len([f for f in ended.kinds("emit") if f["name"] == "work"]) == 2000
    assert len([f for f in ended.kinds("emit") if f["name"] == "tick"]) == ended.value > 0
