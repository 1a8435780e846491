"""What a run does, through both doors: the forked and the newly executed interpreter."""

import os
import signal


def test_a_tool_is_called_with_its_parameters(runs):
    runs.tool("adder", "def adder(a, b=2):\n    print('adding')\n    return {'sum': a + b}\n")
    ended = runs.call("adder", {"a": 1})
    result = ended.frames[-1]
    assert result == {"t": "result", "ok": True, "value": {"sum": 3}, "bytes": 9, "truncated": False}
    assert (ended.stdout, ended.stderr, ended.code) == (b"adding\n", b"", 0)


def test_run_is_called_where_no_function_bears_the_tools_name(runs):
    assert runs.call_source("def run():\n    return 7\n").value == 7


def test_a_task_is_called(runs):
    runs.task("tasks/pkg/__init__.py", "")
    runs.task("tasks/pkg/main.py", "from . import near\ndef run(x):\n    return near.double(x)\n")
    runs.task("tasks/pkg/near.py", "def double(x):\n    return 2 * x\n")
    assert runs.call("tasks.pkg.main:run", {"x": 4}).value == 8


def test_a_request_in_a_memfd(runs):
    runs.tool("big", "def run(text):\n    return len(text)\n")
    assert runs.call("big", {"text": "x" * 500_000}, memfd=True).value == 500_000


def test_a_run_told_to_rehearse_does_and_nothing_is_left_of_it(forked):
    forked.tool("probe", "import os, sys, executor_shim\ndef run(): return [sorted(os.environ), sorted(sys.modules)]\n")
    plain = forked.call("probe").value
    live = forked.start()
    for other in (live.pid + 1, live.pid, live.pid):  # for another, for itself, once too often
        live.ctl.send(b"R" + other.to_bytes(4, "little"))
    live.send("probe")
    assert live.wait().value == plain


def test_messages_for_other_processes_are_dropped(runs):
    runs.tool("probe", "def run():\n    return 'mine'\n")
    live = runs.start()
    live.send("probe", pid=1)
    live.send("probe")
    assert live.wait().value == "mine"


def test_a_closed_socket_is_a_quiet_end(runs):
    live = runs.start()
    live.ctl.shutdown(2)
    ended = live.wait()
    assert (ended.code, ended.frames) == (0, [])


def test_an_unreadable_request(runs):
    for body in (b"[", b"[]", b"[%d]", b"[%d,\xff]", b"[x"):
        live = runs.start()
        live.send_raw(b"[", body % live.pid if b"%" in body else body)
        assert live.wait().code == 96, body
    for body in (b"{", b"[]", b"{}", b"\xff", b""):
        live = runs.start()
        live.send_raw(b"M", body)
        assert live.wait().code == 96, body
    live = runs.start()
    live.send_raw(b"X", b"")
    assert live.wait().code == 96


def test_the_state_a_run_starts_with(runs):
    ended = runs.call_source("""
        import gc, os, signal, sys
        def run():
            handlers = {}
            for number in signal.valid_signals():
                handler = signal.getsignal(number)
                if handler is not None and handler != signal.SIG_DFL:
                    handlers[int(number)] = getattr(handler, '__name__', str(handler))
            return {
                'gc': gc.isenabled(),
                'mask': [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
                'handlers': handlers,
                'leader': os.getsid(0) == os.getpid(),
                'env': os.environ['EXECUTOR_JOB_ID'],
                'stdin': sys.stdin.read(),
                'argv': sys.argv,
                'exit': callable(exit) and callable(quit),
                'open': sorted(int(n) for n in os.listdir('/proc/self/fd')),
                'inherited': [n for n in (200, 201) if os.get_inheritable(n)],
                'main': sorted(vars(sys.modules['__main__'])),
                'last': sys.path[-2:],
            }
    """)
    value = ended.value
    assert value["gc"] is True
    assert value["mask"] == []
    assert value["handlers"] == {"2": "default_int_handler", "13": "1", "25": "1"}
    assert value["leader"] is True
    assert (value["env"], value["stdin"], value["argv"], value["exit"]) == ("job-1", "", [""], True)
    # One more is open while the directory is listed.
    assert len(value["open"]) == 6
    assert {0, 1, 2, 200, 201} < set(value["open"])
    assert value["inherited"] == []
    assert set(value["main"]) <= {"__name__", "__doc__", "__package__", "__loader__", "__spec__"}
    assert value["last"] == [str(runs.tasks), str(runs.tools)]


