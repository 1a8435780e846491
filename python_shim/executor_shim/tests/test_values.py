"""Which JSON form a value has, and what a summary keeps."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import typing
import uuid

import pytest

from executor_shim import values


@dataclasses.dataclass
class Point:
    x: int
    inner: object = None
    SHARED: typing.ClassVar[int] = 3


class Colour(enum.IntEnum):
    RED = 1


class Word(str, enum.Enum):  # noqa: UP042
    ONE = "one"


class Foo:
    pass


Pair = collections.namedtuple("Pair", "a b")
ID = uuid.uuid4()
NAN, INF = float("nan"), float("inf")
DAY = datetime.date(2026, 3, 8)
ZONED = datetime.datetime(2026, 3, 8, 10, 0, 0, 5, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({"a": [1, 2.5, None, True, "ü\n\u2028"]}, {"a": [1, 2.5, None, True, "ü\n\u2028"]}),
        (ZONED, "2026-03-08T10:00:00.000005+00:00"),
        (datetime.datetime(2026, 3, 8), "2026-03-08T00:00:00"),
        (DAY, "2026-03-08"),
        (datetime.time(1, 2), "01:02:00"),
        (decimal.Decimal("1.10"), "1.10"),
        (ID, str(ID)),
        (pathlib.Path("/a/b"), "/a/b"),
        (pathlib.PureWindowsPath("a\\b"), "a\\b"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ({(1, 2)}, [[1, 2]]),
        ((1, (2,)), [1, [2]]),
        (Pair(1, 2), [1, 2]),
        (b"\x00\xff", "AP8="),
        (bytearray(b"x"), "eA=="),
        (Point(1, Point(2, {DAY})), {"x": 1, "inner": {"x": 2, "inner": ["2026-03-08"]}}),
        ([NAN, INF, -INF, 1.5], [None, None, None, 1.5]),
        ({"a": NAN, "b": Point(NAN)}, {"a": None, "b": {"x": None, "inner": None}}),
        ({1: "a", 1.5: "b", None: "c", False: "d"}, {"1": "a", "1.5": "b", "null": "c", "false": "d"}),
        ({1: "a", NAN: "b"}, {"1": "a", "nan": "b"}),
        (Colour.RED, 1),
        (Word.ONE, "one"),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ({"\udfff": NAN}, {"\ufffd": None}),
        (10**30, 10**30),
        ("", ""),
        ([], []),
        ({}, {}),
    ],
)
def test_forms(value, form):
    text = values.text_of(value, "result")
    text.encode()
    assert "\n" not in text
    assert json.loads(text) == form


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


CIRCLE: list = []
CIRCLE.append({"me": CIRCLE})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [0, 1, 2, Foo()]}, "result['a'][3] is a executor_shim.tests.test_values.Foo"),
        (Foo(), "result is a executor_shim.tests.test_values.Foo, which has no JSON form"),
        (Foo, "result is a type"),
        (Point, "result is a type"),
        ({"f": len}, "result['f'] is a builtin_function_or_method"),
        (1j, "result is a complex"),
        (datetime.timedelta(1), "result is a datetime.timedelta"),
        (Point(1, {"x": Foo()}), "result['inner']['x'] is a"),
        ({(1, 2): 3}, "result has a key that is a tuple"),
        ({"a": {DAY: 1}}, "result['a'] has a key that is a datetime.date"),
        (CIRCLE, "result[0]['me'] contains itself"),
        (nested(101), "is nested more than 100 levels deep"),
        (nested(100_000), "is nested more than 100 levels deep"),
        ([NAN, Foo], "result[1] is a type"),
        (range(3), "result is a range"),
        (memoryview(b"x"), "result is a memoryview"),
    ],
)
def test_no_form(value, says):
    with pytest.raises(values.NoJsonForm) as caught:
        values.text_of(value, "result")
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_hundred_levels_are_fine_and_shared_values_no_circle():
    assert json.loads(values.text_of(nested(100), "result")) == nested(100)
    shared = [1]
    assert values.text_of([shared, shared, {"s": shared}], "result") == '[[1],[1],{"s":[1]}]'


def test_many_brackets_are_not_depth():
    assert len(json.loads(values.text_of([[]] * 500 + ["[" * 500], "result"))) == 501


def test_what_fits_stays_whole():
    assert values.fitting({"a": "ü"}, "result", 10) == ('{"a":"ü"}', 10, False)
    text, size, cut = values.fitting({"a": "ü"}, "result", 9)
    assert (size, cut) == (10, True)
    assert len(text.encode()) <= 9


def test_a_summary_keeps_scalars_cuts_strings_and_counts_lists():
    value = {
        "n": 7,
        "f": 2.5,
        "none": None,
        "yes": True,
        "short": "text",
        "long": "ü" * 20_000,
        "rows": [{"a": 1}] * 5000,
        "set": {1, 2},
        "day": DAY,
        "nested": {"rows": [1, 2, 3], "k": "v", "nan": NAN},
        "point": Point(1, [1, 2]),
    }
    text, size, cut = values.fitting(value, "result", 10240)
    assert cut
    assert size == len(values.text_of(value, "result").encode())
    short = json.loads(text)
    assert len(text.encode()) <= 10240
    assert short.pop("long").lstrip("ü") == "…"
    assert short == {
        "n": 7,
        "f": 2.5,
        "none": None,
        "yes": True,
        "short": "text",
        "rows": 5000,
        "set": 2,
        "day": "2026-03-08",
        "nested": {"rows": 3, "k": "v", "nan": None},
        "point": {"x": 1, "inner": 2},
    }


@pytest.mark.parametrize("limit", [2, 4, 20, 100, 1000, 10240])
@pytest.mark.parametrize(
    "value",
    [
        list(range(10_000)),
        "x" * 100_000,
        "\x00" * 100_000,
        "😀" * 50_000,
        {f"key {n}": n for n in range(10_000)},
        {"k" * 100_000: 1},
        {"a": {"b": {"c": {f"d{n}": "y" * 100 for n in range(1000)}}}},
        {n: {m: {"x": "z" * 50} for m in range(50)} for n in range(50)},
        b"\x00" * 50_000,
        10**4000,
        "\ud800" * 50_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_summary_always_fits_and_is_json(value, limit):
    text, size, cut = values.fitting(value, "result", limit)
    assert len(text.encode()) <= max(limit, 4)
    json.loads(text)
    assert cut == (size > limit)


def test_a_long_list_is_its_length():
    assert values.fitting(list(range(10_000)), "result", 100)[0] == "10000"


def test_the_modules_fallback_agrees():
    scan, make_encoder = values._with_json()

    def encode(value):
        return "".join(make_encoder({}, values._form)(value, 0))

    for value in ({"a": [1, 2.5, None, True, "ü\n"]}, {3, 1}, DAY, Point(1)):
        assert encode(value) == values._encode(value)
    assert scan('{"a": 1}', 0)[0] == values.decode('{"a": 1}')


def test_one_line():
    assert values.one_line("a\n  b\tc", 10) == "a b c"
    assert values.one_line("x" * 30, 10) == "x" * 9 + "…"
    assert values.one_line("\ud800", 10) == "\ufffd"
