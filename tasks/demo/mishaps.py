"""One mishap each: `make demo` shows what becomes of them."""

import time


def fails(customer_id: int) -> None:
    """Raise, with a cause."""
    portals: dict[int, str] = {}
    try:
        print(portals[customer_id])
    except KeyError as error:
        raise RuntimeError(f"no portal is configured for customer {customer_id}") from error


def hangs() -> None:
    """Never return."""
    print("waiting for something that never comes")
    while True:
        time.sleep(60)


def segfaults() -> None:
    """Read from address 0."""
    import ctypes

    ctypes.string_at(0)
