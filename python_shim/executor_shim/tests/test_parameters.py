"""Parameters against signatures and plain annotations."""

import functools
from typing import Annotated, Any, Dict, List, Union  # noqa: UP035

import pytest

from executor_shim import parameters
from executor_shim.errors import Unfit


def plain(customer_id: int, name: str = "x", *, deep: bool = False): ...
def free(a, **rest: int): ...
def nothing(): ...
def positional(a, /, b=1): ...
def positional_default(a=1, /, **rest): ...
def late(n: "int", m: "float | None" = None, o: "int | None" = 1, q: "NotThere" = 1): ...  # noqa: F821
def containers(a: list[int], b: dict[str, int], c: List[int], d: Dict[str, int], e: list, f: dict): ...  # noqa: UP006
def unions(a: int | None, b: float | None, c: Union[int, str], d: Any, e: Annotated[int, 1]): ...  # noqa: UP007
def implicit(x: int = None): ...  # noqa: RUF013
def numbers(i: int = 0, f: float = 0.0, b: bool = False, s: str = ""): ...


@functools.wraps(plain)
def wrapped(*args, **kwargs): ...


class Method:
    def run(self, x: int): ...
    def free(self, **rest): ...
    def stars(*args, **rest): ...
    @classmethod
    def made(cls, y: str): ...


OK = [
    (plain, {"customer_id": 7}),
    (plain, {"customer_id": 7, "name": "y", "deep": True}),
    (free, {"a": 1, "anything": "x", "class": 2, "__x__": 3}),
    (nothing, {}),
    (positional_default, {"a": 1}),
    (late, {"n": 1, "m": None, "o": None, "q": "free"}),
    (late, {"n": 1, "m": 2}),
    (containers, {"a": ["x"], "b": {}, "c": [], "d": {}, "e": [], "f": {}}),
    (unions, {"a": None, "b": 1, "c": [], "d": {}, "e": "x"}),
    (implicit, {"x": None}),
    (numbers, {"f": 1, "i": -5, "b": True}),
    (wrapped, {"customer_id": 7}),
    (Method().run, {"x": 1}),
    (Method().stars, {"x": 1}),
    (Method.made, {"y": "1"}),
    (len, {}),
]


@pytest.mark.parametrize(("function", "given"), OK)
def test_fits(function, given):
    if function is not len:
        parameters.check(function, given, "f")


@pytest.mark.parametrize(
    ("function", "given", "says"),
    [
        (plain, {}, "f: missing parameter 'customer_id' (int)"),
        (free, {}, "f: missing parameter 'a'"),
        (plain, {"customer_id": 1, "nam": 1}, "f: unexpected parameter 'nam'; it takes customer_id, name, deep"),
        (nothing, {"x": 1}, "f: unexpected parameter 'x'; it takes no parameters"),
        (plain, {"customer_id": "7"}, "f: parameter 'customer_id' must be int, not str"),
        (plain, {"customer_id": True}, "f: parameter 'customer_id' must be int, not bool"),
        (plain, {"customer_id": None}, "f: parameter 'customer_id' must be int, not null"),
        (plain, {"customer_id": 1.0}, "f: parameter 'customer_id' must be int, not float"),
        (plain, {"customer_id": 1, "deep": 1}, "f: parameter 'deep' must be bool, not int"),
        (positional, {"b": 1}, "f: parameter 'a' is positional-only, but parameters are given by name"),
        (positional, {"a": 1}, "f: parameter 'a' is positional-only and cannot be given by name"),
        (late, {"n": "x"}, "f: parameter 'n' must be int, not str"),
        (late, {"n": 1, "m": "x"}, "f: parameter 'm' must be float or null, not str"),
        (late, {"n": 1, "o": []}, "f: parameter 'o' must be int or null, not list"),
        (unions, {"a": "x", "b": 1, "c": 1, "d": 1, "e": 1}, "f: parameter 'a' must be int or null, not str"),
        (unions, {"a": 1, "b": False, "c": 1, "d": 1, "e": 1}, "f: parameter 'b' must be float or null, not bool"),
        (numbers, {"f": True}, "f: parameter 'f' must be float, not bool"),
        (numbers, {"s": 1}, "f: parameter 's' must be str, not int"),
        (wrapped, {}, "f: missing parameter 'customer_id' (int)"),
        (wrapped, {"customer_id": "x"}, "f: parameter 'customer_id' must be int, not str"),
        (Method().run, {"x": "1"}, "f: parameter 'x' must be int, not str"),
        (Method().run, {"x": 1, "self": 1}, "f: unexpected parameter 'self'; it takes x"),
        (Method().free, {"self": 1}, "f: unexpected parameter 'self'; it is the instance's own"),
        (Method.made, {"y": 1}, "f: parameter 'y' must be str, not int"),
        *(
            (
                containers,
                {"a": [], "b": {}, "c": [], "d": {}, "e": [], "f": {}} | {key: 1},
                f"f: parameter '{key}' must",
            )
            for key in "abcdef"
        ),
    ],
)
def test_does_not_fit(function, given, says):
    with pytest.raises(Unfit) as caught:
        parameters.check(function, given, "f")
    assert caught.value.error_type == "InvalidParametersError"
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_a_run_with_wrong_parameters_never_calls(runs):
    runs.task(
        "tasks/p.py", "def run(n: int):\n    print('called')\nclass C:\n    def run(self, n: int): print('called')\n"
    )
    for target in ("tasks.p:run", "tasks.p:C.run"):
        ended = runs.call(target, {"n": "1"})
        assert (ended.result["kind"], ended.result["error_type"]) == ("unfit", "InvalidParametersError")
        assert "parameter 'n' must be int, not str" in ended.result["error"]
        assert ended.stdout == b""


def test_a_type_error_of_the_callables_own_is_raised(forked):
    result = forked.call_source("def run():\n    return len(3)\n").result
    assert (result["kind"], result["error_type"]) == ("raised", "TypeError")


def test_very_long_integers_are_valid_parameters_and_results(forked):
    forked.tool("probe", "def run(n: int):\n    return [n % 10, str(n // 10**4995), n * 0 + 10**5000][: 2 + (n > 0)]\n")
    live = forked.start()
    head = f'[{live.pid},"j",1,null,null,"/tmp",false,"probe",null,null,{{"n":'
    live.send_raw(b"M", (head + "9" * 5000 + "}]").encode())
    live.process.wait(30)
    live.finish_reading()
    assert live.output("frames").startswith(b'{"t":"items","count":3}\n{"t":"result","ok":true,"value":[9,"99999",1000')
    live.close()
