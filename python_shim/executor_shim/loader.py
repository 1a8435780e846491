"""A target → the callable it names, or the exact reason why not.

What can be refused by name alone is refused before anything is imported, the rest before anything is called. Must
not call the target. The allow-list decides which code starts; it cannot bound what that code does.
"""

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import SourceFileLoader
from posix import getcwd

from . import armed
from .armed import load as load_armed
from .errors import Unfit
from .sources import Roots, SourceFinder, inside, is_file, is_name, load_chain, locate, spec_of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType, ModuleType
    from typing import Any

TOOLS_PACKAGE = "executor_tools"  # tools are its modules, so that none can pass for a library

_FUNCTION = type(lambda: None)
SAMPLE_ROOTS = Roots(__file__.rpartition("/")[0], "", ("executor_sample",))  # of the shim's own module
roots = Roots("", "", ())  # those of the configuration


class Found:
    """What a target names: `function` is called (or made ready to be), `name` is for people."""

    __slots__ = ("cls", "function", "kind", "name")

    def __init__(self, name: str, function: "Any", cls: "type | None" = None, kind: str = "function") -> None:
        self.name = name
        self.function = function
        self.cls = cls  # only for the method of an instance, which is made when it is called
        self.kind = kind

    def bound(self) -> "Callable[..., Any]":
        """The callable itself; makes the instance a method needs, which runs code of the user's."""
        if self.cls is None:
            return self.function  # type: ignore[no-any-return]
        return self.function.__get__(self.cls(), self.cls)  # type: ignore[no-any-return]


def configure(tasks_path: str, tools_path: str, allowed: "list[str]") -> None:
    """Say where targets are. Once per process, before any code of the user's runs."""
    global roots
    roots = Roots(_absolute(tasks_path), _absolute(tools_path), tuple(allowed))
    for path in (roots.tasks, roots.tools):
        if path not in sys.path:
            sys.path.append(path)
    sys.path_hooks.insert(0, roots.hook)
    sys.path_importer_cache.clear()
    sys.meta_path.insert(0, SourceFinder(roots))


def arm() -> None:
    """In a process that forks the runs: make ready what they may ask for, without running it."""
    sys.modules[TOOLS_PACKAGE] = _package(TOOLS_PACKAGE, roots.tools)
    armed.arm((SAMPLE_ROOTS, roots), TOOLS_PACKAGE)


def own_paths() -> "tuple[str, ...]":
    """How the paths of the user's modules begin."""
    tasks = [f"{roots.tasks.rstrip('/')}/{name}{end}" for name in roots.allowed for end in ("/", ".py")]
    return (f"{roots.tools.rstrip('/')}/", *tasks)


def ordinary(
    roots: Roots, name: str, cls: "str | None", function: "str | None", given: "dict[str, Any]"
) -> "FunctionType | None":
    """Import the module of a target; its function, if module, function and parameters are of the usual kind.

    The usual kind is an armed module, a plain function defined in it, and every parameter given, each of the very type
    that its annotation names. `None`: `load` and `parameters.check` have a closer look.
    """
    chains = roots.chains
    path = name if function is not None else f"{TOOLS_PACKAGE}.{name}"
    if cls is not None or path not in chains:
        return None
    one = chains[path][-1]
    wanted = function if function is not None else name if name in one.functions else "run"
    if wanted not in one.functions:
        return None
    executed = load_armed(chains[path])
    if executed is None:
        return None
    roots.executed += executed
    names = one.names
    if sys.modules[path] is not one.module or wanted not in names:
        return None
    found: Any = names[wanted]
    code, takes = one.functions[wanted]
    if (
        type(found) is not _FUNCTION
        or found.__code__ is not code
        or found.__module__ != one.name
        or found.__dict__  # perhaps a wrapper
        or (function is None and wanted != name and name in names)
        or len(given) != len(takes)
    ):
        return None
    if given:
        try:
            annotations = found.__annotations__
        except Exception:  # evaluated only now, and it cannot be
            return None
        for key in given:  # without `items()`: a method is a page
            if key not in takes or (key in annotations and annotations[key] is not type(given[key])):
                return None
    return found  # type: ignore[return-value]


