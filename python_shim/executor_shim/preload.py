"""Modules loaded ahead in the slot, so that runs find them there, and what runs had to load themselves.

An import costs a run more than all else (`import json, re, datetime`: 11 ms, loaded ahead 0.2 ms). Runs only name what
they loaded; the executor has it probed (`preload_probe.py`) and starts new slots. Must not decide what is loaded.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# A library that starts its threads at import would make the slot unfit to fork.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# What importing them does is their whole purpose.
_NEVER = frozenset(("antigravity", "this", "__main__", "executor_shim", "executor_tools", "executor_sample"))
_MOST = 500  # names a run tells of

_learn = "none"  # what runs tell of: `none`, `stdlib` or `auto`
loaded = 0  # modules in the slot
files: "list[tuple[str, Stamp]]" = []  # of modules loaded ahead that are the user's own, and how they were
_roots: "tuple[str, ...]" = ()

Stamp = tuple[int, int, int, int]


def configure(learn: str, roots: "tuple[str, ...]") -> None:
    """`roots`: how the paths of tools and tasks begin."""
    global _learn, _roots
    _learn, _roots = learn, roots


def load(names: "list[str]") -> None:
    """In the slot: import modules that were probed. One that fails here all the same is left out with a line."""
    global files
    with SingleThreaded(names):
        for name in names:
            fault = attempt(name)
            if fault:
                sys.stderr.write(f"executor_shim: {name} could not be loaded ahead: {fault}\n")
    files = [(file, _stamp(file)) for _, file in _own_modules()]


def settle() -> "Callable[[], bool] | None":
    """In the slot, before the first fork: what is loaded now is what a run finds. Its duties towards it, if any."""
    global loaded
    loaded = len(sys.modules)
    return _duties if files or "numpy.random" in sys.modules else None


def attempt(name: str) -> "str | None":
    """Import a module; what went wrong, in a line."""
    try:
        __import__(name)
    except BaseException as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


class SingleThreaded:
    """Has libraries loaded meanwhile make do with this thread, unless the user said how many they may have."""

    def __init__(self, names: "list[str]") -> None:
        self._set: list[str] = []
        self._wanted = any(not is_standard(name) for name in names)

    def __enter__(self) -> None:
        for name in _ONE_THREAD:
            if self._wanted and name not in os.environ:
                os.environ[name] = "1"
                self._set.append(name)

    def __exit__(self, *_: "Any") -> None:
        for name in self._set:
            del os.environ[name]


def is_standard(name: str) -> bool:
    """Whether it is a module of the standard library."""
    return name.partition(".")[0] in sys.stdlib_module_names


def is_own(file: "str | None") -> bool:
    """Whether a module's file is under the user's roots."""
    if not file or "/site-packages/" in file or "/dist-packages/" in file:
        return False
    return file.startswith(_roots)


def _own_modules() -> "list[tuple[str, str]]":
    if not _roots:
        return []
    files = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    return [(name, file) for name, file in files if file is not None and is_own(file)]


def _stamp(file: str) -> Stamp:
    try:
        stat = os.stat(file)
    except OSError:
        return (0, 0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev)


def _duties() -> bool:
    """In the run, before its target is loaded. Whether modules loaded ahead have changed."""
    if "numpy.random" in sys.modules:  # `random` sees to itself at a fork; the generator of numpy does not
        sys.modules["numpy.random"].seed()
    return forget_if_changed()


def forget_if_changed() -> bool:
    """If a module of the user's that was loaded ahead has changed since, all of them are as not loaded."""
    if not files or all(_stamp(file) == stamp for file, stamp in files):
        return False
    for name, _ in _own_modules():
        del sys.modules[name]
    return True


def news() -> "list[str]":
    """In the run, at its end: what it loaded that a slot could have loaded ahead, in order."""
    if _learn == "none":
        return []
    return [name for name in list(sys.modules)[loaded:] if _is_worth(name)][:_MOST]


def _is_worth(name: str) -> bool:
    top = name.partition(".")[0]
    if top in _NEVER:
        return False
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or getattr(spec, "name", None) != name:
        return False  # made by hand: it comes with the module that makes it
    if top in sys.stdlib_module_names:
        return True
    return _learn == "auto" and isinstance(spec.origin, str) and not is_own(spec.origin)
