"""The smallest complete tool: typed parameters, progress, an event, a result. Copy it to begin a new one."""

import time
from typing import Any

try:
    from executor_shim import emit, progress
except ImportError:  # outside the executor, so that `python3 tools/example_tool.py` works too

    def emit(name: str, /, **fields: Any) -> None:
        """Show the event, as nobody else listens."""
        print(name, fields)

    def progress(done: float, total: float | None = None) -> None:
        """Show the progress, as nobody else listens."""
        print(f"{done} of {total}")


def example_tool(
    name: str = "world", repeat: int = 3, delay_seconds: float = 0.0, tags: list[str] | None = None
) -> dict[str, object]:
    """Greet `name` `repeat` times, with a pause of `delay_seconds` after each, and return what was said.

    `tags` come back as they are: they show that lists arrive as lists.
    """
    if repeat < 0:
        raise ValueError(f"repeat must be 0 or more, not {repeat}")
    greetings = []
    for number in range(1, repeat + 1):
        greetings.append(f"Hello, {name}! ({number})")
        print(greetings[-1])
        progress(number, repeat)
        time.sleep(delay_seconds)
    emit("greeted", name=name, times=repeat)
    return {"greetings": greetings, "count": len(greetings), "tags": tags or []}


if __name__ == "__main__":
    print(example_tool())
