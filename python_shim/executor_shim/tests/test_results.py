"""What becomes of results, of what is told on the way, and of failures."""

import asyncio
import sys

import pytest

import executor_shim

from .support import SHIM


def test_outside_a_run_nothing_happens():
    executor_shim.emit("x", name="y", value=object())
    executor_shim.progress(1)
    executor_shim.partial(object())
    at = executor_shim.context()
    assert (at.job_id, at.attempt, at.run_id, at.experiment_id) == (None, 1, None, None)
    assert "attempt=1" in repr(at)


def test_what_is_told_arrives_in_order(runs):
    ended = runs.call_source("""
        from executor_shim import emit, progress, partial, context
        def run():
            progress(3, 10)
            emit("emails_sent", count=50, name="x")
            partial({"emails_sent": 50})
            return context().attempt
    """)
    assert ended.frames == [
        {"t": "progress", "done": 3, "total": 10},
        {"t": "emit", "name": "emails_sent", "fields": {"count": 50, "name": "x"}},
        {"t": "partial", "value": {"emails_sent": 50}},
        {"t": "result", "ok": True, "value": 1, "bytes": 1, "truncated": False},
    ]


def test_what_is_told_survives_a_kill(runs):
    ended = runs.call_source("""
        import os
        from executor_shim import partial
        def run():
            partial([1, 2])
            os._exit(7)
    """)
    assert (ended.frames, ended.code) == ([{"t": "partial", "value": [1, 2]}], 7)


def test_async_functions_are_awaited(runs):
    ended = runs.call_source(
        """
        import asyncio
        from executor_shim import emit
        async def run(x):
            await asyncio.sleep(0)
            await asyncio.gather(*(asyncio.to_thread(emit, 'e', n=n) for n in range(3)))
            return x
    """,
        {"x": [1, 2]},
    )
    assert ended.value == [1, 2]
    assert sorted(f["fields"]["n"] for f in ended.kinds("emit")) == [0, 1, 2]
    assert ended.kinds("items")[-1] == {"t": "items", "count": 2}


def test_an_exception_in_async_code_is_raised(runs):
    result = runs.call_source("async def run():\n    raise TimeoutError('slow')\n").result
    assert (result["error_type"], result["transient"]) == ("TimeoutError", True)


GENERATORS = {
    "generator": "def run():\n    yield from 'abc'\n",
    "iterator": "def run():\n    return iter('abc')\n",
    "map": "def run():\n    return map(str.lower, 'ABC')\n",
    "async generator": "async def run():\n    for c in 'abc':\n        yield c\n",
    "async returning a generator": "async def run():\n    return (c for c in 'abc')\n",
    "async returning an async generator": (
        "async def inner():\n    for c in 'abc':\n        yield c\nasync def run():\n    return inner()\n"
    ),
}


@pytest.mark.parametrize("source", GENERATORS.values(), ids=GENERATORS)
def test_what_yields_is_consumed(forked, source):
    ended = forked.call_source(source)
    assert ended.value == ["a", "b", "c"]
    assert ended.kinds("items")[-1] == {"t": "items", "count": 3}


def test_items_rise_live(runs):
    ended = runs.call_source("""
        import time
        def run():
            for n in range(5):
                yield n
                time.sleep(0.01)
    """)
    assert [f["count"] for f in ended.kinds("items")] == [1, 2, 3, 4, 5]


def test_many_items_are_told_ten_at_once_and_the_last(runs):
    ended = runs.call_source("def run():\n    yield from range(10_000)\n")
    counts = [f["count"] for f in ended.kinds("items")]
    assert counts[:10] == list(range(1, 11))
    assert counts[-1] == 10_000
    assert len(counts) < 30


@pytest.mark.parametrize(
    ("result", "count"),
    [
        ("[1, 2, 3]", 3),
        ("(1, 2)", 2),
        ("{1, 2}", 2),
        ("b'xyz'", 3),
        ("[]", 0),
        ("'text'", None),
        ("{}", None),
        ("{'a': 1}", None),
        ("{'count': 7, 'items': [1]}", 7),
        ("{'count': True, 'items': [1]}", 1),
        ("{'count': 'x', 'items': [1, 2]}", 2),
        ("{'count': -1}", None),
        ("{'items': 'text'}", None),
        ("{'items': {'a': 1}}", 1),
        ("{'items': 5}", None),
        ("5", None),
        ("None", None),
    ],
)
def test_items_processed(forked, result, count):
    ended = forked.call_source(f"def run():\n    return {result}\n")
    assert ended.result["ok"]
    assert [f["count"] for f in ended.kinds("items")] == ([] if count is None else [count])


