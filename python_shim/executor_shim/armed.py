"""Targets made ready in the slot: compiled, their modules built, not executed. A run looks whether they still hold.

A module is taken as armed only if its file is the same one with the same bytes and nothing went in front of it;
otherwise it is found and read like any other. Must not run code of the user's.
"""

import marshal
import sys
from _frozen_importlib import module_from_spec
from posix import (
    F_OK,
    O_CLOEXEC,
    O_RDONLY,
    _exit,
    access,
    close,
    fork,
    fstat,
    listdir,
    open,
    pipe,
    read,
    stat,
    waitpid,
    write,
)

from .sources import ahead, compiled, inside, is_directory, is_file, is_name, read_whole, spec_of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, ModuleType

    from .sources import Roots

    # The number of its roots, its name, path and root, its parent's name, its source and code.
    Compiled = tuple[int, str, str, str, str, bytes, CodeType]

# A slot starts the later the more it compiles (some 1 µs a byte), and every slot does.
_MOST = 100  # files
_LONGEST = 32 * 1024  # bytes of one
_ALL = 256 * 1024  # bytes of all
_PACKAGES = 200  # directories looked through, outer ones first: links may lead in circles


_READ = O_RDONLY | O_CLOEXEC
# Functions that take other things than parameters by name are left to a closer look: `*`, `**`.
_VARIADIC = 0x0C


class Armed:
    """One module, ready to be executed."""

    __slots__ = (
        "before",
        "code",
        "data",
        "device",
        "functions",
        "inode",
        "module",
        "name",
        "names",
        "parent",
        "path",
        "spec",
        "tail",
    )

    def __init__(self, name: str, path: str, data: bytes, code: "CodeType", parent: "Armed | None") -> None:
        self.name = sys.intern(name)
        self.path = path
        self.data = data
        self.code = code
        self.parent = parent
        self.tail = sys.intern(name.rpartition(".")[2])
        # What would be found in its place if it were there: a package of the same name.
        package = path.endswith("/__init__.py")
        self.before = None if package else path[:-3] + "/__init__.py"
        self.spec = spec_of_file(name, path, [path[: -len("/__init__.py")]] if package else None)
        self.module: ModuleType = module_from_spec(self.spec)
        self.names = self.module.__dict__
        self.names["__builtins__"] = __builtins__  # as `exec` would
        there = stat(path)
        self.device, self.inode = there.st_dev, there.st_ino
        # What may be asked for, if its name still means it then: code, and names of its parameters.
        self.functions = {
            one.co_name: (one, one.co_varnames[: one.co_argcount])
            for one in code.co_consts
            if type(one) is type(code) and _is_plain(one)
        }


def _is_plain(code: "CodeType") -> bool:
    """Whether it is a function's that takes all its parameters by name."""
    odd = code.co_flags & _VARIADIC or code.co_posonlyargcount or code.co_kwonlyargcount
    return not odd and is_name(code.co_name)


def load(chain: "tuple[Armed, ...]") -> "int | None":
    """Import an armed module and its parents, outermost first; how many were new. `None`: one is not as it was."""
    for one in chain:
        # The file must be the very one, with these bytes, and none be there that would be found before it.
        if one.before is not None and access(one.before, F_OK):
            return None
        try:
            descriptor = open(one.path, _READ)
        except OSError:
            return None
        try:
            now = fstat(descriptor)  # by number: names are looked up on pages of their own
            if now[1] != one.inode or now[2] != one.device or read(descriptor, len(one.data) + 1) != one.data:
                return None
        finally:
            close(descriptor)
    modules = sys.modules
    executed = 0
    for one in chain:
        if one.name in modules:
            continue
        # What `import` does: executed in `sys.modules`, then an attribute of its parent.
        executed += 1
        modules[one.name] = one.module
        one.spec._initializing = True  # type: ignore[attr-defined]  # for imports in a circle
        try:
            exec(one.code, one.names)
        except BaseException:
            modules.pop(one.name, None)
            raise
        finally:
            one.spec._initializing = False  # type: ignore[attr-defined]
        if one.parent is not None:
            setattr(modules[one.parent.name], one.tail, modules[one.name])
    return executed


