"""What the tools tell the executor; outside of it nobody listens. Not a tool: the leading underscore says so."""

from typing import Any

try:
    from executor_shim import context, emit, partial, progress
except ImportError:  # outside the executor

    def emit(name: str, /, **fields: Any) -> None:
        """Do nothing: nobody listens."""

    def progress(done: float, total: float | None = None) -> None:
        """Do nothing: nobody listens."""

    def partial(value: Any) -> None:
        """Do nothing: nobody listens."""

    def run_identity() -> str:
        """Return nothing: there is no run."""
        return ""

else:

    def run_identity() -> str:
        """Return what all attempts of this run have in common, empty outside a run."""
        return context().run_id or context().job_id or ""


__all__ = ["emit", "partial", "progress", "run_identity"]
