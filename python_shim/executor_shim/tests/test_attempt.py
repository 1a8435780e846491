"""What a run does, through both doors: the forked and the newly executed interpreter."""

import os
import signal


def test_a_tool_is_called_with_its_parameters(runs):
    runs.tool("adder", "def adder(a, b=2):\n    print('adding')\n    return {'sum': a + b}\n")
    ended = runs.call("adder", {"a": 1})
    assert ended.frames == [{"t": "result", "ok": True, "value": {"sum": 3}, "bytes": 9, "truncated": False}]
    assert (ended.stdout, ended.stderr, ended.code) == (b"adding\n", b"", 0)


def test_run_is_called_where_no_function_bears_the_tools_name(runs):
    assert runs.call_source("def run():\n    return 7\n").value == 7