def test_a_large_result_becomes_a_summary(runs):
    ended = runs.call_source("def run():\n    return {'rows': list(range(5000)), 'total': 5000}\n")
    assert ended.result["value"] == {"rows": 5000, "total": 5000}
    assert ended.result["truncated"] is True
    assert ended.result["bytes"] == len(str(list(range(5000))).replace(" ", "")) + len('{"rows":,"total":5000}')


def test_a_result_without_json_form(runs):
    ended = runs.call_source("class Foo: pass\ndef run():\n    return {'a': [0, Foo()]}\n")
    result = ended.result
    assert (result["kind"], result["error_type"]) == ("unfit", "ResultNotSerializableError")
    assert result["error"] == "result['a'][1] is a executor_tools.probe.Foo, which has no JSON form"
    assert ended.code == 0


def test_partial_results_of_an_exception(runs):
    ended = runs.call_source("""
        class Stopped(Exception):
            pass
        def run():
            error = Stopped('half way')
            error.partial_results = {'done': {1, 2}}
            raise error
    """)
    assert ended.result["partial"] == {"done": [1, 2]}
    ended = runs.call_source("""
        def run():
            error = ValueError('half way')
            error.partial_results = object()
            raise error
    """)
    assert (ended.result["partial"], ended.result["error"]) == (None, "half way")
    assert b"partial_results is a object" in ended.stderr


@pytest.mark.parametrize(
    ("raised", "transient"),
    [
        ("raise ConnectionError()", True),
        ("raise ConnectionResetError()", True),
        ("raise TimeoutError()", True),
        ("raise type('TimeoutError', (Exception,), {})()", True),
        ("raise type('ReadTimeout', (type('ConnectionError', (OSError,), {}),), {})()", True),
        ("raise ValueError() from ConnectionRefusedError()", True),
        ("e = ValueError(); e.reason = TimeoutError(); raise e", True),
        ("e = ValueError(); e.reason = 'TimeoutError'; raise e", False),
        ("e = ValueError(); e.__cause__ = KeyError(); e.__cause__.__cause__ = TimeoutError(); raise e", True),
        ("e = KeyError(); e.__cause__ = ValueError(); e.__cause__.reason = ConnectionError(); raise e", True),
        ("e = KeyError(); e.__context__ = ConnectionError(); raise e", False),
        ("e = KeyError(); e.__cause__ = e; raise e", False),
        ("raise ValueError()", False),
        ("raise OSError()", False),
    ],
)
def test_transient(forked, raised, transient):
    result = forked.call_source(f"def run():\n    {raised}\n").result
    assert (result["kind"], result["transient"]) == ("raised", transient)


def test_strange_exceptions(forked):
    for source, error_type, error in [
        ("raise KeyboardInterrupt('k')", "KeyboardInterrupt", "k"),
        ("raise GeneratorExit", "GeneratorExit", "GeneratorExit"),
        ("raise BaseException('b')", "BaseException", "b"),
        ("raise MemoryError", "MemoryError", "MemoryError"),
        ("raise ExceptionGroup('g', [ValueError(1), KeyError(2)])", "ExceptionGroup", "g (2 sub-exceptions)"),
        ("raise KeyError('key')", "KeyError", "'key'"),
        ("raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')", "UnicodeDecodeError", "'utf-8' codec"),
        ("raise ValueError('\\ud800')", "ValueError", "\ufffd"),
        ("raise ValueError('x' * 100_000)", "ValueError", "x" * 1999),
        (
            "class E(Exception):\n        def __str__(self): raise TypeError\n    raise E",
            "E",
            "<its text cannot be had",
        ),
        ("class E(Exception):\n        def __getattr__(self, n): raise E\n    raise E('x')", "E", "x"),
        ("class E(Exception):\n        __module__ = 'other.place'\n    raise E('x')", "E", "x"),
        ("def deep(): deep()\n    deep()", "RecursionError", "maximum recursion"),
    ]:
        ended = forked.call_source(f"def run():\n    {source}\n")
        result = ended.result
        assert (result["kind"], result["error_type"], ended.code) == ("raised", error_type, 0)
        assert result["error"].startswith(error), result["error"]
        assert len(result["error"]) <= 2000
        assert "Traceback (most recent call last)" in result["traceback"]
        assert "in run" in result["traceback"]
        assert "executor_shim" not in result["traceback"]


