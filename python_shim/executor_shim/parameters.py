"""Whether parameters fit a callable: its signature, and the plain annotations of it.

Must not call anything of the user's but annotations given as text. Plain are `int`, `float`, `str`, `bool`, `list`,
`dict` and `Optional` of them; all others are not looked at.
"""

from .errors import Unfit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FUNCTION = type(lambda: None)
_VARIADIC_NAMES = 0x08
_PLAIN = (int, float, str, bool, list, dict)
_JSON_NAMES = {"NoneType": "null"}


class _Example:
    def method(self) -> None: ...


_METHOD: "Any" = type(_Example().method)


class Shape:
    """The parameters a callable takes by name."""

    __slots__ = ("any_name", "defaults", "names", "positional", "required")

    def __init__(
        self,
        names: "tuple[str, ...]",
        required: "tuple[str, ...]",
        positional: "tuple[str, ...]",
        defaults: "dict[str, Any]",
        any_name: "Any",
    ) -> None:
        self.names = names
        self.required = required  # among them positional ones, which cannot be given at all
        self.positional = positional
        self.defaults = defaults
        self.any_name = bool(any_name)


def check(function: "Any", parameters: "dict[str, Any]", name: str) -> None:
    """Raise `Unfit` with one line that names the parameter and what would fit."""
    shape = _shape(function)
    if shape is None:
        return
    fault = _names_fault(shape, parameters, function) or _types_fault(shape, parameters, function)
    if fault:
        raise Unfit("InvalidParametersError", f"{name}: {fault}")


def check_instance(cls: type, name: str) -> None:
    """Raise `Unfit` if no instance of `cls`, whose method `name` is wanted, can be made without arguments."""
    fault = _zero_arguments_fault(cls)
    if fault:
        raise Unfit("ToolError", f"{name}: {cls.__qualname__} cannot be made without arguments: {fault}")


def _zero_arguments_fault(cls: type) -> str | None:
    """Why an instance of `cls` cannot be made without arguments; `None` if it can."""
    abstract = getattr(cls, "__abstractmethods__", None)
    if abstract:
        return f"its method {', '.join(sorted(abstract))} is abstract"
    if type(cls) is type and getattr(cls, "__new__", None) is object.__new__:
        init: Any = getattr(cls, "__init__", None)
        if init is object.__init__:
            return None
        if type(init) is _FUNCTION and not init.__dict__:
            code = init.__code__
            if code.co_argcount == 1 and not code.co_kwonlyargcount:
                return None
    import inspect

    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        return str(error)
    except ValueError:
        return None  # no signature to be had: trying is the only way
    return None


def _names_fault(shape: Shape, parameters: "dict[str, Any]", function: "Any") -> str | None:
    for key in parameters:
        if key in shape.positional and not shape.any_name:
            return f"parameter {key!r} is positional-only and cannot be given by name"
        if key not in shape.names and not shape.any_name:
            takes = f"it takes {', '.join(shape.names)}" if shape.names else "it takes no parameters"
            return f"unexpected parameter {key!r}; {takes}"
        if shape.any_name and type(function) is _METHOD and key == _first_name(function):
            return f"unexpected parameter {key!r}; it is the instance's own"
    for key in shape.required:
        if key in shape.positional:
            return f"parameter {key!r} is positional-only, but parameters are given by name"
        if key not in parameters:
            wanted = _plain_of(_annotation(function, key))
            return f"missing parameter {key!r}" + (f" ({wanted[0].__name__})" if wanted else "")
    return None


def _types_fault(shape: Shape, parameters: "dict[str, Any]", function: "Any") -> str | None:
    for key, value in parameters.items():
        if key not in shape.names:
            continue
        wanted = _plain_of(_annotation(function, key))
        if wanted is None:
            continue
        plain, optional = wanted
        if value is None and (optional or shape.defaults.get(key, key) is None):
            continue
        if not _fits(value, plain):
            given = _JSON_NAMES.get(type(value).__name__, type(value).__name__)
            return f"parameter {key!r} must be {plain.__name__}{' or null' if optional else ''}, not {given}"
    return None


def _fits(value: "Any", plain: type) -> bool:
    if isinstance(value, bool):
        return plain is bool
    return isinstance(value, (int, float) if plain is float else plain)


# --- the signature ---------------------------------------------------------------------------------------------


def _shape(function: "Any") -> Shape | None:
    inner = function.__func__ if type(function) is _METHOD else function
    if type(inner) is _FUNCTION and not inner.__dict__.keys() & {"__wrapped__", "__signature__"}:
        return _shape_of_code(inner, skip=int(type(function) is _METHOD))
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None  # none to be had: the call itself will say
    by_name: list[str] = []
    positional: list[str] = []
    required: list[str] = []
    defaults: dict[str, Any] = {}
    any_name = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            any_name = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            (positional if parameter.kind is parameter.POSITIONAL_ONLY else by_name).append(parameter.name)
            if parameter.default is parameter.empty:
                required.append(parameter.name)
            else:
                defaults[parameter.name] = parameter.default
    return Shape(tuple(by_name), tuple(required), tuple(positional), defaults, any_name)


def _shape_of_code(function: "Any", skip: int) -> Shape:
    code = function.__code__
    arguments = code.co_varnames[: code.co_argcount]
    only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    given = function.__defaults__ or ()
    defaults = dict(zip(arguments[len(arguments) - len(given) :], given, strict=True))
    defaults.update(function.__kwdefaults__ or {})
    if skip and not arguments:
        skip = 0  # `def method(*args)`
    positional = arguments[skip : max(code.co_posonlyargcount, skip)]
    names = arguments[max(code.co_posonlyargcount, skip) :] + only
    required = tuple(name for name in positional + names if name not in defaults)
    return Shape(names, required, positional, defaults, code.co_flags & _VARIADIC_NAMES)


def _first_name(method: "Any") -> str | None:
    code = getattr(method.__func__, "__code__", None)
    if code is None or not code.co_argcount or code.co_posonlyargcount:
        return None
    return str(code.co_varnames[0])


# --- annotations -----------------------------------------------------------------------------------------------


def _annotation(function: "Any", name: str) -> "Any":
    inner = function.__func__ if type(function) is _METHOD else function
    for _ in range(100):  # a chain of wrappers may be a circle
        following = getattr(inner, "__dict__", {}).get("__wrapped__")
        if following is None:
            break
        inner = following
    try:
        annotation = inner.__annotations__.get(name)
        if isinstance(annotation, str):
            annotation = eval(annotation, inner.__globals__)
    except Exception:
        return None  # what cannot be made out is not checked
    return annotation


def _plain_of(annotation: "Any") -> "tuple[type, bool] | None":
    """The plain type an annotation stands for, and whether null fits too."""
    if isinstance(annotation, type) and annotation in _PLAIN:
        return annotation, False
    origin = getattr(annotation, "__origin__", None)
    if origin is list or origin is dict:
        return origin, False
    members = getattr(annotation, "__args__", None)
    is_union = type(annotation).__name__ in ("UnionType", "Union", "_UnionGenericAlias")
    if is_union and isinstance(members, tuple) and len(members) == 2 and type(None) in members:
        inner = _plain_of(members[0] if members[1] is type(None) else members[1])
        return None if inner is None else (inner[0], True)
    return None
