"""The frames of `docs/design/frames.md`: what a run tells the executor, one JSON object a line.

Must not decide anything about the attempt. The texts here are checked against `tests/fixtures/frames/`.
"""

import time
from _thread import RLock
from posix import fstat, getpid, write

from . import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONGEST_FRAME = 1024 * 1024
LONGEST_VALUE = LONGEST_FRAME - 1024  # what a value may take of a frame of its own
LONGEST_PARTIAL = LONGEST_FRAME // 2  # beside a traceback
LONGEST_ERROR = 2000  # characters
LONGEST_TRACEBACK = 64 * 1024
_LONGEST_NAME = 1000
_INTERVAL = 0.1  # seconds between two `progress`, and between two `items`, in the long run
_BURST = 1.0  # seconds that may be spent ahead: ten at once


def text(value: "Any") -> str:
    """JSON text of something the shim made itself."""
    return values.text_of(value, "value")


def progress(done: float, total: float | None) -> str:
    """The frame of `progress()`."""
    return f'{{"t":"progress","done":{text(done)},"total":{text(total)}}}\n'


def items(count: int) -> str:
    """The frame that tells the total of items so far."""
    return f'{{"t":"items","count":{count}}}\n'


def emit(name: str, fields: str) -> str:
    """The frame of `emit()`; `fields` is JSON text."""
    return f'{{"t":"emit","name":{text(name)},"fields":{fields}}}\n'


def partial(value: str) -> str:
    """The frame of `partial()`; `value` is JSON text."""
    return f'{{"t":"partial","value":{value}}}\n'


def imported(names: "list[str]", *, stale: bool) -> str:
    """The frame that tells which modules the run loaded itself, and whether those loaded ahead are out of date."""
    return f'{{"t":"imports","names":{text(names)},"stale":{text(stale)}}}\n'


def succeeded(value: str, size: int, truncated: bool) -> str:
    """The last frame of a success; `value` is JSON text, `size` that of the full result."""
    return f'{{"t":"result","ok":true,"value":{value},"bytes":{size},"truncated":{"true" if truncated else "false"}}}\n'


def of_result(value: "Any", limit: int) -> str:
    """The last frame of a success with this result; of more than `limit` bytes it is a summary. Raises `NoJsonForm`."""
    try:
        text = "".join(values.encode_result(value, 0))
        size = len(text)
        shallow = size <= values.MAX_DEPTH or text.count("[") + text.count("{") <= values.MAX_DEPTH
        if shallow and size <= limit and text.isascii():
            return f'{{"t":"result","ok":true,"value":{text},"bytes":{size},"truncated":false}}\n'
    except (TypeError, ValueError, RecursionError, OverflowError):
        pass  # found out below
    text = ""  # one of them is enough
    return succeeded(*values.fitting(value, "result", limit))


def failed(
    kind: str, error_type: str, error: str, traceback: str, *, partial: str = "null", transient: bool = False
) -> str:
    """The last frame of a failure; `partial` is JSON text."""
    error = values.one_line(error, LONGEST_ERROR) or error_type
    return (
        f'{{"t":"result","ok":false,"kind":{text(kind)},"error_type":{text(values.one_line(error_type, 200))},'
        f'"error":{text(error)},"traceback":{text(_middle_cut(traceback))},'
        f'"partial":{partial},"transient":{text(transient)}}}\n'
    )


def _middle_cut(trace: str) -> str:
    data = values.clean(trace).encode()
    if len(data) <= LONGEST_TRACEBACK:
        return data.decode()
    half = LONGEST_TRACEBACK // 2 - 50
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n  … {len(data) - 2 * half} bytes left out …\n{tail}"


def _number(value: "Any", name: str) -> "int | float | None":
    """`value` as a number; `None` if it is none that JSON has."""
    if not isinstance(value, int):
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"progress(): {name} must be a number, not {type(value).__name__}") from None
        return value if value - value == 0 else None
    return int(value) if value.bit_length() <= 1000 else None


class _Pace:
    """Lets ten pass at once, and ten a second in the long run: the first items of a slow tool show at once."""

    def __init__(self) -> None:
        self._spent = 0.0

    def allows(self) -> bool:
        """Whether one more may pass now; if so, it has."""
        now = time.monotonic()
        if self._spent - now > _BURST:
            return False
        self._spent = max(self._spent, now) + _INTERVAL
        return True


