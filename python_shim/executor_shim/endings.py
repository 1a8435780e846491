"""What happens between the callable's return and the result frame, and how a process leaves like plain Python.

Must not write frames but those that count items.
"""

import io
import sys
from gc import get_objects
from posix import _exit  # users may patch `os`

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import ModuleType
    from typing import Any, NoReturn

    from .frames import Channel


_WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


# --- the result ------------------------------------------------------------------------------------------------


def settled(result: "Any", channel: "Channel") -> "Any":
    """The result itself: awaited, or consumed if it is a generator or an iterator. Tells how many items it has."""
    kind = type(result)
    if hasattr(kind, "__await__") or _is_async_iterator(kind):
        import asyncio

        result = asyncio.run(_settled_async(result, channel))
        kind = type(result)
    if hasattr(kind, "__next__") and hasattr(kind, "__iter__"):
        return _consumed(result, channel)
    count = _item_count(result)
    if count is not None:
        channel.items(count)
    return result


def _is_async_iterator(kind: type) -> bool:
    return hasattr(kind, "__anext__") and hasattr(kind, "__aiter__")


async def _settled_async(result: "Any", channel: "Channel") -> "Any":
    while hasattr(type(result), "__await__"):
        result = await result
    if _is_async_iterator(type(result)):
        return await _consumed_async(result, channel)
    return result


async def _consumed_async(iterator: "AsyncIterator[Any]", channel: "Channel") -> "list[Any]":
    found: list[Any] = []
    async for item in iterator:
        found.append(item)
        channel.items(len(found))
    channel.items(len(found))
    return found


def _consumed(iterator: "Iterator[Any]", channel: "Channel") -> "list[Any]":
    found: list[Any] = []
    for item in iterator:
        found.append(item)
        channel.items(len(found))
    channel.items(len(found))
    return found


def _item_count(result: "Any") -> int | None:
    """Length of any iterable that is not str or dict; of a dict its `count`, else the length of its `items`."""
    if isinstance(result, dict):
        count = result.get("count")
        if isinstance(count, int) and not isinstance(count, bool):
            return count if 0 <= count < 1 << 64 else None
        result = result.get("items")
        if isinstance(result, dict):
            return len(result)
    kind = type(result)
    if isinstance(result, str) or not (hasattr(kind, "__len__") and hasattr(kind, "__iter__")):
        return None
    try:
        return len(result)
    except Exception:
        return None


# --- the end of the process ------------------------------------------------------------------------------------


def finish(modules: "dict[str, ModuleType]") -> None:
    """Join threads, run `atexit` functions, flush: what plain Python does at its end. Never raises."""
    if "threading" in modules and modules["threading"] is not None:  # forbidden, it is `None`
        _tolerantly(modules["threading"]._shutdown)
    if "atexit" in modules and modules["atexit"] is not None:
        _tolerantly(modules["atexit"]._run_exitfuncs)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        for kind in set(map(type, get_objects())):
            if issubclass(kind, _WRITERS):
                _flush_files()
                break
    except BaseException:  # replaced or closed: now what can be done for each
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None:
                _quietly(stream.flush)
        _quietly(_flush_files)
    else:
        if sys.__stdout__ is not sys.stdout and sys.__stdout__ is not None:
            _quietly(sys.__stdout__.flush)
        if sys.__stderr__ is not sys.stderr and sys.__stderr__ is not None:
            _quietly(sys.__stderr__.flush)


def _flush_files() -> None:
    # Files that were never closed are flushed as plain Python does when it takes its modules down.
    for one in get_objects():
        if issubclass(type(one), _WRITERS) and not one.closed:
            _quietly(one.flush)


def _tolerantly(act: "Any") -> None:
    try:
        act()
    except BaseException as error:
        _show(error)


def _show(error: BaseException) -> None:
    _quietly(lambda: sys.excepthook(type(error), error, error.__traceback__))


def _quietly(act: "Any") -> None:
    try:
        act()
    except BaseException:
        return  # closed, or not open for writing


def say_exit(error: SystemExit) -> None:
    """Write what plain Python writes on stderr for `sys.exit("message")`."""
    if not isinstance(error.code, int):
        _quietly(lambda: print(error.code, file=sys.stderr))


def leave_forked_child(error: BaseException | None) -> "NoReturn":
    """End a process that the callable forked and that came back out of the callable: it is not the run."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
    elif error is not None:
        code = 1
        _show(error)
    finish(sys.modules)
    _exit(code & 0xFF)
