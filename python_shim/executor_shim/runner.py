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
from _socket import socket, socketpair
from posix import _exit, getpid, putenv  # users may patch `os`

import executor_shim

from . import endings, failures, frames, loader, parameters, preload, values
from .errors import Unfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
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
_dump, _frames = DUMP, FRAMES


_REHEARSALS = 20
_SOON = 0.002  # seconds: a request that waits already comes sooner, and a rehearsal would only delay it
# As a request looks, so that a rehearsal goes where a run will go; the values are replaced by those of the run.
_SAMPLE = (
    b'{"job_id":"sample","attempt":1,"run_id":null,"experiment_id":null,"action":"call",'
    b'"target":{"module":"executor_sample","class":null,"function":"run"},"parameters":{"x":1},'
    b'"env":{"EXECUTOR_JOB_ID":"sample","EXECUTOR_ATTEMPT":"1","TMPDIR":"/tmp"},"memory_limited":false}'
)


class _Unreadable(Exception):
    """The request could not be read."""


# --- before the fork -------------------------------------------------------------------------------------------


def configure(config: "dict[str, Any]") -> None:
    """Take what is the same for every run (frames.md section 1)."""
    global _result_limit, _stack_signal, _dump, _frames
    _dump = min(DUMP, os.sysconf("SC_OPEN_MAX") - 2)  # fewer open files may be allowed
    _frames = _dump + 1
    _result_limit = min(int(config["result_max_bytes"]), frames.LONGEST_VALUE)
    _stack_signal = int(config["stack_signal"])
    stand_in(config)
    _provide_builtins()
    _set_streams()
    # Callables must look as if imported, and nothing of ours be found in `__main__`.
    sys.modules["__main__"] = type(sys)("__main__")
    sys.argv[:] = [""]
    forks = config.get("start_method") != "spawn"
    if forks:
        preload.load(config["preload"]["names"])
        loader.arm()
    _watch_for_crashes()
    _reset_signals()
    if forks:
        _settle()


