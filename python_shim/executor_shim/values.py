"""Values of the user's as JSON text: their forms, and summaries of those too large.

`docs/design/shim.md` documents the forms. Must not import what the user did not: a value can only be a `datetime`
if the module `datetime` is loaded, so types are looked up in `sys.modules`.
"""

import _json
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_DEPTH = 100  # the executor's JSON reader gives up at 128
_NUMBER_BITS = 1024  # a longer integer is cut in a summary

# Tried in order until the summary fits: longest string, deepest dict, most keys of a dict.
_SIZES = (
    (4096, MAX_DEPTH, sys.maxsize),
    (1024, MAX_DEPTH, sys.maxsize),
    (256, 8, sys.maxsize),
    (64, 4, sys.maxsize),
    (64, 2, 100),
    (32, 1, 20),
    (16, 1, 3),
)


class NoJsonForm(TypeError):
    """A value, or a part of it, has no JSON form; the message names the part and its type."""


def text_of(value: "Any", name: str) -> str:
    """The JSON text of `value` on one line, every character encodable as UTF-8.

    `name` stands for the value in the message of `NoJsonForm`.
    """
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError):
        text = _encode(_plain(value, name, 0, set()))  # finds what is wrong, or NaN
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(text):
        _plain(value, name, 0, set())
    return text if text.isascii() else clean(text)


def clean(text: str) -> str:
    """`text` without lone surrogates, which are no characters and which the executor's JSON reader refuses."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def fitting(value: "Any", name: str, limit: int) -> tuple[str, int, bool]:
    """JSON text of at most `limit` bytes; the size of the full text; whether it is only a summary."""
    text = text_of(value, name)
    size = len(text) if text.isascii() else len(text.encode())
    if size <= limit:
        return text, size, False
    return summary(value, limit), size, True


def summary(value: "Any", limit: int) -> str:
    """A JSON text of at most `limit` bytes that says what `value` (which has a JSON form) is like.

    Scalars are kept, long strings cut, lists become their length, dicts are summarised in the same way.
    """
    for longest, depth, keys in _SIZES:
        text = clean(_encode(_shrunk(value, longest, depth, keys)))
        if len(text.encode()) <= limit:
            return text
    return "null"


def one_line(text: str, longest: int) -> str:
    """`text` on one line of at most `longest` characters."""
    line = clean(" ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 1] + "…"


# --- forms -----------------------------------------------------------------------------------------------------


def _form(value: "Any") -> "Any":
    """One step towards JSON for a value that is no JSON type; raises `NoJsonForm` if there is none."""
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(value)
        except Exception:
            return list(value)
    if isinstance(value, (bytes, bytearray)):
        import binascii

        return binascii.b2a_base64(value, newline=False).decode("ascii")
    if hasattr(type(value), "__dataclass_fields__") and "dataclasses" in sys.modules:
        return {f.name: getattr(value, f.name) for f in sys.modules["dataclasses"].fields(value)}
    for module, names, form in _FORMS:
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(value, tuple(getattr(loaded, name) for name in names)):
            return form(value)
    raise NoJsonForm


def _isoformat(value: "Any") -> str:
    return str(value.isoformat())


_FORMS: "tuple[tuple[str, tuple[str, ...], Callable[[Any], str]], ...]" = (
    ("datetime", ("date", "time"), _isoformat),
    ("decimal", ("Decimal",), str),
    ("uuid", ("UUID",), str),
    ("pathlib", ("PurePath",), str),
)


def _plain(value: "Any", path: str, depth: int, above: set[int]) -> "Any":
    """`value` as JSON types only. Slower than the encoder, but says where something is wrong."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return _unlimited(value)
    if isinstance(value, float):
        return value if value - value == 0 else None  # NaN and the infinities have no number in JSON
    if depth >= MAX_DEPTH:
        raise NoJsonForm(f"{_short(path)} is nested more than {MAX_DEPTH} levels deep")
    if id(value) in above:
        raise NoJsonForm(f"{_short(path)} contains itself")
    above.add(id(value))
    try:
        if isinstance(value, dict):
            return {_key(key, path): _plain(item, f"{path}[{key!r}]", depth + 1, above) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [_plain(item, f"{path}[{n}]", depth + 1, above) for n, item in enumerate(value)]
        try:
            form = _form(value)
        except NoJsonForm:
            raise NoJsonForm(f"{_short(path)} is a {_type_name(value)}, which has no JSON form") from None
        # A form is one more look at the same level, not one level deeper.
        return _plain(form, path, depth, above)
    finally:
        above.discard(id(value))


def _key(key: "Any", path: str) -> "Any":
    if isinstance(key, float):
        return key if key - key == 0 else str(key)
    if key is None or isinstance(key, (str, int)):
        return key
    raise NoJsonForm(f"{_short(path)} has a key that is a {_type_name(key)}; JSON keys are strings")


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:100]} … {path[-90:]}"