def test_an_exception_is_told_with_its_traceback(runs):
    path = runs.tool(
        "failing",
        """
        class Odd(Exception):
            pass
        def inner():
            try:
                {}['key']
            except KeyError as error:
                raise Odd('first line\\nsecond') from error
        def run():
            inner()
        """,
    )
    ended = runs.call("failing")
    result = ended.result
    assert (result["ok"], result["kind"], result["error_type"], result["error"]) == (
        False,
        "raised",
        "Odd",
        "first line second",
    )
    assert result["transient"] is False
    assert result["partial"] is None
    assert ended.code == 0
    trace = result["traceback"]
    assert trace.startswith("Traceback (most recent call last):\n  File ")
    assert "KeyError: 'key'" in trace
    assert "direct cause" in trace
    assert f'File "{path}"' in trace
    assert "raise Odd('first line" in trace
    assert "executor_shim" not in trace


def test_what_sys_exit_means(runs):
    for code in ("", "0", "None"):
        assert runs_exit(runs, code).value is None
    ended = runs_exit(runs, "3")
    assert (ended.result["kind"], ended.result["error_type"]) == ("exited", "CrashedError")
    assert "sys.exit(3)" in ended.result["error"]
    assert "sys.exit(3)" in ended.result["traceback"]
    ended = runs_exit(runs, "'no reason'")
    assert ended.stderr == b"no reason\n"
    assert "no reason" in ended.result["error"]
    assert runs.call_source("def run():\n    exit()\n").value is None


def runs_exit(runs, code):
    return runs.call_source(f"import sys\ndef run():\n    sys.exit({code})\n")


def test_threads_are_joined_and_atexit_functions_run_before_the_frame(runs):
    ended = runs.call_source("""
        import atexit, threading, time
        from executor_shim import emit
        def late():
            time.sleep(0.2)
            print('thread done')
            emit('from_thread')
        def at_end():
            print('at end')
            emit('at_end')
        def bad():
            raise RuntimeError('atexit failed')
        def run():
            atexit.register(at_end)
            atexit.register(bad)
            threading.Thread(target=late).start()
            return 1
    """)
    assert [frame.get("name", frame["t"]) for frame in ended.frames] == ["from_thread", "at_end", "result"]
    assert ended.stdout == b"thread done\nat end\n"
    assert b"atexit failed" in ended.stderr
    assert b"Traceback" in ended.stderr
    assert ended.code == 0


def test_files_left_open_are_flushed(runs):
    path = runs.base / "out.txt"
    assert runs.call_source(f"f = open({str(path)!r}, 'w')\ndef run():\n    f.write('kept')\n").value is None
    assert path.read_text() == "kept"


def test_replaced_and_closed_streams_do_no_harm(runs):
    ended = runs.call_source("""
        import io, os, sys
        def run():
            print('one')
            sys.stdout = io.TextIOWrapper(io.FileIO(os.dup(1), 'w'))
            print('two')
            sys.stderr.close()
            return 1
    """)
    assert ended.value == 1
    assert ended.stdout == b"one\ntwo\n"


def test_a_closed_frames_descriptor_is_noticed(runs):
    ended = runs.call_source("import os\ndef run():\n    os.closerange(3, 1000)\n    return 1\n")
    assert (ended.code, ended.frames) == (97, [])
    path = runs.base / "victim"
    ended = runs.call_source(f"""
        import os
        from executor_shim import emit
        def run():
            os.closerange(3, 1000)
            f = os.open({str(path)!r}, os.O_CREAT | os.O_WRONLY)
            os.dup2(f, 201)
            emit('lost')
            return 1
    """)
    assert (ended.code, ended.frames, path.read_bytes()) == (97, [], b"")


def test_print_is_seen_at_once_and_takes_any_bytes(runs):
    runs.tool(
        "live",
        """
        import os
        def run():
            print('now')
            print(b'\\xff'.decode('utf-8', 'surrogateescape'), 'ü')
            os.kill(os.getpid(), 9)
        """,
    )
    ended = runs.call("live")
    assert ended.stdout == b"now\n\xff \xc3\xbc\n"
    assert (ended.code, ended.frames) == (-signal.SIGKILL, [])


def test_a_crash_leaves_a_dump_of_its_own(runs):
    ended = runs.call_source("""
        import ctypes
        def run():
            ctypes.string_at(0)
    """)
    assert ended.code == -signal.SIGSEGV
    assert b"Segmentation fault" in ended.dump
    assert b"in run" in ended.dump
    assert ended.stderr == b""


def test_the_stack_signal_tells_the_stack(runs):
    runs.tool(
        "busy",
        """
        import os, threading
        def other():
            threading.Event().wait()
        def run():
            threading.Thread(target=other, daemon=True).start()
            os.kill(os.getpid(), 50)
            return 1
        """,
    )
    ended = runs.call("busy")
    assert ended.value == 1
    assert b"in run" in ended.dump
    assert b"in other" in ended.dump


def test_few_open_files_are_enough(runs):
    runs.prefix = ["prlimit", "--nofile=64"]
    live = runs.start()
    runs.tool("probe", "import os\ndef run():\n    os.kill(os.getpid(), 50)\n    return 1\n")
    live.send("probe")
    ended = live.wait()
    assert ended.value == 1
    assert b"in run" in ended.dump


