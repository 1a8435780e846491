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

from . import endings, failures, frames, loader, messages, parameters, preload, values  # as modules: the rare
from .endings import finish
from .errors import Unfit
from .frames import of_result
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
from .values import NoJsonForm, scan

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
_roots = loader.roots
_loaded = 0  # modules that are there before a run
_duties: "Callable[[], bool] | None" = None  # towards some of them
_channel = frames.Channel()
# Results that are what they seem: neither to be awaited nor to be counted.
_SETTLED = frozenset((type(None), bool, int, float, str))

# The frame of most jobs that are done for what they do.
_NOTHING = frames.succeeded("null", 4, False)

_REHEARSALS = 20
# As a request looks, so that a rehearsal goes where a run will go.
_SAMPLE = b'[%d,"sample",1,null,null,"/tmp",false,"executor_sample",null,"run",{"x":1}]'


# --- before the fork -------------------------------------------------------------------------------------------


def configure(config: "dict[str, Any]", loaded: "Callable[[], None] | None" = None) -> None:
    """Take what is the same for every run (frames.md section 1).

    `loaded` is called when what may take long is over, before signals are set as runs find them.
    """
    global _result_limit, _stack_signal, _dump, _frames, _roots
    _dump = min(DUMP, os.sysconf("SC_OPEN_MAX") - 2)  # fewer open files may be allowed
    _frames = _dump + 1
    _result_limit = min(int(config["result_max_bytes"]), frames.LONGEST_VALUE)
    _stack_signal = int(config["stack_signal"])
    stand_in(config)
    _roots = loader.roots
    _provide_builtins()
    _set_streams()
    # Callables must look as if imported, and nothing of ours be found in `__main__`.
    sys.modules["__main__"] = type(sys)("__main__")
    sys.argv[:] = [""]
    forks = config.get("start_method") != "spawn"
    if forks:
        loader.arm()
        preload.load(config["preload"]["names"])
    if loaded is not None:
        loaded()
    os.environ["EXECUTOR_ATTEMPT"] = "1"  # what it is for nearly all
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
    for name in ("EXECUTOR_JOB_ID", "TMPDIR"):
        os.environ.pop(name)
    executor_shim._context = executor_shim.Context()
    _know_modules()


def _know_modules() -> None:
    """What is loaded now is what a run finds."""
    global _loaded, _duties
    _duties = preload.settle()
    _loaded = preload.loaded


def _rehearse_all() -> None:
    """Walk the way of a run from request to frame, with /dev/null for its descriptors, so that all of it is settled."""
    ours, theirs = socketpair(_AF_UNIX, _SOCK_SEQPACKET)
    log, null = os.dup(2), os.dup(0)
    ours.sendmsg(
        [_SAMPLE % getpid()],
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
    _serve(values.decode((_SAMPLE % 0).decode()), 0, loader.SAMPLE_ROOTS, {})
    del sys.modules["executor_sample"]
    _know_modules()


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
        data, ancillary, flags, _ = ctl.recvmsg(LONGEST_MESSAGE, ANCILLARY, MSG_CMSG_CLOEXEC)
        if data[:1] == b"R":  # nobody is in a hurry
            if data[1:] == getpid().to_bytes(4, "little"):
                rehearse()
            data, ancillary, flags, _ = ctl.recvmsg(LONGEST_MESSAGE, ANCILLARY, MSG_CMSG_CLOEXEC)
        try:
            numbers = ancillary[0][2]
            channel, stdout, stderr, dump = numbers[_LOW_BYTE::4]
            request = scan(data.decode(), 0)[0]
            if request[0] != getpid() or numbers.count(0) != 12 or flags & (MSG_TRUNC | MSG_CTRUNC):
                raise ValueError
        except Exception:
            message = messages.unusual(ctl, data, ancillary, flags)
            if message is None:
                return 0
            request, (channel, stdout, stderr, dump) = message
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
        # 3. Its environment and context in force.
        try:
            if type(request) is bytes:
                request = messages.decoded(request)
            _, job_id, attempt, run_id, experiment_id, tmpdir, _, _, _, _, _ = request
            if _environment is None:
                os.environ.update(EXECUTOR_JOB_ID=job_id, TMPDIR=tmpdir)
            else:  # `os.environ[name] = value` in a fifth of the calls
                putenv("EXECUTOR_JOB_ID", job_id)
                _environment[b"EXECUTOR_JOB_ID"] = job_id.encode()
                putenv("TMPDIR", tmpdir)
                _environment[b"TMPDIR"] = tmpdir.encode()
            executor_shim._context.job_id = job_id
            if attempt != 1 or run_id is not None or experiment_id is not None:
                _tell_more(attempt, run_id, experiment_id)
        except Exception as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from None
        code = EXIT_FAULT  # from here on code of the user's may have run
        code = _serve(request, _frames, roots or _roots, modules)
    except BaseException as error:
        _complain(error)
    return code


def _tell_more(attempt: int, run_id: str | None, experiment_id: str | None) -> None:
    """What sets this run apart from the first attempt of a plain job."""
    context = executor_shim._context
    context.attempt = attempt
    context.run_id = run_id
    context.experiment_id = experiment_id
    os.environ["EXECUTOR_ATTEMPT"] = str(attempt)
    if run_id is not None:
        os.environ["EXECUTOR_RUN_ID"] = run_id
    if experiment_id is not None:
        os.environ["EXECUTOR_EXPERIMENT_ID"] = experiment_id


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


def _serve(request: "list[Any]", descriptor: int, roots: "Roots", modules: "dict[str, ModuleType]") -> int:
    """Make the attempt the request asks for, and tell of it on the descriptor; the exit code."""
    _, _, _, _, _, _, check, name, cls, function, given = request
    run = getpid()
    stale = _duties is not None and _duties()
    _channel.open(descriptor, run)
    executor_shim._channel = _channel
    raised: BaseException | None = None
    try:
        called = None if check else ordinary(roots, name, cls, function, given)
        if called is not None:
            result = called(**given)
        else:
            result = _closely(loader.load(roots, name, cls, function), check, given)
        if type(result) not in _SETTLED:
            result = endings.settled(result, _channel)
        try:
            frame = _NOTHING if result is None else of_result(result, _result_limit)
        except NoJsonForm as error:
            raise Unfit("ResultNotSerializableError", str(error)) from None
    except SystemExit as error:
        frame = _NOTHING
        if error.code is not None and error.code != 0:
            endings.say_exit(error)
            frame, raised = failures.frame_of(error), error
    except BaseException as error:
        result = None  # perhaps it was too large for its text
        frame, raised = failures.frame_of(error), error
    result = called = None  # what hangs on them ends here, and not after the frame
    if getpid() != run:
        endings.leave_forked_child(raised)
    raised = None  # and with it what the callable's stack still holds
    finish(modules)
    executor_shim._channel = None
    names = preload.news() if len(modules) - _loaded > roots.executed else None
    if names or stale:
        _channel.imported(names or [], stale=stale)
    return 0 if _channel.end(frame) else EXIT_NOT_OUR_PIPE


def _closely(found: "loader.Found", check: bool, given: "dict[str, Any]") -> "Any":
    """Describe the callable, or see whether it takes these parameters, and call it."""
    if check:
        from . import describe

        return describe.description(found)
    if found.cls is not None:
        parameters.check_instance(found.cls, found.name)
    function = found.bound()
    parameters.check(function, given, found.name)
    return function(**given)
