"""Counts words in a text file: a tool whose `items_processed` rises while it runs, for it yields."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def word_count(path: str, top: int = 10) -> Iterator[dict[str, str | int]]:
    """Yield the `top` most frequent words of the UTF-8 file at `path`, the most frequent first."""
    if top < 1:
        raise ValueError(f"top must be 1 or more, not {top}")
    counts: Counter[str] = Counter()
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            counts.update(word.strip(".,;:!?()[]\"'").lower() for word in line.split())
    del counts[""]
    for word, count in counts.most_common(top):
        yield {"word": word, "count": count}
