"""Progress and events: those of the executor in a run, nothing outside of one."""

from typing import Any

try:
    from executor_shim import emit, progress
except ImportError:  # outside the executor, where the shim need not be installed

    def emit(name: str, /, **fields: Any) -> None:
        """Do nothing: nobody listens."""

    def progress(done: float, total: float | None = None) -> None:
        """Do nothing: nobody listens."""


__all__ = ["emit", "progress"]