def stand_in(config: "dict[str, Any]") -> None:
    """Make an interpreter started with `-I -S` what the configured one said it is; `site` itself is dear."""
    sys.path[:] = config["sys_path"]
    for name in ("executable", "prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        if config.get(name):
            setattr(sys, name, config[name])
    if config.get("run_site"):  # `.pth` files of the installation leave something behind, as editable installs do
        import site

        site.main()
    if config["shim"] not in sys.path:
        sys.path.append(config["shim"])
    loader.configure(config["tasks_path"], config["tools_path"], config["allowed"])
    preload.configure(config["preload"]["learn"], loader.own_paths())


def _settle() -> None:
    """The interpreter adapts code to its use by writing into it: once here, instead of in every run."""
    gc.collect()
    gc.freeze()
    for _ in range(_REHEARSALS):
        _rehearse_all()
    for name in _read(_SAMPLE)["env"]:
        os.environ.pop(name)
    preload.settle()


def _rehearse_all() -> None:
    """Walk the way of a run from request to frame, with /dev/null for its descriptors, so that all of it is settled."""
    ours, theirs = socketpair(_AF_UNIX, _SOCK_SEQPACKET)
    log, null = os.dup(2), os.dup(0)
    ours.sendmsg(
        [b"J", getpid().to_bytes(4, "little"), _SAMPLE],
        [(_SOL_SOCKET, _SCM_RIGHTS, null.to_bytes(4, sys.byteorder) * 4)],
    )
    code = _make(theirs, loader.load_sample, {})
    os.dup2(log, 1)
    os.dup2(log, 2)
    for descriptor in (log, null, _dump, _frames):
        os.close(descriptor)
    ours.close()
    del sys.modules["executor_sample"]
    if code != 0:
        raise RuntimeError(f"the rehearsal of a run ended with {code}")


def rehearse() -> None:
    """In a fork, before its request is there: what a run does after it, so that the pages it writes to are its own."""
    _serve(_read(_SAMPLE), frames.Channel(0), loader.load_sample, {})
    del sys.modules["executor_sample"]
    preload.settle()


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


def _watch_for_crashes() -> None:
    # The number alone counts: in a slot nothing is open there.
    faulthandler.enable(file=_dump, all_threads=True)
    if _stack_signal:
        faulthandler.register(_stack_signal, file=_dump, all_threads=True, chain=False)


# --- the run's own process -------------------------------------------------------------------------------------


def requests(ctl: int) -> socket:
    """The socket on which requests come, for `attend` in a fork: it rehearses while none comes."""
    connection = socket(_AF_UNIX, _SOCK_SEQPACKET, 0, ctl)
    connection.settimeout(_SOON)
    return connection


def attend(ctl: "int | socket") -> "NoReturn":
    """Wait for the request on the socket `ctl`, make the attempt, leave. Never returns.

    A closed socket is a quiet end: nobody wants this run any more.
    """
    connection = socket(_AF_UNIX, _SOCK_SEQPACKET, 0, ctl) if isinstance(ctl, int) else ctl
    _exit(_make(connection, loader.load, sys.modules))


def _make(ctl: socket, load: "Callable[[dict[str, Any]], loader.Found]", modules: "dict[str, ModuleType]") -> int:
    """One attempt from its request on; the exit code. `modules`: those whose duties at the end are done."""
    code = EXIT_UNREADABLE
    try:
        message = _receive(ctl)
        if message is None:
            return 0
        body, descriptors = message
        channel = _take_places(descriptors, ctl.detach())
        request = _understood(body)
        code = EXIT_FAULT  # from here on code of the user's may have run
        code = _serve(request, channel, load, modules)
    except BaseException as error:
        _complain(error)
    return code


def _complain(error: BaseException) -> None:
    try:
        sys.stderr.write(f"executor_shim: {type(error).__name__}: {error}\n")
    except BaseException:
        return  # there is no stream left to complain on


def _reset_signals() -> None:
    """Plain Python's own, whatever was inherited or set by a module loaded ahead. None is blocked."""
    for number in range(1, _LAST_SIGNAL + 1):
        handler = getsignal(number)
        if handler not in (None, SIG_DFL) and number not in _IGNORED_BY_PYTHON:
            signal(number, SIG_DFL)
    for number in _IGNORED_BY_PYTHON:
        signal(number, SIG_IGN)
    signal(SIGINT, default_int_handler)
    pthread_sigmask(SIG_SETMASK, ())


def _receive(ctl: socket) -> "tuple[bytes, list[int]] | None":
    """The body of the message for this process, and its descriptors; `None` once the socket is closed."""
    me = getpid()
    while True:
        try:
            data, ancillary, flags, _ = ctl.recvmsg(_LONGEST_MESSAGE, _ANCILLARY, _MSG_CMSG_CLOEXEC)
        except TimeoutError:  # nobody is in a hurry
            ctl.settimeout(None)
            rehearse()
            continue
        if not data and not ancillary:
            return None
        descriptors = _descriptors(ancillary)
        if len(data) >= 5 and int.from_bytes(data[1:5], "little") == me:
            break
        for descriptor in descriptors:
            os.close(descriptor)
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


def _take_places(descriptors: "list[int]", ctl: int) -> frames.Channel:
    """The first acts of frames.md section 2. 0 to 2 are open: /dev/null and the log, so none received is among them."""
    frames_at, stdout, stderr, dump = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.close(ctl)
    os.dup2(dump, _dump, inheritable=False)
    os.dup2(frames_at, _frames, inheritable=False)
    os.close(dump)
    os.close(frames_at)
    return frames.Channel(_frames)


def _understood(body: bytes) -> "dict[str, Any]":
    """The request, its environment and context in force."""
    try:
        request = _read(body)
        for name, value in (request.get("env") or {}).items():
            _set_environment(name, value)
        executor_shim._context = executor_shim.Context(
            request["job_id"], request["attempt"], request.get("run_id"), request.get("experiment_id")
        )
        if not isinstance(request["target"], dict) or not isinstance(request["parameters"], dict):
            raise TypeError("target and parameters must be objects")
    except Exception as error:
        raise _Unreadable(f"{type(error).__name__}: {error}") from None
    return request


def _set_environment(name: str, value: str) -> None:
    """`os.environ[name] = value` for a name of ours, in a fifth of the calls."""
    if _environment is None:
        os.environ[name] = value
    else:
        putenv(name, value)
        _environment[name.encode()] = value.encode()


def _bytes_of_environment() -> "dict[bytes, bytes] | None":
    # Private to CPython: used only as long as it is what `os.environ` shows.
    data = getattr(os.environ, "_data", None)
    if type(data) is not dict:
        return None
    data[b"EXECUTOR_ATTEMPT"] = b"0"
    known = os.environ.pop("EXECUTOR_ATTEMPT", None) == "0"
    return data if known and b"EXECUTOR_ATTEMPT" not in data else None


_environment = _bytes_of_environment()


def _serve(
    request: "dict[str, Any]",
    channel: frames.Channel,
    load: "Callable[[dict[str, Any]], loader.Found]",
    modules: "dict[str, ModuleType]",
) -> int:
    """Make the attempt the request asks for; the exit code."""
    _reseed()
    run = getpid()
    stale = preload.forget_if_changed()
    executor_shim._channel = channel
    frame, raised = _attempt(request, channel, load)
    if getpid() != run:
        endings.leave_forked_child(raised)
    raised = None  # and with it what the callable's stack still holds
    endings.finish(modules)
    executor_shim._channel = None
    names = preload.news()
    if names or stale:
        channel.imported(names, stale=stale)
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


def _attempt(
    request: "dict[str, Any]", channel: frames.Channel, load: "Callable[[dict[str, Any]], loader.Found]"
) -> "tuple[str, BaseException | None]":
    """The last frame of the attempt, and what was raised."""
    try:
        found = load(request["target"])
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
