"""Exceptions → the fields of a failure frame: name, one line, traceback, whether another try may help."""

import sys

from . import frames, values
from .errors import Unfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRANSIENT = frozenset(("ConnectionError", "TimeoutError"))
_HERE = __file__.rpartition("/")[0] + "/"
_FOR_USERS = _HERE + "__init__.py"  # the only file whose frames say something to users


def frame_of(error: BaseException) -> str:
    """The last frame of an attempt that ended with `error`. Never raises."""
    if isinstance(error, Unfit):
        hint = f"{error.hint}\n" if error.hint else ""
        return frames.failed("unfit", error.error_type, str(error), f"{error.error_type}: {error}\n{hint}")
    if isinstance(error, SystemExit):
        message = f"the callable left by sys.exit({_safely(repr, error.code)})"
        return frames.failed("exited", "CrashedError", message, _traceback(error), partial=_partial(error))
    if isinstance(error, MemoryError):
        _let_go(error)
    name = type(error).__name__
    return frames.failed(
        "raised",
        name,
        _safely(str, error) or name,
        _traceback(error),
        partial=_partial(error),
        transient=is_transient(error),
    )


def is_transient(error: BaseException) -> bool:
    """Whether it is a connection error or timeout, told by class names: of itself, its `reason`, its causes."""
    seen: set[int] = set()
    cause: Any = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        for one in (cause, _attribute(cause, "reason")):
            if any(cls.__name__ in _TRANSIENT for cls in type(one).__mro__):
                return True
        cause = _attribute(cause, "__cause__")
    return False


def _partial(error: BaseException) -> str:
    value = _attribute(error, "partial_results")
    if value is None:
        return "null"
    try:
        return values.fitting(value, "partial_results", frames.LONGEST_PARTIAL)[0]
    except Exception as fault:
        _complain(f"partial_results not kept: {_safely(str, fault)}")
        return "null"


def _let_go(error: BaseException) -> None:
    """Free what the frames of a stack hold, so that there is memory to tell of it."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        trace = one.__traceback__
        while trace is not None:
            try:
                trace.tb_frame.clear()
            except RuntimeError:
                pass  # still running: the shim's own
            trace = trace.tb_next
        one = one.__context__ if one.__cause__ is None else one.__cause__


def _complain(line: str) -> None:
    try:
        print(line, file=sys.stderr)
    except Exception:
        return  # the callable closed the stream


def _traceback(error: BaseException) -> str:
    # The second for want of memory and for classes that misbehave, the third where no file can be opened.
    for form in (_formatted, _bare, _walked):
        try:
            return form(error)
        except BaseException as error_in_form:
            fault = type(error_in_form).__name__
    return f"{type(error).__name__}: {_safely(str, error)}\n(no traceback: {fault})\n"


def _formatted(error: BaseException) -> str:
    import traceback

    whole = traceback.TracebackException.from_exception(error, compact=True)
    todo: list[Any] = [whole]
    while todo:
        one = todo.pop()
        if one.stack is not None:
            one.stack[:] = [frame for frame in one.stack if not _is_own(frame.filename)]
        todo.extend(inner for inner in (one.__cause__, one.__context__) if inner is not None)
        todo.extend(getattr(one, "exceptions", None) or ())
    return "".join(whole.format())


def _bare(error: BaseException) -> str:
    import traceback

    stack = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_own(frame.filename)]
    lines = "".join(traceback.format_list(stack))
    return f"Traceback (most recent call last):\n{lines}{type(error).__name__}: {_safely(str, error)}\n"


def _walked(error: BaseException) -> str:
    """Without any import, which needs a descriptor."""
    lines, trace = ["Traceback (most recent call last):"], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not _is_own(code.co_filename):
            lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}')
        trace = trace.tb_next
    return "\n".join((*lines, f"{type(error).__name__}: {_safely(str, error)}", ""))


def _is_own(filename: str) -> bool:
    own = filename.startswith(_HERE) and filename != _FOR_USERS
    return own or filename.startswith("<frozen importlib")


def _safely(convert: "Any", value: "Any") -> str:
    try:
        return str(convert(value))
    except BaseException as fault:
        return f"<its text cannot be had: {type(fault).__name__}>"


def _attribute(value: "Any", name: str) -> "Any":
    try:
        return getattr(value, name, None)
    except BaseException:
        return None