def load(roots: Roots, name: "Any", cls: "str | None", function: "str | None") -> Found:
    """Import the module of a target (a tool, if it names no function) and find its callable.

    Raises `Unfit`, or what the module raises.
    """
    if function is None:
        return _load_tool(roots, name)
    return _load_callable(roots, name, cls, function)


def _absolute(path: str) -> str:
    path = path if path.startswith("/") else f"{getcwd()}/{path}"
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


def _check_name(part: "Any", whole: str) -> None:
    if not is_name(part):
        raise Unfit(
            "ModuleNotAllowedError",
            f"{whole} is not allowed: {part!r} is no ASCII identifier without leading underscore",
        )


# --- tools -----------------------------------------------------------------------------------------------------


def _load_tool(roots: Roots, name: str) -> Found:
    _check_name(name, f"tool {name!r}")
    path = f"{roots.tools}/{name}.py"
    module = _import_armed(roots, f"{TOOLS_PACKAGE}.{name}") or _import_tool(roots, name, path)
    names = module.__dict__
    for function_name in (name, "run"):
        found = names.get(function_name)
        if callable(found) and not isinstance(found, type):
            _check_defined(found, module, f"{name}.{function_name}")
            return Found(f"{name}.{function_name}", found)
    raise _no_callable(name, f"Define `{name}` or `run` in {path}.")


def _import_tool(roots: Roots, name: str, path: str) -> "ModuleType":
    if not is_file(path):
        raise Unfit("ToolNotFoundError", f"Tool not found: {name}")
    if not inside(path, roots.tools):
        raise Unfit("ModuleNotAllowedError", f"Tool {name} is not allowed: its file is a link out of TOOLS_PATH")
    if TOOLS_PACKAGE not in sys.modules:
        sys.modules[TOOLS_PACKAGE] = _package(TOOLS_PACKAGE, roots.tools)
    full_name = f"{TOOLS_PACKAGE}.{name}"
    return _import(full_name, [spec_of_file(full_name, path)])


def _no_callable(what: str, hint: str) -> Unfit:
    return Unfit("ToolError", f"Tool {what} has no callable function", hint)


def _package(name: str, path: str) -> "ModuleType":
    module = type(sys)(name)
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [path]
    module.__spec__ = spec
    module.__path__ = spec.submodule_search_locations
    module.__package__ = name
    return module


# --- callables in allowed modules ------------------------------------------------------------------------------


def _load_callable(roots: Roots, module_name: str, class_name: "str | None", function_name: str) -> Found:
    whole = f"{module_name}:{class_name}.{function_name}" if class_name else f"{module_name}:{function_name}"
    if module_name in roots.chains:
        _check_name(function_name, whole)  # the module's own name is one that was armed
    else:
        _check_module_name(roots, module_name, whole)
        _check_name(function_name, whole)
    if class_name is not None:
        _check_name(class_name, whole)
    module = _import_armed(roots, module_name) or _import(module_name, _checked_place(roots, module_name, whole))
    if class_name is None:
        found = module.__dict__.get(function_name)
        if not callable(found) or isinstance(found, type):
            raise _no_callable(whole, f"Define `{function_name}` in {module.__file__}.")
        _check_defined(found, module, whole)
        return Found(whole, found)
    return _find_method(roots, module, class_name, function_name, whole)


def _check_module_name(roots: Roots, name: str, whole: str) -> None:
    parts = str(name).split(".")
    for part in parts:
        _check_name(part, whole)
    if parts[0] not in roots.allowed:
        raise Unfit(
            "ModuleNotAllowedError",
            f"{whole} is not allowed: {parts[0]} is not among ALLOWED_MODULES ({', '.join(roots.allowed)})",
        )


