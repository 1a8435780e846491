"""The smallest complete tool: typed parameters, progress, an event, a result. Copy it to begin a new one."""

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


def example_tool(param1: str, param2: int = 10) -> dict[str, object]:
    """Process `param2` items on behalf of `param1`; the tool of the contract.

    Args:
        param1: who asks; printed with each item.
        param2: how many items there are (default 10).

    Returns:
        `items` (a list of `id` and `status`), `count`, and `success`.
    """
    if param2 < 0:
        raise ValueError(f"param2 must be 0 or more, not {param2}")
    results = []
    for i in range(param2):
        print(f"item {i} for {param1}")
        results.append({"id": i, "status": "done"})
        progress(i + 1, param2)
    emit("processed", for_whom=param1, items=param2)
    return {"items": results, "count": len(results), "success": True}


if __name__ == "__main__":
    print(example_tool("you", 3))
