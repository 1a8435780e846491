"""Targets made ready in the slot: compiled, their modules built, not executed. A fork looks whether they still hold.

A module is taken as armed only if its file is the same one with the same bytes and nothing went in front of it;
otherwise it is found and read like any other. Must not run code of the user's.
"""

import sys
from _frozen_importlib import module_from_spec
from posix import F_OK, O_CLOEXEC, O_RDONLY, access, close, fstat, listdir, open, read, stat

from .sources import ahead, compiled, inside, is_directory, is_file, is_name, read_whole, spec_of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    from .sources import Roots

# A slot starts the later the more it compiles (some 1 µs a byte), and every slot does.
_MOST = 100  # files
_LONGEST = 32 * 1024  # bytes of one
_ALL = 256 * 1024  # bytes of all


executed = 0  # modules that this process took as armed


class Armed:
    """One module, ready to be executed."""

    __slots__ = ("before", "code", "data", "device", "inode", "module", "name", "parent", "path", "tail")

    def __init__(self, name: str, path: str, data: bytes, code: "CodeType", parent: "Armed | None") -> None:
        self.name = name
        self.path = path
        self.data = data
        self.code = code
        self.parent = parent
        self.tail = name.rpartition(".")[2]
        # What would be found in its place if it were there: a package of the same name.
        package = path.endswith("/__init__.py")
        self.before = None if package else path[:-3] + "/__init__.py"
        spec = spec_of_file(name, path, [path[: -len("/__init__.py")]] if package else None)
        self.module: ModuleType = module_from_spec(spec)
        there = stat(path)
        self.device, self.inode = there.st_dev, there.st_ino

    def holds(self) -> bool:
        """Whether the file is still this one, with these bytes."""
        if self.before is not None and access(self.before, F_OK):
            return False
        try:
            descriptor = open(self.path, O_RDONLY | O_CLOEXEC)
        except OSError:
            return False
        try:
            now = fstat(descriptor)
            return (
                now.st_ino == self.inode
                and now.st_dev == self.device
                and read(descriptor, len(self.data) + 1) == self.data
            )
        finally:
            close(descriptor)

    def execute(self, modules: "dict[str, ModuleType]") -> None:
        """Make it what `import` would: executed, in `sys.modules`, an attribute of its parent."""
        global executed
        executed += 1
        spec = self.module.__spec__
        modules[self.name] = self.module
        spec._initializing = True  # type: ignore[union-attr]  # for imports in a circle
        try:
            exec(self.code, self.module.__dict__)
        except BaseException:
            modules.pop(self.name, None)
            raise
        finally:
            spec._initializing = False  # type: ignore[union-attr]
        if self.parent is not None:
            setattr(modules[self.parent.name], self.tail, modules[self.name])


def load(roots: "Roots", name: str) -> "Armed | None":
    """Import an armed module and its parents. `None`: it is not armed, or no longer as it was."""
    chain = roots.chains.get(name)
    if chain is None:
        return None
    for one in chain:
        if not one.holds():
            return None
    modules = sys.modules
    for one in chain:
        if one.name not in modules:
            one.execute(modules)
    return one


def arm(roots: "Roots", tools_package: str) -> None:
    """Make ready what there is room for under the roots. No fault is an error here: its run will tell."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a source that warns is left to its run, which shows the warning
        if roots.tools:
            for name, path in _sources(roots.tools):
                _arm_one(roots, f"{tools_package}.{name}", path, roots.tools, ())
        for name in roots.allowed:
            path = f"{roots.tasks}/{name}"
            if is_directory(path):
                _arm_package(roots, name, path, ())
            else:
                _arm_one(roots, name, f"{path}.py", roots.tasks, ())


def _arm_package(roots: "Roots", name: str, directory: str, above: "tuple[Armed, ...] | None") -> None:
    """A package with all that is in it. `above`: its parents; `None` if one of them could not be armed."""
    chain = _arm_one(roots, name, f"{directory}/__init__.py", roots.tasks, above)
    for module, path in _sources(directory):
        if module != "__init__":
            _arm_one(roots, f"{name}.{module}", path, roots.tasks, chain)
    for inner in _names(directory):
        path = f"{directory}/{inner}"
        if is_name(inner) and is_directory(path):
            _arm_package(roots, f"{name}.{inner}", path, chain)


def _arm_one(
    roots: "Roots", name: str, path: str, root: str, above: "tuple[Armed, ...] | None"
) -> "tuple[Armed, ...] | None":
    """Compile a source ahead and, if its parents are armed too, arm its module; the chain down to it."""
    if len(ahead) >= _MOST:
        return None
    try:
        if not is_file(path) or stat(path).st_size > min(_LONGEST, _ALL - _room_taken()):
            return None
        data = read_whole(path)
        code = compiled(data, path)
        ahead[path] = data, code
        if above is None or not inside(path, root) or not all(map(is_name, name.split("."))):
            return None
        chain = (*above, Armed(name, path, data, code, above[-1] if above else None))
    except Exception:
        return None
    roots.chains[name] = chain
    return chain


def _room_taken() -> int:
    return sum(len(data) for data, _ in ahead.values())


def _sources(directory: str) -> "list[tuple[str, str]]":
    """The modules in a directory: name and path."""
    return [(name[:-3], f"{directory}/{name}") for name in _names(directory) if name.endswith(".py")]


def _names(directory: str) -> "list[str]":
    try:
        return sorted(listdir(directory))
    except OSError:
        return []
