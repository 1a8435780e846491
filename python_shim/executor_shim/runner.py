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
from posix import close, dup2, getpid, putenv  # users may patch `os`

import executor_shim

from . import armed, endings, failures, frames, loader, messages, parameters, preload, values  # as modules: the rare
from .endings import finish
from .errors import Unfit
from .loader import ordinary
from .messages import (
    ANCILLARY,
    LONGEST_MESSAGE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOL_SOCKET,
    UnreadableError,
)
from .parameters import fit_exactly
from .values import NoJsonForm, fitting, scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from .sources import Roots

DUMP, FRAMES = 200, 201  # descriptors of the run (frames.md section 2)
EXIT_FAULT, EXIT_UNREADABLE, EXIT_NOT_OUR_PIPE = 1, 96, 97

_AF_UNIX, _SOCK_SEQPACKET = 1, 5
_LOW_BYTE = 0 if sys.byteorder == "little" else 3
_SIGPIPE, _SIGXFSZ, _LAST_SIGNAL = 13, 25, 64
_IGNORED_BY_PYTHON = (_SIGPIPE, _SIGXFSZ)

_result_limit = 10240
_stack_signal = 0
_dump, _frames = DUMP, FRAMES
_channel = frames.Channel()
# Results that are what they seem: neither to be awaited nor to be counted.
_SETTLED = frozenset((type(None), bool, int, float, str))

_REHEARSALS = 20
# As a request looks, so that a rehearsal goes where a run will go; the values are replaced by those of the run.
_SAMPLE = (
    b'{"job_id":"sample","attempt":1,"run_id":null,"experiment_id":null,"action":"call",'
    b'"target":{"module":"executor_sample","class":null,"function":"run"},"parameters":{"x":1},'
    b'"env":{"EXECUTOR_JOB_ID":"sample","EXECUTOR_ATTEMPT":"1","TMPDIR":"/tmp"},"memory_limited":false}'
)


# --- before the fork -------------------------------------------------------------------------------------------


def configure(config: "dict[str, Any]", loaded: "Callable[[], None] | None" = None) -> None:
    """Take what is the same for every run (frames.md section 1).

    `loaded` is called when what may take long is over, before signals are set as runs find them.
    """
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
    if loaded is not None:
        loaded()
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
    for name in values.decode(_SAMPLE.decode())["env"]:
        os.environ.pop(name)
    executor_shim._context = executor_shim.Context()
    preload.settle()


def _rehearse_all() -> None:
    """Walk the way of a run from request to frame, with /dev/null for its descriptors, so that all of it is settled."""
    ours, theirs = socketpair(_AF_UNIX, _SOCK_SEQPACKET)
    log, null = os.dup(2), os.dup(0)
    ours.sendmsg(
        [b"J", getpid().to_bytes(4, "little"), _SAMPLE],
        [(SOL_SOCKET, SCM_RIGHTS, null.to_bytes(4, sys.byteorder) * 4)],
    )
    code = attend(theirs, loader.SAMPLE_ROOTS, {})
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
    _serve(scan(_SAMPLE.decode(), 0)[0], 0, loader.SAMPLE_ROOTS, {})
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
    """The socket on which the request comes."""
    return socket(_AF_UNIX, _SOCK_SEQPACKET, 0, ctl)