class Channel:
    """The run's end of the pipe for frames. Safe from threads and signal handlers; mute in forked children."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._device = self._inode = 0
        self._pid = 0
        self._lock = RLock()
        self._waiting: list[bytes] = []
        self._writing = False
        self._ended = False
        self._progress: str | None = None  # held back, to be sent before the result
        self._progress_pace: _Pace | None = None
        self._items: int | None = None
        self._items_told: int | None = None
        self._items_pace: _Pace | None = None

    def open(self, descriptor: int, pid: int) -> None:
        """Speak on this descriptor from now on, as this process."""
        self._descriptor = descriptor
        there = fstat(descriptor)
        self._inode, self._device = there[1], there[2]
        self._pid = pid
        self._ended = False

    def emit(self, name: str, fields: "dict[str, Any]") -> None:
        """Send an event. Raises `TypeError` naming a field without JSON form."""
        if not isinstance(name, str):
            raise TypeError(f"emit(): name must be a string, not {type(name).__name__}")
        encoded, _, _ = values.fitting(fields, "fields", LONGEST_VALUE - 8 * _LONGEST_NAME)
        self._send(emit(values.one_line(name, _LONGEST_NAME), encoded))

    def partial(self, value: "Any") -> None:
        """Send what was achieved so far. Raises `TypeError` naming the part without JSON form."""
        encoded, _, _ = values.fitting(value, "value", LONGEST_PARTIAL)
        self._send(partial(encoded))

    def imported(self, names: "list[str]", *, stale: bool) -> None:
        """Tell what the run loaded."""
        self._send(imported(names, stale=stale))

    def progress(self, done: "Any", total: "Any") -> None:
        """Send the progress, or hold it back if there were too many lately."""
        done = _number(done, "done")
        total = None if total is None else _number(total, "total")
        if done is None:
            return
        if not self._is_run():
            return
        with self._lock:
            self._progress = progress(done, total)
            if self._progress_pace is None:
                self._progress_pace = _Pace()
            if self._progress_pace.allows():
                self._send_progress()

    def items(self, count: int) -> None:
        """Send the total of items so far, or hold it back in the same way."""
        if not self._is_run():
            return
        with self._lock:
            self._items = count
            if self._items_pace is None:
                self._items_pace = _Pace()
            if self._items_pace.allows():
                self._send_items()

    def end(self, frame: str) -> bool:
        """Send what was held back and the last frame. False if the descriptor is no longer the one given."""
        with self._lock:
            if self._progress is not None:
                self._send_progress()
            if self._items is not None:
                self._send_items()
            if self._writing:
                self._send(frame)  # from a signal handler: after the frame under way
            else:
                # What `_is_ours` and `_write_all` do, without the price of entering them.
                descriptor, data = self._descriptor, frame.encode()
                try:
                    there = fstat(descriptor)
                    if there[1] != self._inode or there[2] != self._device:
                        return False
                    done = write(descriptor, data)
                except OSError:
                    if not self._is_ours():
                        return False
                    done = 0
                if done < len(data):
                    _write_all(descriptor, data[done:])
            self._ended = True
            return True

    def _send_progress(self) -> None:
        frame, self._progress = self._progress, None
        if frame is not None:
            self._send(frame)

    def _send_items(self) -> None:
        count, self._items = self._items, None
        if count is not None and count != self._items_told:
            self._items_told = count
            self._send(items(count))

    def _is_run(self) -> bool:
        # In a forked child the copy of the lock may be held for ever: ask before taking it.
        return getpid() == self._pid

    def _is_ours(self) -> bool:
        try:
            there = fstat(self._descriptor)
        except OSError:
            return False
        return (there[1], there[2]) == (self._inode, self._device)

    def _send(self, frame: str) -> None:
        if not self._is_run():
            return
        with self._lock:
            if self._ended or not self._is_ours():
                return
            self._waiting.append(frame.encode())
            if self._writing:
                return  # a signal handler came in between: the frame under way goes first
            self._writing = True
            try:
                while self._waiting:
                    _write_all(self._descriptor, self._waiting.pop(0))
            finally:
                self._writing = False


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[write(descriptor, data) :]
        except BlockingIOError:
            time.sleep(0.001)  # somebody made the pipe non-blocking
        except OSError:
            return  # nobody reads any more
