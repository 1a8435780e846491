"""Modules of the user's, compiled anew from their source in every run.

Under `TOOLS_PATH`, and for allowed names under `TASKS_PATH`, no `.pyc` is read or written: one of the same second and
size as an edited source would be taken for it. Allowed names are looked up in `TASKS_PATH` first, and only these.
"""

import sys
from _frozen_importlib import ModuleSpec, module_from_spec
from _frozen_importlib_external import (
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from _imp import extension_suffixes
from posix import O_CLOEXEC, O_RDONLY, close, fstat, lstat, open, read, stat
from posixpath import realpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import CodeType, ModuleType
    from typing import Any

    from .armed import Armed

_KIND, _FILE, _DIRECTORY, _LINK = 0o170000, 0o100000, 0o040000, 0o120000


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME = _LETTERS | frozenset("0123456789_")

# Sources compiled ahead (`armed.py`): path → the bytes, their code. Taken only for the very same bytes.
ahead: "dict[str, tuple[bytes, CodeType]]" = {}


class SourceLoader(SourceFileLoader):
    """Compiles the bytes of the source itself."""

    def get_code(self, fullname: str) -> "CodeType":
        """The code of the module, from its source alone."""
        path = self.path
        data = read_whole(path)
        known = ahead.get(path)
        if known is not None and known[0] == data:
            return known[1]
        return compiled(data, path)


def compiled(data: bytes, path: str) -> "CodeType":
    """The code of a source, whatever flags this file was compiled with."""
    return compile(data, path, "exec", dont_inherit=True)


def read_whole(path: str) -> bytes:
    """All bytes of a file, to its end."""
    descriptor = open(path, O_RDONLY | O_CLOEXEC)
    try:
        data = read(descriptor, fstat(descriptor).st_size + 1)
        part = data
        while part:  # until the end is seen
            part = read(descriptor, 65536)
            data += part
        return data
    finally:
        close(descriptor)


def load_chain(specs: "list[ModuleSpec]") -> None:
    """Import modules and their parents, found by `locate`, in order: what `import` does, without a second search."""
    parent: ModuleType | None = None
    for spec in specs:
        name = spec.name
        if name not in sys.modules:
            if spec.loader is None:
                __import__(name)  # a directory without `__init__.py`
            else:
                _load(spec, spec.loader)
                if parent is not None:
                    setattr(parent, name.rpartition(".")[2], sys.modules[name])
        parent = sys.modules[name]


def _load(spec: ModuleSpec, loader: "Loader") -> None:
    module = module_from_spec(spec)
    spec._initializing = True  # type: ignore[attr-defined]  # for imports in a circle
    sys.modules[spec.name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
    finally:
        spec._initializing = False  # type: ignore[attr-defined]


class Roots:
    """Where the code of users is."""

    # Without a dictionary: on one page, which a run writes to anyway.
    __slots__ = ("allowed", "chains", "executed", "fresh", "tasks", "tools")

    def __init__(self, tasks: str, tools: str, allowed: "tuple[str, ...]") -> None:
        self.tasks = tasks
        self.tools = tools
        self.allowed = allowed
        self.chains: dict[str, tuple[Armed, ...]] = {}  # armed modules with their parents, outermost first
        self.executed = 0  # modules that this process took as armed
        self.fresh = ""  # the target's module: compiled anew wherever it is

    def hook(self, path: str) -> "FileFinder":
        """For `sys.path_hooks`: how modules in the directory `path` are found, if it is one of ours."""
        if not self.is_ours(path):
            raise ImportError("not a directory of tools or tasks", path=path)
        return FileFinder(path, (ExtensionFileLoader, extension_suffixes()), (SourceLoader, [".py"]))

    def is_ours(self, path: str) -> bool:
        """Whether modules in the directory `path` are to be compiled anew."""
        if path in (self.tasks, self.tools):
            return True
        if "/site-packages" in path or "/dist-packages" in path:
            return False  # a virtual environment inside a root is no code of the user's
        if path.startswith(self.tools.rstrip("/") + "/"):
            return True
        base = self.tasks.rstrip("/") + "/"
        return path.startswith(base) and path[len(base) :].partition("/")[0] in self.allowed


class SourceFinder:
    """First on `sys.meta_path`: finds allowed modules in `TASKS_PATH`, and the target's module anew anywhere."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """See `importlib.abc.MetaPathFinder`."""
        roots = self._roots
        top, _, below = name.partition(".")
        if top == "executor_tools" and path is not None:
            return _direct(name, path)
        if top not in roots.allowed:
            return None
        if not below:
            spec = _direct(name, (roots.tasks,))
        else:
            spec = _direct(name, [entry for entry in path or () if roots.is_ours(entry)])
        if spec is None and name == roots.fresh:
            spec = _anew(_installed(name, path))
        return spec


def locate(roots: Roots, name: str) -> "tuple[str, list[ModuleSpec]] | None":
    """The directory that holds the allowed module `name`, and the specs of its parents and itself.

    Runs nothing for what is under `TASKS_PATH`; of an installed package it imports the parents.
    """
    parts = name.split(".")
    specs: list[ModuleSpec] = []
    places: Sequence[str] = (roots.tasks,)
    for depth in range(1, len(parts) + 1):
        spec = _direct(".".join(parts[:depth]), places)
        if spec is None:
            return _locate_installed(name) if depth == 1 else None
        specs.append(spec)
        places = spec.submodule_search_locations or ()
    return roots.tasks, specs


def _locate_installed(name: str) -> "tuple[str, list[ModuleSpec]] | None":
    parts = name.split(".")
    specs: list[ModuleSpec] = []
    path: list[str] | None = None
    for depth in range(1, len(parts) + 1):
        prefix = ".".join(parts[:depth])
        spec = _installed(prefix, path)
        if spec is None:
            return None
        specs.append(spec)
        if depth < len(parts):
            __import__(prefix)
            path = list(getattr(sys.modules[prefix], "__path__", ()))
            if not path:
                return None
    places = specs[0].submodule_search_locations
    root = places[0] if places else str(specs[0].origin).rpartition("/")[0]
    return root, specs


def _installed(name: str, path: "Sequence[str] | None") -> "ModuleSpec | None":
    for finder in sys.meta_path:
        if not isinstance(finder, SourceFinder):
            spec = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None


def _direct(name: str, path: "Sequence[str]") -> "ModuleSpec | None":
    """Like `PathFinder`, for sources alone, without reading whole directories."""
    tail = name.rpartition(".")[2]
    namespace = []
    for entry in path:
        base = f"{entry.rstrip('/')}/{tail}"
        if is_file(f"{base}/__init__.py"):
            return spec_of_file(name, f"{base}/__init__.py", [base])
        if is_file(f"{base}.py"):
            return spec_of_file(name, f"{base}.py")
        if is_directory(base):
            namespace.append(base)
    if not namespace:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = namespace
    return spec


def spec_of_file(name: str, path: str, locations: "list[str] | None" = None) -> ModuleSpec:
    """The spec of a module in the source `path`; of a package with `locations`."""
    spec = ModuleSpec(name, SourceLoader(name, path), origin=path, is_package=locations is not None)
    spec.submodule_search_locations = locations
    spec.has_location = True
    return spec


def _anew(spec: "ModuleSpec | None") -> "ModuleSpec | None":
    if spec is not None and type(spec.loader) is SourceFileLoader and spec.origin:
        spec.loader = SourceLoader(spec.name, spec.origin)
    return spec


def is_name(part: "Any") -> bool:
    """Whether `part` is an ASCII identifier without leading underscore, as all parts of a target must be."""
    return isinstance(part, str) and part[:1] in _LETTERS and _NAME.issuperset(part)


def is_file(path: str) -> bool:
    """Whether `path` is a regular file, links followed."""
    return _has_kind(path, _FILE)


def is_directory(path: str) -> bool:
    """Whether `path` is a directory, links followed."""
    return _has_kind(path, _DIRECTORY)


def _has_kind(path: str, kind: int) -> bool:
    try:
        return stat(path).st_mode & _KIND == kind
    except (OSError, ValueError):
        return False


def inside(path: str, root: str) -> bool:
    """Whether `path`, with all links followed, is under `root`, with all links followed."""
    base = root.rstrip("/") + "/"
    if path.startswith(base):
        # Without a link below the root there is nothing to follow.
        here = base[:-1]
        for part in path[len(base) :].split("/"):
            here = f"{here}/{part}"
            if part in ("", ".", "..") or lstat(here).st_mode & _KIND == _LINK:
                break
        else:
            return True
    return f"{realpath(path)}/".startswith(realpath(root).rstrip("/") + "/")