def test_forked_children_never_speak_for_the_run(runs):
    ended = runs.call_source("""
        import os
        from executor_shim import emit, progress, partial
        def run():
            pid = os.fork()
            if pid == 0:
                emit('child'); progress(1, 2); partial({})
                return 'child'
            _, status = os.waitpid(pid, 0)
            return status
    """)
    assert [frame["t"] for frame in ended.frames] == ["result"]
    assert ended.value == 0
    ended = runs.call_source("""
        import os
        def run():
            pid = os.fork()
            if pid == 0:
                raise ValueError('in the child')
            _, status = os.waitpid(pid, 0)
            return os.waitstatus_to_exitcode(status)
    """)
    assert ended.value == 1
    assert b"ValueError: in the child" in ended.stderr


def test_multiprocessing_works_from_a_task(runs):
    runs.task("tasks/__init__.py", "")
    runs.task(
        "tasks/many.py",
        """
        import multiprocessing
        def square(x):
            return x * x
        def run(method):
            with multiprocessing.get_context(method).Pool(2) as pool:
                return pool.map(square, [1, 2, 3])
        """,
    )
    assert runs.call("tasks.many:run", {"method": "fork"}).value == [1, 4, 9]
    assert runs.call("tasks.many:run", {"method": "spawn"}).value == [1, 4, 9]


def test_check_describes_without_calling(runs):
    runs.tool(
        "shown",
        '''
        def run(a: int, b="x"):
            """Does things.

            In detail.
            """
            raise SystemExit(9)
        ''',
    )
    assert runs.call("shown", action="check").value == {
        "callable": "shown.run",
        "kind": "function",
        "signature": "(a: int, b='x')",
        "doc": "Does things.\n\nIn detail.",
    }


def test_check_of_a_faulty_file(runs):
    ended = runs.call_source("def run(:\n", action="check")
    assert (ended.result["kind"], ended.result["error_type"]) == ("raised", "SyntaxError")
    assert "probe.py" in ended.result["traceback"]
    assert "def run(:" in ended.result["traceback"]


def test_random_differs_from_run_to_run(runs):
    source = "import random\ndef run():\n    return random.random()\n"
    assert runs.call_source(source).value != runs.call_source(source).value


def test_the_environment_of_the_tests_is_not_the_runs(runs):
    os.environ["EXECUTOR_TEST_SECRET"] = "x"
    try:
        assert (
            runs.call_source("import os\ndef run():\n    return os.environ.get('EXECUTOR_TEST_SECRET')\n").value is None
        )
    finally:
        del os.environ["EXECUTOR_TEST_SECRET"]


def test_check_of_methods(runs):
    runs.task(
        "tasks/shown.py",
        """
        class C:
            def run(self, a: int): "Runs."
            @staticmethod
            def still(b): ...
            @classmethod
            def made(cls, c=1): ...
        class Needs:
            def __init__(self, x): raise RuntimeError
            def run(self): ...
        """,
    )
    for name, kind, signature in [
        ("run", "method", "(a: int)"),
        ("still", "static method", "(b)"),
        ("made", "class method", "(c=1)"),
    ]:
        value = runs.call(f"tasks.shown:C.{name}", action="check").value
        assert (value["callable"], value["kind"], value["signature"]) == (f"tasks.shown:C.{name}", kind, signature)
    result = runs.call("tasks.shown:Needs.run", action="check").result
    assert (result["kind"], result["error_type"]) == ("unfit", "ToolError")


def test_requests_that_lack_something(forked):
    for body in (
        b'[%d,"j",1,null,null,"/tmp",false,"x",null,null]',
        b'[%d,"j",1,null,null,null,false,"x",null,null,{}]',
        b'[%d,null,1,null,null,"/tmp",false,"x",null,null,{}]',
    ):
        live = forked.start()
        live.send_raw(b"[", body % live.pid)
        ended = live.wait()
        assert (ended.code, ended.frames) == (96, [])
        assert b"executor_shim: UnreadableError" in ended.stderr


def test_a_result_ends_before_its_frame_is_sent(runs):
    ended = runs.call_source("""
        import executor_shim
        class Result(dict):
            def __del__(self):
                executor_shim.emit("result_gone")
                print("gone")
        def run():
            return Result(x=1)
    """)
    assert [frame["t"] for frame in ended.frames] == ["emit", "result"]
    assert (ended.value, ended.stdout) == ({"x": 1}, b"gone\n")


def test_modules_that_a_callable_forbids_do_not_spoil_the_end(runs):
    ended = runs.call_source("""
        import sys
        def run():
            sys.modules["threading"] = sys.modules["atexit"] = None
            return 1
    """)
    assert (ended.value, ended.stderr) == (1, b"")
