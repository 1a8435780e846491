"""One attempt, from the request to the exit. The same code in a forked and in a newly executed interpreter.

`configure` once per process, before any fork and without running code of the user's; `attend` in the run's own
process. Must not know queue, database or schedules, and must not touch the descriptors of frames but by `frames`.
"""

import faulthandler
import gc
import io
import os
import sys
from _signal import (  # type: ignore[import-not-found]  # `signal` itself would bring enum along
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIGINT,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    signal,
)
from _socket import socket
from posix import _exit, getpid  # users may patch `os`

import executor_shim

from . import endings, failures, frames, loader, parameters, values
from .errors import Unfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

DUMP, FRAMES = 200, 201  # descriptors of the run (frames.md section 2)
EXIT_FAULT, EXIT_UNREADABLE, EXIT_NOT_OUR_PIPE = 1, 96, 97

_LONGEST_MESSAGE = 64 * 1024 + 4096
_ANCILLARY = 64  # room for five descriptors and a header
_MSG_TRUNC, _MSG_CTRUNC, _MSG_CMSG_CLOEXEC = 0x20, 0x08, 0x40000000
_AF_UNIX, _SOCK_SEQPACKET = 1, 5
_SOL_SOCKET, _SCM_RIGHTS = 1, 1
_SIGPIPE, _SIGXFSZ, _LAST_SIGNAL = 13, 25, 64
_IGNORED_BY_PYTHON = (_SIGPIPE, _SIGXFSZ)

_result_limit = 10240
_stack_signal = 0


_REHEARSALS = 20
_SAMPLE = (
    b'{"job_id":"sample","attempt":1,"run_id":null,"experiment_id":null,"action":"call",'
    b'"target":{"module":"sample","class":null,"function":"sample"},"parameters":{"x":1},"env":{},"memory_limited":false}'
)


class _Unreadable(Exception):
    """The request could not be read."""


# --- before the fork -------------------------------------------------------------------------------------------


def configure(config: "dict[str, Any]") -> None:
    """Take what is the same for every run (frames.md section 1)."""
    global _result_limit, _stack_signal
    _result_limit = min(int(config["result_max_bytes"]), frames.LONGEST_VALUE)
    _stack_signal = int(config["stack_signal"])
    if config.get("sys_path") is not None:
        _stand_in_for_site(config)
    shim = config.get("shim")
    if shim and shim not in sys.path:
        sys.path.append(shim)
    forks = config.get("start_method") != "spawn"
    loader.configure(config["tasks_path"], config["tools_path"], config["allowed"], forks=forks)
    _provide_builtins()
    _set_streams()
    # Callables must look as if imported, and nothing of ours be found in `__main__`.
    sys.modules["__main__"] = type(sys)("__main__")
    sys.argv[:] = [""]
    _watch_for_crashes(DUMP)
    if forks:
        # The interpreter adapts code to its use by writing into it: once here, instead of in every run.
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for _ in range(_REHEARSALS):
            _rehearse(null)
        os.close(null)


