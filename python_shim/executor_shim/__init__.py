"""What tools and tasks may import. All of it is optional, and does nothing outside a run.

    from executor_shim import emit, progress, partial, context

Cheap to import, and safe from threads, from asyncio and from signal handlers. A process that the callable forks
is not the run: there these functions do nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .frames import Channel

__all__ = ["Context", "context", "emit", "partial", "progress"]


class Context:
    """Which run this is. Outside a run all names are `None` and `attempt` is 1."""

    __slots__ = ("attempt", "experiment_id", "job_id", "run_id")

    job_id: str | None
    attempt: int
    run_id: str | None
    experiment_id: str | None

    def __init__(
        self,
        job_id: str | None = None,
        attempt: int = 1,
        run_id: str | None = None,
        experiment_id: str | None = None,
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.run_id = run_id
        self.experiment_id = experiment_id

    def __repr__(self) -> str:
        return (
            f"Context(job_id={self.job_id!r}, attempt={self.attempt!r}, "
            f"run_id={self.run_id!r}, experiment_id={self.experiment_id!r})"
        )


# Set by the runner, in the run's own process only.
_channel: "Channel | None" = None
_context = Context()


def emit(name: str, /, **fields: "Any") -> None:
    """Tell of an event of the tool's own, at once: `emit("emails_sent", count=50)`.

    Raises `TypeError` for a field that has no JSON form, naming it.
    """
    if _channel is not None:
        _channel.emit(name, fields)


def progress(done: float, total: float | None = None) -> None:
    """Tell how far the work has come. At most ten a second are sent, and always the last one."""
    if _channel is not None:
        _channel.progress(done, total)


def partial(value: "Any") -> None:
    """Hand over what has been achieved so far; kept if the run fails or is killed. The last one counts.

    Raises `TypeError` for a value that has no JSON form, naming the part that has none.
    """
    if _channel is not None:
        _channel.partial(value)


def context() -> Context:
    """Which job, attempt and experiment this run is for."""
    return _context
