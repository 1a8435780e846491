"""Checks whether URLs answer, and how fast."""

import time
from concurrent.futures import ThreadPoolExecutor

from _http import request
from _reporting import emit, progress


def http_check(urls: list[str], timeout_seconds: float = 5.0, parallel: int = 8) -> dict[str, object]:
    """Ask each of `urls` once, up to `parallel` at a time, waiting `timeout_seconds` for each step of an answer.

    Needs nothing. Returns `items` in the order of `urls` (`url`, `up`, `status`, `latency_seconds`, `error`), `count`,
    `up` and `down`. A URL is up if the status is below 400, redirects followed. A bad URL is an item that is down,
    never an exception.
    """
    if timeout_seconds <= 0 or parallel < 1:
        raise ValueError("timeout_seconds must be more than 0, parallel 1 or more")
    items: list[dict[str, object]] = []
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        for item in pool.map(lambda url: _check(url, timeout_seconds), urls):
            items.append(item)
            progress(len(items), len(urls))
    up = sum(item["up"] is True for item in items)
    emit("urls_checked", count=len(items), up=up)
    return {"items": items, "count": len(items), "up": up, "down": len(items) - up}


def _check(url: str, timeout_seconds: float) -> dict[str, object]:
    started = time.monotonic()
    status, error = None, None
    try:
        # Of the body only one byte: it may be endless.
        status = request("GET", url, timeout_seconds=timeout_seconds, max_body_bytes=1).status
    except Exception as failure:  # whatever is wrong with one URL, the others are checked
        error = str(failure) or type(failure).__name__
    latency = round(time.monotonic() - started, 4)
    up = status is not None and status < 400
    return {"url": url, "up": up, "status": status, "latency_seconds": latency, "error": error}
