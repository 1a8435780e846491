"""A slot: a process that only forks and reaps; the executor decides everything (docs/design/slots.md).

Started by the launcher as `python -I -S -u -X utf8 slot.py CONFIG SCOPE`, a sub-reaper in its own session; `slot.py`
calls `main`. On 0 the control socket `go` (which is the lifeline, too), on 1 the request socket `ctl`, on 2 the log.
Must not run code of users, and must stay lean: every module loaded here is paid for by every fork.
"""

import _json
import _signal  # type: ignore[import-not-found]  # `signal` itself would bring enum along
import posix
import resource  # noqa: F401  # `wait4` would load it at the first run's end
import sys
from posix import P_ALL, WEXITED, WNOHANG, WNOWAIT, fork, pread, read, wait4, waitid, write
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

_AF_UNIX, _SOCK_SEQPACKET, _MSG_PEEK, _MSG_DONTWAIT = 1, 5, 0x02, 0x40
_DEFAULTS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGPIPE, _signal.SIGXFSZ)


class _Scan:
    """What the C scanner wants to know: plain JSON."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: "dict[str, str]" = {}  # noqa: RUF012
    parse_constant = {"-Infinity": -1e999, "Infinity": 1e999, "NaN": 1e999 - 1e999}.__getitem__


def parse(text: str) -> "Any":
    """JSON text to a value, without the price of the json package."""
    return _json.make_scanner(_Scan())(text, 0)[0]  # type: ignore[arg-type]


def own_descriptors() -> "tuple[int, int]":
    """Move `go` and `ctl` away from 0 and 1, not to be inherited; 0 becomes /dev/null, 1 the log."""
    go = posix.dup(0)
    ctl = posix.dup(1)
    posix.set_inheritable(go, False)
    posix.set_inheritable(ctl, False)
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    posix.dup2(null, 0)
    posix.dup2(2, 1)
    posix.close(null)
    return go, ctl


def spawner(config: "dict[str, Any]", text: str, ctl: int) -> "Callable[[], int]":
    """The birth of a run as a newly executed interpreter; it finds the request socket on 0."""
    argv = [config["executable"], "-I", "-S", "-u", "-X", "utf8", config["shim"] + "/executor_shim/spawned.py", text]
    actions = [(posix.POSIX_SPAWN_DUP2, ctl, 0)]
    environ = config["environment"]

    def birth() -> int:
        return posix.posix_spawn(
            argv[0], argv, environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULTS
        )

    return birth


def forker(config: "dict[str, Any]", own: "tuple[int, int]", ctl: int) -> "Callable[[], int]":
    """The birth of a run as a fork of this prepared interpreter. `own`: descriptors that are no business of a run."""
    for name in posix.environ.keys() - {name.encode() for name in config["environment"]}:
        posix.unsetenv(name)  # what was meant for the interpreter's own start
        del posix.environ[name]
    from executor_shim import runner

    runner.configure(config, loaded=end_with_executor(ctl))
    # The run's own dispositions are set already; until it asks for them they are held back.
    mask, unmask = (_signal.SIG_BLOCK, _DEFAULTS[:3]), (_signal.SIG_SETMASK, ())
    _signal.pthread_sigmask(*mask)
    import gc

    gc.collect()
    gc.freeze()
    setsid, close, sigmask, attend, leave = (
        posix.setsid,
        posix.close,
        _signal.pthread_sigmask,
        runner.attend,
        posix._exit,
    )
    requests = runner.requests(ctl)
    go, kids = own

    def birth() -> int:
        pid = fork()
        if pid:
            return pid
        try:
            setsid()
            close(go)
            if kids >= 0:
                close(kids)
            sigmask(*unmask)
            leave(attend(requests))
        finally:
            leave(96)

    return birth


def end_with_executor(ctl: int) -> "Callable[[], None]":
    """While modules are loaded ahead nobody reads orders: look every 100 ms whether there is still anybody to give one.

    No run has been born yet, and a fork that compiles ends by itself: leaving is enough. Answers how to stop looking.
    """
    from _socket import socket

    connection = socket(_AF_UNIX, _SOCK_SEQPACKET, 0, posix.dup(ctl))

    def look(*_: "Any") -> None:
        try:
            gone = not connection.recv(1, _MSG_PEEK | _MSG_DONTWAIT)
        except BlockingIOError:
            gone = False
        if gone:
            posix._exit(0)

    def stop() -> None:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
        connection.close()

    _signal.signal(_signal.SIGALRM, look)
    _signal.siginterrupt(_signal.SIGALRM, False)
    _signal.setitimer(_signal.ITIMER_REAL, 0.1, 0.1)
    return stop


def is_scoped() -> bool:
    """Whether signals of this slot reach its own runs and nobody else, by the launcher's word and by a trial.

    If this were wrong, `kill_all` would kill whatever this user can kill.
    """
    if sys.argv[2:] != ["scoped"]:
        return False
    try:
        posix.kill(posix.getppid(), 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def kill_all(scoped: bool) -> bytes:
    """Kill everything under this slot in one call: the kernel lets no fork slip past it."""
    if not scoped:
        return b"K0"
    try:
        posix.kill(-1, _signal.SIGKILL)
    except OSError:
        pass  # nobody there
    return b"K1"


def reap(leader: int, kids: int, birth: "Callable[[], int]") -> "tuple[bytes, int]":
    """Take the leader's status, then those of all other zombies; then, if nothing is left, let the next run be born.

    `kids` is the kernel's list of this process's children. Answers the numbers of `Reaped` (`src/slots/reaped.rs`):
    status (-1: not dead), user and system time in µs, peak memory in KiB, number of others, their time in µs, 1 while
    children live, and the pid of the next run (0: none); and that pid.
    """
    status, used, peak, others, theirs, left, born = -1, 0.0, 0, 0, 0.0, 1, 0
    try:
        if leader:
            pid, code, usage = wait4(leader, 1)
            if pid:
                status, used, peak = code, (usage[0] + usage[1]) * 1000000, usage[2]
        while others < 10000:
            # Without children `wait4` would say so with an exception, which is dear.
            if kids >= 0 and not pread(kids, 1, 0):
                left = 0
                break
            pid, code, usage = wait4(-1, 1)
            if not pid:
                break
            if pid == leader:
                status, used, peak = code, (usage[0] + usage[1]) * 1000000, usage[2]
                continue
            others += 1
            theirs += (usage[0] + usage[1]) * 1000000
    except ChildProcessError:
        left = 0
    if not left:
        try:
            born = birth()
        except OSError:
            pass  # said when it is asked for
    return b"R %d %d %d %d %d %d %d" % (status, used, peak, others, theirs, left, born), born


def reap_others(leader: int) -> bytes:
    """Take the statuses of zombies during a run, but not the leader's; answers their number and time as `reap` does.

    Each is looked at before it is taken. Once the leader is met dead the run is over, and the rest can wait.
    """
    others, theirs = 0, 0.0
    try:
        for _ in range(10000):
            seen = waitid(P_ALL, 0, WEXITED | WNOHANG | WNOWAIT)
            if seen is None or seen.si_pid == leader:
                break
            _, _, usage = wait4(seen.si_pid, WNOHANG)
            others += 1
            theirs += (usage[0] + usage[1]) * 1000000
    except ChildProcessError:
        pass
    return b"R -1 0 0 %d %d 1 0" % (others, theirs)


def children(pid: int) -> "list[int]":
    """Children of all threads of a process."""
    found: list[int] = []
    try:
        threads = posix.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            at = posix.open(f"/proc/{pid}/task/{thread}/children", posix.O_RDONLY)
        except OSError:
            continue
        text = b""
        try:
            while piece := read(at, 65536):
                text += piece
        except OSError:
            pass
        posix.close(at)
        found.extend(int(word) for word in text.split())
    return found


def descendants() -> "list[int]":
    """All processes under this one."""
    found: list[int] = []
    todo = [posix.getpid()]
    while todo:
        more = children(todo.pop())
        found += more
        todo += more
    return found


def signal_all(pids: "Iterable[int]", number: int) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        try:
            posix.kill(pid, number)
        except OSError:
            pass


def end_everything(scoped: bool) -> None:
    """The lifeline broke: freeze and kill all that is under this slot, until nothing is left to wait for."""
    pause = 0.001
    while True:
        kill_all(scoped)
        frozen: set[int] = set()
        for _ in range(1000):
            fresh = [pid for pid in descendants() if pid not in frozen]
            if not fresh:
                break
            signal_all(fresh, _signal.SIGSTOP)
            frozen.update(fresh)
        signal_all(frozen, _signal.SIGKILL)
        try:
            while wait4(-1, 1)[0]:
                pass
        except ChildProcessError:
            return
        sleep(pause)
        pause = min(pause * 1.1, 0.1)  # what does not die at once waits for a device


def serve(go: int, kids: int, birth: "Callable[[], int]", scoped: bool) -> "NoReturn":
    """One message, one act, one answer, until the executor is gone. The leader is who was born last."""
    leader = 0
    while True:
        try:
            message = read(go, 1)
        except OSError:
            message = b""
        if message == b"a":
            answer, born = reap(leader, kids, birth)
            leader = born or leader
        elif message == b"z":
            answer, born = reap(0, kids, birth)
            leader = born or leader
        elif message == b"f":
            try:
                leader = birth()
                answer = b"F %d" % leader
            except OSError as error:
                answer = b"E" + str(error).encode()
        elif message == b"o":
            answer = reap_others(leader)
        elif message == b"k":
            answer = kill_all(scoped)
        else:
            end_everything(scoped)
            posix._exit(0)
        try:
            write(go, answer)
        except OSError:
            pass


def own_children() -> int:
    """The kernel's list of this thread's children, the only one there is; -1: it cannot be had."""
    try:
        return posix.open("/proc/thread-self/children", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return -1


def main() -> "NoReturn":
    """Make ready, then serve."""
    text = sys.argv[1]
    config = parse(text)
    scoped = is_scoped()
    go, ctl = own_descriptors()
    kids = own_children()
    forks = config["start_method"] == "forkserver"
    birth = forker(config, (go, kids), ctl) if forks else spawner(config, text, ctl)
    serve(go, kids, birth, scoped)