def test_running_out_of_memory_is_told(runs):
    ended = runs.call_source("""
        import resource
        def run():
            resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
            kept = []
            while True:
                kept.append(bytearray(1 << 20))
    """)
    assert (ended.result["kind"], ended.result["error_type"]) == ("raised", "MemoryError")
    assert ended.code == 0


def test_the_shim_brings_no_modules_along(forked):
    ended = forked.call_source("import sys\ndef run():\n    return sorted(sys.modules)\n")
    heavy = {"json", "re", "socket", "typing", "enum", "asyncio", "inspect", "dataclasses", "datetime", "traceback",
             "threading", "functools", "collections", "signal", "contextlib", "importlib", "types"}  # fmt: skip
    assert not heavy & set(ended.value)


def test_importing_the_module_is_cheap():
    import subprocess

    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(SHIM)!r}); before = set(sys.modules)\n"
         "import executor_shim; print(sorted(set(sys.modules) - before))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "['executor_shim']"


def test_the_loop_of_the_tests_is_untouched():
    async def told():
        executor_shim.progress(1, 2)
        return executor_shim.context().attempt

    assert asyncio.run(told()) == 1


def test_no_frame_of_the_shim_is_shown_but_what_the_user_called(forked):
    for source in ("def run():\n    yield 1\n    1 / 0\n", "async def run():\n    yield 1\n    1 / 0\n"):
        result = forked.call_source(source).result
        assert result["error_type"] == "ZeroDivisionError"
        assert "executor_shim" not in result["traceback"]
        assert "in run\n    1 / 0" in result["traceback"]
    result = forked.call_source("from executor_shim import emit\ndef run():\n    emit('x', y=object())\n").result
    assert result["error"] == "fields['y'] is a object, which has no JSON form"
    assert result["traceback"].count("executor_shim/") == 1


def test_patched_modules_do_not_stop_the_end(runs):
    ended = runs.call_source("""
        import atexit, gc, os, sys, threading
        def broken(*_, **__):
            raise RuntimeError('patched')
        def run():
            os._exit = os.getpid = os.fstat = os.write = gc.get_objects = threading._shutdown = broken
            sys.excepthook = broken
            return 1
    """)
    assert (ended.value, ended.code) == (1, 0)


def test_a_warning_of_the_compiler_is_shown_in_every_run(runs):
    runs.tool("warns", "def run():\n    return 1 is 1\n")
    for _ in range(2):
        assert b"SyntaxWarning" in runs.call("warns").stderr


def test_an_edit_after_the_fork_is_seen(runs):
    runs.tool("probe", "def run(): return 1\n")
    live = runs.start()
    runs.tool("probe", "def run(): return 2\n")
    live.send("probe")
    assert live.wait().value == 2


def test_pools_left_open_are_finished(runs):
    ended = runs.call_source("""
        import concurrent.futures, time
        def slow():
            time.sleep(0.1)
            print('done')
        def run():
            pool = concurrent.futures.ThreadPoolExecutor(2)
            for _ in range(4):
                pool.submit(slow)
            return 'queued'
    """)
    assert (ended.value, ended.stdout) == ("queued", b"done\n" * 4)


def test_a_process_left_running_is_joined(runs):
    ended = runs.call_source("""
        import multiprocessing, time
        def slow():
            time.sleep(0.1)
            print('child done', flush=True)
        def run():
            multiprocessing.get_context('fork').Process(target=slow).start()
            return 1
    """)
    assert (ended.value, ended.stdout) == (1, b"child done\n")


def test_a_faulty_file_beside_does_no_harm(forked):
    forked.tool("bad", "def run(:")
    forked.tool("deep", "x = " + "-" * 20_000 + "1\n")
    (forked.tools / "bytes.py").write_bytes(b"\xff\x00")
    (forked.tools / "gone.py").symlink_to("nowhere")
    forked.tool("fine", "def run(): return 1\n")
    assert forked.call("fine").value == 1
    for name in ("bad", "deep", "bytes"):
        ended = forked.call(name)
        assert (ended.result["kind"], ended.code) == ("raised", 0), name
    assert forked.call("gone").result["error_type"] == "ToolNotFoundError"