def _checked_place(roots: Roots, name: str, whole: str) -> "list[ModuleSpec]":
    """Where the module and its parents are; refused if a file is missing or a link out of its root.

    Of an installed package nothing is said, as it is found in more ways than one.
    """
    roots.fresh = name
    place = locate(roots, name)
    if place is None or not place[1][-1].has_location:
        raise Unfit("ToolNotFoundError", f"Tool not found: {name}")
    root, specs = place
    for spec in specs:
        path = spec.origin if spec.has_location else next(iter(spec.submodule_search_locations or ()), None)
        if path is None or not inside(path, root):
            raise Unfit("ModuleNotAllowedError", f"{whole} is not allowed: {spec.name} is a link out of {root}")
    return specs if root == roots.tasks else []


def _find_method(roots: Roots, module: "ModuleType", class_name: str, name: str, whole: str) -> Found:
    cls = module.__dict__.get(class_name)
    if cls is None:
        raise _no_callable(whole, f"Define `{name}` in a class `{class_name}` in {module.__file__}.")
    if not isinstance(cls, type) or cls.__module__ != module.__name__:
        raise Unfit(
            "ModuleNotAllowedError",
            f"{whole} is not allowed: {class_name} is not a class defined in {module.__name__}",
        )
    for owner in cls.__mro__:
        if name in owner.__dict__:
            break
    else:
        raise _no_callable(whole, f"Define `{name}` in a class `{class_name}` in {module.__file__}.")
    home = sys.modules.get(owner.__module__)
    if home is None or owner.__module__.partition(".")[0] not in roots.allowed:
        raise Unfit(
            "ModuleNotAllowedError",
            f"{whole} is not allowed: it is inherited from {owner.__module__}.{owner.__qualname__}",
        )
    raw = owner.__dict__[name]
    if isinstance(raw, staticmethod):
        _check_defined(raw.__func__, home, whole)
        return Found(whole, raw.__func__, kind="static method")
    if isinstance(raw, classmethod):
        _check_defined(raw.__func__, home, whole)
        return Found(whole, raw.__get__(None, cls), kind="class method")
    if not callable(raw) or isinstance(raw, type) or not hasattr(raw, "__get__"):
        raise _no_callable(whole, f"Define `{name}` in a class `{class_name}` in {module.__file__}.")
    _check_defined(raw, home, whole)
    return Found(whole, raw, cls, kind="method")


def _check_defined(found: "Any", module: "ModuleType", whole: str) -> None:
    """Refuse what is not defined in that very module, looking through `functools.wraps`."""
    function = found
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        wrapped = getattr(function, "__dict__", {}).get("__wrapped__")
        if wrapped is None:
            break
        function = wrapped
    if (
        type(function) is _FUNCTION
        and function.__module__ == module.__name__
        and function.__code__.co_filename == module.__file__
    ):
        return
    home = getattr(function, "__module__", None) or type(function).__module__
    raise Unfit(
        "ModuleNotAllowedError",
        f"{whole} is not allowed: it is not a function defined in {module.__name__} but comes from {home}",
    )


def _import_armed(roots: Roots, name: str) -> "ModuleType | None":
    chain = roots.chains.get(name)
    executed = load_armed(chain) if chain else None
    if chain is None or executed is None:
        return None
    roots.executed += executed
    module = sys.modules[name]
    return module if module is chain[-1].module else _plain(module, name)


def _import(name: str, specs: "list[ModuleSpec]") -> "ModuleType":
    if specs:
        load_chain(specs)
    else:
        __import__(name)
    return _plain(sys.modules[name], name)


def _plain(module: "ModuleType", name: str) -> "ModuleType":
    """Refuses what a module has put in its own place: nothing of it could be checked."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if type(module) is not type(sys) or not isinstance(loader, SourceFileLoader):
        raise Unfit("ModuleNotAllowedError", f"{name} is not allowed: it is no plain module read from its source")
    return module
