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
from posix import O_CLOEXEC, O_RDONLY, close, fstat, listdir, lstat, open, read, stat
from posixpath import realpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import CodeType, ModuleType

_KIND, _FILE, _DIRECTORY, _LINK = 0o170000, 0o100000, 0o040000, 0o120000


# Sources compiled ahead by `compile_ahead`: path → the bytes, their code. Taken only for the very same bytes.
_ahead: "dict[str, tuple[bytes, CodeType]]" = {}
# A slot starts the later the more it compiles (some 1 µs a byte), and every slot does.
_MOST_AHEAD = 100  # files
_LONGEST_AHEAD = 32 * 1024  # bytes of one
_ALL_AHEAD = 256 * 1024  # bytes of all


class SourceLoader(SourceFileLoader):
    """Compiles the bytes of the source itself."""

    def get_code(self, fullname: str) -> "CodeType":
        """The code of the module, from its source alone."""
        path = self.path
        data = _read(path)
        known = _ahead.get(path)
        if known is not None and known[0] == data:
            return known[1]
        return _compiled(data, path)


def compile_ahead(roots: "Roots", first: str) -> None:
    """In the process that forks the runs: compile what they may ask for. Runs nothing, and no fault is an error."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a source that warns is left to its run, which shows the warning
        _compile_one(first)
        _compile_all(roots)


def _compile_all(roots: "Roots") -> None:
    left = _ALL_AHEAD
    todo = [(roots.tools, False), *((f"{roots.tasks}/{name}", True) for name in roots.allowed)]
    while todo:
        directory, deep = todo.pop(0)
        try:
            names = sorted(listdir(directory))
        except OSError:
            continue
        for name in names:
            path = f"{directory}/{name}"
            if name.endswith(".py"):
                left -= _compile_one(path)
                if left < _LONGEST_AHEAD or len(_ahead) >= _MOST_AHEAD:
                    return
            elif deep and name.isidentifier() and not name.startswith("_") and _has_kind(path, _DIRECTORY):
                todo.append((path, deep))


def _compile_one(path: str) -> int:
    """Bytes compiled."""
    try:
        if not is_file(path) or stat(path).st_size > _LONGEST_AHEAD:
            return 0
        data = _read(path)
        _ahead[path] = data, _compiled(data, path)
        return len(data)
    except Exception:
        return 0  # its run will tell


def _compiled(data: bytes, path: str) -> "CodeType":
    return compile(data, path, "exec", dont_inherit=True)


def _read(path: str) -> bytes:
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

    def __init__(self, tasks: str, tools: str, allowed: "tuple[str, ...]") -> None:
        self.tasks = tasks
        self.tools = tools
        self.allowed = allowed
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
        if _has_kind(base, _DIRECTORY):
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


def is_file(path: str) -> bool:
    """Whether `path` is a regular file, links followed."""
    return _has_kind(path, _FILE)


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