def attend(ctl: socket, roots: "Roots | None" = None, modules: "dict[str, ModuleType]" = sys.modules) -> int:
    """Wait for the request, make the attempt; the exit code, with which to leave at once.

    A closed socket is a quiet end: nobody wants this run any more. `modules` are those whose duties at the end are
    done. A fork pays three pages for each function that it enters, so the usual run meets few, and long ones.
    """
    code = EXIT_UNREADABLE
    try:
        # 1. The message for this process.
        me = getpid().to_bytes(4, "little")
        data, ancillary, flags, _ = ctl.recvmsg(LONGEST_MESSAGE, ANCILLARY, MSG_CMSG_CLOEXEC)
        if data == b"R" + me:  # nobody is in a hurry
            rehearse()
            data, ancillary, flags, _ = ctl.recvmsg(LONGEST_MESSAGE, ANCILLARY, MSG_CMSG_CLOEXEC)
        if (
            data[:5] == b"J" + me
            and len(ancillary) == 1
            and len(ancillary[0][2]) == 16
            and ancillary[0][2].count(0) == 12
            and not flags & (MSG_TRUNC | MSG_CTRUNC)
        ):
            body = data[5:]
            channel, stdout, stderr, dump = ancillary[0][2][_LOW_BYTE::4]  # four numbers below 256
        else:
            message = messages.unusual(ctl, data, ancillary, flags)
            if message is None:
                return 0
            body, (channel, stdout, stderr, dump) = message
        # 2. The first acts of frames.md section 2. 0 to 2 are open already: /dev/null and the log.
        dup2(stdout, 1)
        dup2(stderr, 2)
        close(stdout)
        close(stderr)
        close(ctl.detach())
        dup2(dump, _dump, False)
        dup2(channel, _frames, False)
        close(dump)
        close(channel)
        # 3. The request, its environment and context in force.
        try:
            try:
                request = scan(body.decode(), 0)[0]
            except ValueError:
                sys.set_int_max_str_digits(0)  # an integer of more than 4300 digits is a valid parameter
                request = values.decode(body.decode())
            if _environment is None:
                os.environ.update(request["env"])
            else:
                for name, value in request["env"].items():  # `os.environ[name] = value` in a fifth of the calls
                    putenv(name, value)
                    _environment[name.encode()] = value.encode()
            context = executor_shim._context
            context.job_id = request["job_id"]
            context.attempt = request["attempt"]
            context.run_id = request.get("run_id")
            context.experiment_id = request.get("experiment_id")
            if type(request["target"]) is not dict or type(request["parameters"]) is not dict:
                raise TypeError("target and parameters must be objects")
        except Exception as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from None
        code = EXIT_FAULT  # from here on code of the user's may have run
        code = _serve(request, _frames, roots or loader.roots, modules)
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


def _bytes_of_environment() -> "dict[bytes, bytes] | None":
    # Private to CPython: used only as long as it is what `os.environ` shows.
    data = getattr(os.environ, "_data", None)
    if type(data) is not dict:
        return None
    data[b"EXECUTOR_ATTEMPT"] = b"0"
    known = os.environ.pop("EXECUTOR_ATTEMPT", None) == "0"
    return data if known and b"EXECUTOR_ATTEMPT" not in data else None


_environment = _bytes_of_environment()


def _serve(request: "dict[str, Any]", descriptor: int, roots: "Roots", modules: "dict[str, ModuleType]") -> int:
    """Make the attempt the request asks for, and tell of it on the descriptor; the exit code."""
    if "numpy.random" in sys.modules:  # `random` sees to itself at a fork; the generator of numpy does not
        sys.modules["numpy.random"].seed()
    run = getpid()
    stale = bool(preload.files) and preload.forget_if_changed()
    _channel.open(descriptor)
    executor_shim._channel = _channel
    raised: BaseException | None = None
    try:
        frame = _attempt(request, roots)
    except SystemExit as error:
        frame = frames.succeeded("null", 4, False)
        if error.code is not None and error.code != 0:
            endings.say_exit(error)
            frame, raised = failures.frame_of(error), error
    except BaseException as error:
        frame, raised = failures.frame_of(error), error
    if getpid() != run:
        endings.leave_forked_child(raised)
    raised = None  # and with it what the callable's stack still holds
    finish(modules)
    executor_shim._channel = None
    names = preload.news() if len(sys.modules) - preload.loaded > armed.executed else None
    if names or stale:
        _channel.imported(names or [], stale=stale)
    return 0 if _channel.end(frame) else EXIT_NOT_OUR_PIPE


# --- the attempt -----------------------------------------------------------------------------------------------


def _attempt(request: "dict[str, Any]", roots: "Roots") -> str:
    """The last frame of an attempt that ends well."""
    given = request["parameters"]
    if request.get("action") == "check":
        from . import describe

        result: Any = describe.description(loader.load(roots, request["target"]))
    else:
        function: Callable[..., Any] | None = ordinary(roots, request["target"])
        if function is None or not fit_exactly(function, given):
            function = _checked(loader.load(roots, request["target"]), given)
        result = function(**given)
        if type(result) not in _SETTLED:
            result = endings.settled(result, _channel)
    try:
        return frames.succeeded(*fitting(result, "result", _result_limit))
    except NoJsonForm as error:
        raise Unfit("ResultNotSerializableError", str(error)) from None


def _checked(found: "loader.Found", given: "dict[str, Any]") -> "Callable[..., Any]":
    """The callable itself, which takes these parameters."""
    if found.cls is not None:
        fault = parameters.zero_arguments_fault(found.cls)
        if fault:
            raise Unfit(
                "ToolError",
                f"{found.name}: {found.cls.__qualname__} cannot be made without arguments: {fault}",
            )
    function = found.bound()
    parameters.check(function, given, found.name)
    return function