def _stand_in_for_site(config: "dict[str, Any]") -> None:
    """Make an interpreter started with `-I -S` what the configured one said it is; `site` itself is dear."""
    sys.path[:] = config["sys_path"]
    for name in ("executable", "prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        if config.get(name):
            setattr(sys, name, config[name])
    if config.get("run_site"):  # a `.pth` file of the installation wants to run code, as editable installs do
        import site

        site.main()


def _rehearse(null: int) -> None:
    """Walk the way of a run, without effect: so that its pages are there when the request comes."""
    request = _read(_SAMPLE)
    _descriptors([(_SOL_SOCKET, _SCM_RIGHTS, bytes(16))])
    loader.rehearse()
    parameters.check(_sample, request["parameters"], "sample")
    channel = frames.Channel(null)
    executor_shim.Context("sample", 1, None, None)
    channel.end(_success(endings.settled(_sample(**request["parameters"]), channel)))


def _sample(x: int) -> "dict[str, Any]":
    return {"x": x}


def _provide_builtins() -> None:
    import builtins

    if not hasattr(builtins, "exit"):  # without `site`
        import _sitebuiltins

        builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
        builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
        builtins.help = _sitebuiltins._Helper()


def _set_streams() -> None:
    """Streams over 0, 1 and 2, whatever these are by then: a line is seen as soon as it is written.

    The interpreter runs with `-u`, for the streams of C have no end at which anybody flushes them; Python's own get
    their buffer back, so that a line is one write.
    """
    for name, number, errors in (("stdout", 1, "surrogateescape"), ("stderr", 2, "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        buffer = stream.detach()
        if isinstance(buffer, io.RawIOBase):
            buffer = io.BufferedWriter(buffer)
        stream = io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=True)
        stream.mode = "w"  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if sys.stdin is None:
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _watch_for_crashes(descriptor: int) -> None:
    # The number alone counts: in the keeper nothing is open there yet.
    faulthandler.enable(file=descriptor, all_threads=True)
    if _stack_signal:
        faulthandler.register(_stack_signal, file=descriptor, all_threads=True, chain=False)


# --- the run's own process -------------------------------------------------------------------------------------


def attend(ctl: int) -> "NoReturn":
    """Wait for the request on the socket `ctl`, make the attempt, leave. Never returns.

    A closed socket is a quiet end: nobody wants this run any more.
    """
    code = EXIT_UNREADABLE
    try:
        null = _prepare()
        message = _receive(ctl)
        if message is None:
            _exit(0)
        body, descriptors = message
        channel = _take_places(null, descriptors, ctl)
        request = _understood(body)
        code = EXIT_FAULT  # from here on code of the user's may have run
        code = _serve(request, channel)
    except BaseException as error:
        _complain(error)
    _exit(code)


def _complain(error: BaseException) -> None:
    try:
        sys.stderr.write(f"executor_shim: {type(error).__name__}: {error}\n")
    except BaseException:
        return  # there is no stream left to complain on


def _prepare() -> int:
    """All that can be done before the request is there costs its sender nothing."""
    if os.getsid(0) != getpid():
        os.setsid()
    for number in range(1, _LAST_SIGNAL + 1):
        handler = getsignal(number)
        if handler not in (None, SIG_DFL) and number not in _IGNORED_BY_PYTHON:
            signal(number, SIG_DFL)
    for number in _IGNORED_BY_PYTHON:
        signal(number, SIG_IGN)
    signal(SIGINT, default_int_handler)
    pthread_sigmask(SIG_SETMASK, ())
    gc.enable()
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    _rehearse(null)
    while null < 3:  # so that no received descriptor gets the number of a stream
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    return null


def _receive(ctl: int) -> "tuple[bytes, list[int]] | None":
    """The body of the message for this process, and its descriptors; `None` once the socket is closed."""
    connection = socket(_AF_UNIX, _SOCK_SEQPACKET, 0, ctl)
    me = getpid()
    while True:
        data, ancillary, flags, _ = connection.recvmsg(_LONGEST_MESSAGE, _ANCILLARY, _MSG_CMSG_CLOEXEC)
        if not data and not ancillary:
            return None
        descriptors = _descriptors(ancillary)
        if len(data) >= 5 and int.from_bytes(data[1:5], "little") == me:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    connection.detach()
    kind, body = data[:1], data[5:]
    if flags & (_MSG_TRUNC | _MSG_CTRUNC) or len(descriptors) != {b"J": 4, b"M": 5}.get(kind):
        raise _Unreadable(f"kind {kind!r}, {len(data)} bytes, {len(descriptors)} descriptors, flags {flags}")
    if kind == b"M":
        memory = descriptors.pop()
        body = _whole(memory)
        os.close(memory)
    return body, descriptors


def _descriptors(ancillary: "list[tuple[int, int, bytes]]") -> "list[int]":
    found = []
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
            for start in range(0, len(data) - 3, 4):
                found.append(int.from_bytes(data[start : start + 4], "little"))
    return found


def _whole(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts, offset = [], 0
    while offset < size:
        part = os.pread(descriptor, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _take_places(null: int, descriptors: "list[int]", ctl: int) -> frames.Channel:
    """The first acts of frames.md section 2."""
    frames_at, stdout, stderr, dump = descriptors
    os.dup2(null, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    try:
        os.dup2(dump, DUMP, inheritable=False)
        os.dup2(frames_at, FRAMES, inheritable=False)
    except OSError:  # fewer open files are allowed than these numbers need
        _watch_for_crashes(dump)
        unwanted = {null, stdout, stderr, ctl}
        channel = frames.Channel(frames_at)
    else:
        unwanted = {null, stdout, stderr, ctl, dump, frames_at}
        channel = frames.Channel(FRAMES)
    for descriptor in unwanted - {0, 1, 2, DUMP, FRAMES}:
        os.close(descriptor)
    return channel


def _understood(body: bytes) -> "dict[str, Any]":
    """The request, its environment and context in force."""
    try:
        request = _read(body)
        for name, value in (request.get("env") or {}).items():
            os.environ[name] = value
        executor_shim._context = executor_shim.Context(
            request["job_id"], request["attempt"], request.get("run_id"), request.get("experiment_id")
        )
        if not isinstance(request["target"], dict) or not isinstance(request["parameters"], dict):
            raise TypeError("target and parameters must be objects")
    except Exception as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from None
    return request


def _serve(request: "dict[str, Any]", channel: frames.Channel) -> int:
    """Make the attempt the request asks for; the exit code."""
    _reseed()
    run = getpid()
    executor_shim._channel = channel
    frame, raised = _attempt(request, channel)
    if getpid() != run:
        endings.leave_forked_child(raised)
    raised = None  # and with it what the callable's stack still holds
    endings.finish()
    executor_shim._channel = None
    return 0 if channel.end(frame) else EXIT_NOT_OUR_PIPE


def _read(body: bytes) -> "dict[str, Any]":
    text = body.decode()
    try:
        request = values.decode(text)
    except ValueError:
        sys.set_int_max_str_digits(0)  # an integer of more than 4300 digits is a valid parameter
        request = values.decode(text)
    if not isinstance(request, dict):
        raise _Unreadable("it is no object")
    return request


def _reseed() -> None:
    # `random` sees to itself at a fork; the generator of numpy does not.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


# --- the attempt -----------------------------------------------------------------------------------------------


def _attempt(request: "dict[str, Any]", channel: frames.Channel) -> "tuple[str, BaseException | None]":
    """The last frame of the attempt, and what was raised."""
    try:
        found = loader.load(request["target"])
        if request.get("action") == "check":
            from . import describe

            return _success(describe.description(found)), None
        return _success(_call(found, request["parameters"], channel)), None
    except SystemExit as error:
        if error.code is None or error.code == 0:
            return _success(None), None
        endings.say_exit(error)
        return failures.frame_of(error), error
    except BaseException as error:
        return failures.frame_of(error), error


def _call(found: "loader.Found", given: "dict[str, Any]", channel: frames.Channel) -> "Any":
    if found.cls is not None:
        fault = parameters.zero_arguments_fault(found.cls)
        if fault:
            raise Unfit(
                "ToolError",
                f"{found.name}: {found.cls.__qualname__} cannot be made without arguments: {fault}",
            )
    function = found.bound()
    parameters.check(function, given, found.name)
    result = function(**given)
    return endings.settled(result, channel)


def _success(result: "Any") -> str:
    try:
        return frames.succeeded(*values.fitting(result, "result", _result_limit))
    except values.NoJsonForm as error:
        raise Unfit("ResultNotSerializableError", str(error)) from None
