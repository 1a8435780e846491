"""The same with a heavy import."""

import numpy  # noqa: F401

from tasks.probe import record as append


def record(path, sent):
    """Append when this began."""
    return append(path, sent)
