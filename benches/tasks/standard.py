"""The same with eight ordinary imports."""

import collections  # noqa: F401
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import json  # noqa: F401
import logging  # noqa: F401
import pathlib  # noqa: F401
import re  # noqa: F401
import typing  # noqa: F401

from tasks.probe import record as append


def record(path, sent):
    """Append when this began."""
    return append(path, sent)
