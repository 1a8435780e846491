"""Does `site` leave anything in this interpreter that a run would miss? Asked once, at the executor's start.

`python3 -I -S …/executor_shim/site_effects.py SYS_PATH_JSON` prints a JSON list of what it leaves, each in a few words.
A `.pth` file may hold lines of code that every interpreter runs at its start. Some install a finder or a patch,
as editable installs do: slots must run them. Many only import something: then slots can do without. Anything that
is not surely nothing counts as something: that costs time, never behaviour.
"""

import importlib
import json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_FUNCTION = type(lambda: None)
_CODE = type((lambda: None).__code__)
_PLAIN = (type(None), bool, int, str, bytes)  # no float: that is a time
_BUILTINS_OF_SITE = frozenset(("copyright", "credits", "exit", "help", "license", "quit"))
_SYS_OF_SITE = frozenset(("path", "prefix", "exec_prefix", "_home", "__interactivehook__"))
_NOT_OURS = frozenset(("_distutils_hack",))  # the finder of setuptools, which only concerns installing


def _inside(value: "Any") -> "Any":
    """What tells a function or a class from another of the same name, patches included."""
    code = getattr(value, "__code__", None)
    if type(code) is _CODE:
        return ("function", code.co_filename, code.co_firstlineno, code.co_qualname)
    if isinstance(value, type):
        own = {
            name: _inside(item) if type(item) is _FUNCTION else type(item).__name__
            for name, item in vars(value).items()
            if not name.startswith(("__", "_abc"))
        }
        return ("class", value.__module__, value.__qualname__, own)
    return ("data", type(value).__name__)


def _shape(module: "ModuleType") -> "dict[str, Any]":
    standard = module.__name__.partition(".")[0] in sys.stdlib_module_names
    shape = {}
    for name, value in list(vars(module).items()):
        if name.startswith("__") or type(value) is type(sys):
            continue
        if standard and type(value) in _PLAIN:
            shape[name] = ("value", repr(value))
        elif type(value) is _FUNCTION or isinstance(value, type):
            shape[name] = _inside(value)
    return shape


def _state() -> "dict[str, Any]":
    """All that is not in a module's namespace."""
    import _signal  # type: ignore[import-not-found]
    import _socket
    import os

    return {
        "finders": [one for one in sys.meta_path if type(one).__module__ not in _NOT_OURS],
        "path hooks": list(sys.path_hooks),
        "environment": dict(os.environ),
        "hooks": [
            sys.excepthook,
            sys.displayhook,
            sys.unraisablehook,
            sys.breakpointhook,
            sys.gettrace(),
            sys.getprofile(),
        ],
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": os.listdir("/proc/self/fd"),
        "signals": [_signal.getsignal(number) for number in range(1, 65)],
        "timeout of sockets": _socket.getdefaulttimeout(),
        "warning filters": list(sys.modules["_warnings"].filters),
        "directory": os.getcwd(),
    }


def _objects(module: "ModuleType") -> "dict[str, Any]":
    return {name: value for name, value in vars(module).items() if type(value) is not type(sys)}


def effects() -> "list[str]":
    """Runs `site`, and says what it left."""
    import os  # noqa: F401  # what `site` itself imports is none of its effects
    import site

    audited: list[str] = []
    sys.addaudithook(lambda event, _: audited.append(event) if event == "sys.addaudithook" else None)
    before = dict(sys.modules)
    objects = {name: _objects(module) for name, module in before.items()}
    inner = {name: _shape(module) for name, module in before.items()}
    state = _state()
    site.main()
    left = [name for name, value in _state().items() if value != state[name]]
    left += ["an audit hook"] * len(audited)
    for name, module in before.items():
        if name in _NOT_OURS:
            continue
        now = _objects(module)
        changed = {key for key in now.keys() | objects[name].keys() if now.get(key) is not objects[name].get(key)}
        shape = _shape(module)
        changed |= {key for key in shape.keys() | inner[name].keys() if shape.get(key) != inner[name].get(key)}
        left += [f"{name}.{key}" for key in sorted(changed) if not _is_of_site(name, key)]
    return left + _changed_modules({name for name in sys.modules if name not in before and name not in _NOT_OURS})


def _is_of_site(module: str, name: str) -> bool:
    """What `site` itself sets, which slots provide (`runner.configure`) or can do without."""
    if module == "builtins":
        return name in _BUILTINS_OF_SITE
    return module == "site" or (module == "sys" and name in _SYS_OF_SITE)


def _changed_modules(names: "set[str]") -> "list[str]":
    """Modules that do not look as if they had just been imported."""
    imported = {name: sys.modules.pop(name) for name in sorted(names)}
    left = []
    for name, module in imported.items():
        if getattr(module, "__spec__", None) is not None:
            try:
                importlib.import_module(name)
            except BaseException as error:
                left.append(f"{name}, which cannot be imported again ({type(error).__name__})")
    for name, module in imported.items():
        fresh = sys.modules.get(name)
        if fresh is None:
            left.append(f"a module {name} made by hand")
        elif _shape(module) != _shape(fresh):
            left.append(f"something in {name}")
    return left


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])
    print("\n" + json.dumps(effects()))
