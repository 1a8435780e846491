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

    __slots__ = ("before", "code", "data", "device", "functions", "inode", "module", "name", "parent", "path", "tail")

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
        inner = [one.co_name for one in code.co_consts if type(one) is type(code)]
        self.functions = frozenset(filter(is_name, inner))  # may be asked for, if they are what their names say


def load(chain: "tuple[Armed, ...]") -> "Armed | None":
    """Import an armed module and its parents, outermost first. `None`: one is no longer as it was."""
    global executed
    for one in chain:
        # The file must be the very one, with these bytes, and none be there that would be found before it.
        if one.before is not None and access(one.before, F_OK):
            return None
        try:
            descriptor = open(one.path, O_RDONLY | O_CLOEXEC)
        except OSError:
            return None
        try:
            now = fstat(descriptor)
            if now.st_ino != one.inode or now.st_dev != one.device or read(descriptor, len(one.data) + 1) != one.data:
                return None
        finally:
            close(descriptor)
    modules = sys.modules
    for one in chain:
        if one.name in modules:
            continue
        # What `import` does: executed in `sys.modules`, then an attribute of its parent.
        executed += 1
        module, spec = one.module, one.module.__spec__
        modules[one.name] = module
        spec._initializing = True  # type: ignore[union-attr]  # for imports in a circle
        try:
            exec(one.code, module.__dict__)
        except BaseException:
            modules.pop(one.name, None)
            raise
        finally:
            spec._initializing = False  # type: ignore[union-attr]
        if one.parent is not None:
            setattr(modules[one.parent.name], one.tail, modules[one.name])
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