def arm(all_roots: "tuple[Roots, ...]", tools_package: str) -> None:
    """Make ready what there is room for under the roots. No fault is an error here: its run will tell."""
    for number, name, path, root, parent, data, code in _compiled_aside(all_roots, tools_package):
        ahead[path] = data, code
        roots = all_roots[number]
        above = roots.chains.get(parent) if parent else ()
        try:
            if above is not None and inside(path, root) and all(map(is_name, name.split("."))):
                roots.chains[name] = (*above, Armed(name, path, data, code, above[-1] if above else None))
        except OSError:
            continue  # it is gone again


def _compiled_aside(all_roots: "tuple[Roots, ...]", tools_package: str) -> "list[Compiled]":
    """What can be compiled under the roots, found and compiled by a fork.

    Compiling leaves its process with twice the memory, and every run would pay for each page of it.
    """
    try:
        ours, theirs = pipe()
        pid = fork()
        if not pid:
            try:
                close(ours)  # or it would wait for ever to tell a slot that is gone
                made = marshal.dumps(_compiled(all_roots, tools_package))
                while made:
                    made = made[write(theirs, made) :]
            finally:
                _exit(0)
        close(theirs)
        pieces = []
        while piece := read(ours, 65536):
            pieces.append(piece)
        close(ours)
        waitpid(pid, 0)
        return marshal.loads(b"".join(pieces))  # type: ignore[no-any-return]
    except (OSError, EOFError, ValueError, TypeError) as error:
        sys.stderr.write(f"executor_shim: nothing is compiled ahead, runs do it: {type(error).__name__}: {error}\n")
        return []


def _compiled(all_roots: "tuple[Roots, ...]", tools_package: str) -> "list[Compiled]":
    import warnings

    warnings.simplefilter("error")  # a source that warns is left to its run, which shows the warning
    made: list[Compiled] = []
    room = _ALL
    for number, roots in enumerate(all_roots):
        for name, path, root, parent in _found(roots, tools_package):
            if len(made) >= _MOST:
                return made
            try:
                if is_file(path) and stat(path).st_size <= min(_LONGEST, room):
                    data = read_whole(path)
                    made.append((number, name, path, root, parent, data, compiled(data, path)))
                    room -= len(data)
            except Exception:
                continue
    return made


def _found(roots: "Roots", tools_package: str) -> "Iterator[tuple[str, str, str, str]]":
    """What might be armed, parents first: name, path, the root it must be in, and the name of its parent."""
    if roots.tools:
        for name, path in _sources(roots.tools):
            yield f"{tools_package}.{name}", path, roots.tools, ""
    packages = []
    for name in roots.allowed:
        path = f"{roots.tasks}/{name}"
        if is_directory(path):
            packages.append((name, path, ""))
        else:
            yield name, f"{path}.py", roots.tasks, ""
    for _ in range(_PACKAGES):
        if not packages:
            return
        package, directory, parent = packages.pop(0)
        yield package, f"{directory}/__init__.py", roots.tasks, parent
        for module, path in _sources(directory):
            if module != "__init__":
                yield f"{package}.{module}", path, roots.tasks, package
        for name in filter(is_name, _names(directory)):
            if is_directory(f"{directory}/{name}"):
                packages.append((f"{package}.{name}", f"{directory}/{name}", package))


def _sources(directory: str) -> "list[tuple[str, str]]":
    """The modules in a directory: name and path."""
    return [(name[:-3], f"{directory}/{name}") for name in _names(directory) if name.endswith(".py")]


def _names(directory: str) -> "list[str]":
    try:
        return sorted(listdir(directory))
    except OSError:
        return []