def _type_name(value: "Any") -> str:
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def _unlimited(value: int) -> int:
    """Python refuses to write very long integers unless told otherwise."""
    if value.bit_length() > 14_000 and sys.get_int_max_str_digits():
        sys.set_int_max_str_digits(0)
    return value


def _shrunk(value: "Any", longest: int, depth: int, keys: int) -> "Any":
    if isinstance(value, str):
        return value if len(value) <= longest else value[: longest - 1] + "…"
    if isinstance(value, int):
        return value if value.bit_length() <= _NUMBER_BITS else f"integer of {value.bit_length()} bits"
    if value is None:
        return None
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, (list, tuple, set, frozenset)):
        return len(value)
    if isinstance(value, dict):
        if depth == 0:
            return f"{len(value)} keys"
        kept: dict[Any, Any] = {}
        for key, item in value.items():
            if len(kept) == keys:
                kept["…"] = f"{len(value) - keys} more keys"
                break
            kept[_shrunk(key, longest, 0, 0)] = _shrunk(item, longest, depth - 1, keys)
        return kept
    return _shrunk(_form(value), longest, depth, keys)


def _is_deep(text: str) -> bool:
    level: list[Any] = [decode(text)]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            below.extend(item.values() if isinstance(item, dict) else item)
        level = [item for item in below if isinstance(item, (dict, list))]
    return bool(level)


# --- the C halves of the module json, without the module -------------------------------------------------------


class _Reading:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None
    memo: "dict[str, str]" = {}  # noqa: RUF012


def decode(text: str) -> "Any":
    """The value that a JSON text stands for."""
    return scan(text, 0)[0]


def _encode(value: "Any") -> str:
    # Its own marks for every value: they are what finds a circle.
    return "".join(make_encoder({}, _form, encode_string, None, ":", ",", False, False, False)(value, 0))


def _does_as_json() -> bool:
    """Whether the C halves do what the module does: they are private to CPython."""
    sample = {"a": [1, 2.5, None, True, "ü\n"], "b": {}}
    return (
        _encode(sample)
        == '{"a":[1,2.5,null,true,"ü\\n"],"b":{}}'
        == _encode(decode('{"a": [1, 2.5, null, true, "\\u00fc\\n"], "b": {}}'))
    )


def _with_json() -> "tuple[Callable[[str, int], Any], Callable[..., Any]]":
    """In place of the scanner and of what makes an encoder."""
    import json

    def make(_marks: "Any", default: "Any", *_: "Any") -> "Callable[[Any, int], list[str]]":
        one = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default)
        return lambda value, _level: [one.encode(value)]

    return json.JSONDecoder().scan_once, make  # type: ignore[attr-defined]


# The scanner: (text, position) → (value, where it ended).
scan: "Callable[[str, int], Any]"
make_encoder: "Callable[..., Any]"
encode_string: "Any" = None
try:
    scan = _json.make_scanner(_Reading())  # type: ignore[arg-type]
    make_encoder, encode_string = _json.make_encoder, _json.encode_basestring
    _fit = _does_as_json()
except Exception:
    _fit = False
if not _fit:
    scan, make_encoder = _with_json()
# For the one value that is a run's result: made ahead, for each argument is a page that a run would pay for. After a
# failure its marks are no longer empty; `text_of` has its own.
encode_result = make_encoder({}, _form, encode_string, None, ":", ",", False, False, False)
