"""Takes its time: for trying out timeouts, cancellation and shutdown."""

import time
from typing import Any

try:
    from executor_shim import partial, progress
except ImportError:  # outside the executor

    def progress(done: float, total: float | None = None) -> None:
        """Do nothing: nobody listens."""

    def partial(value: Any) -> None:
        """Do nothing: nobody listens."""


def sleep_tool(seconds: float = 1.0, step_seconds: float = 0.25) -> dict[str, float]:
    """Sleep for `seconds` in steps, telling of each. A kill keeps how far it came as `partial_results`."""
    if seconds < 0 or step_seconds <= 0:
        raise ValueError("seconds must be 0 or more, step_seconds more than 0")
    started = time.monotonic()
    while (slept := time.monotonic() - started) < seconds:
        progress(round(slept, 3), seconds)
        partial({"slept_seconds": round(slept, 3)})
        time.sleep(min(step_seconds, seconds - slept))
    progress(seconds, seconds)
    return {"slept_seconds": round(time.monotonic() - started, 3)}
