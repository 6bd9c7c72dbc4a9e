import json
import math
from dataclasses import dataclass, field
from typing import Literal

import pytest

from brainfeat.configs import from_plain, to_plain
from brainfeat.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str = "crop"
    size: tuple[int, int] = (3, 4)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    count: int = 5
    rate: float = 0.5
    optional: float | None = None
    switch: bool = False
    choice: Literal["first", "second"] = "first"
    names: tuple[str, ...] = ()
    choices: tuple[Literal["first", "second"], ...] = ("first",)
    limits: tuple[float, float] = (0.0, 1.0)


CHANGED = Outer(
    inner=Inner(name="other", size=(7, 2)),
    count=6,
    rate=2.5,
    optional=0.25,
    switch=True,
    choice="second",
    names=("a", "b", "c"),
    choices=("second", "first"),
    limits=(-1.0, 2.0),
)


@pytest.mark.parametrize("value", [Outer(), CHANGED])
def test_json_and_back_is_the_same_value(value):
    plain = to_plain(value)
    assert json.loads(json.dumps(plain)) == plain
    assert from_plain(Outer, plain, where="run") == value


def test_absent_keys_take_their_defaults():
    assert from_plain(Outer, {}, where="run") == Outer()
    assert from_plain(Outer, {"inner": {"name": "x"}}, where="run") == Outer(
        inner=Inner(name="x")
    )


def test_integer_is_a_number():
    assert from_plain(Outer, {"rate": 2, "limits": [0, 1]}, where="run").rate == 2


def test_tuples_are_read_like_lists():
    assert from_plain(Outer, {"limits": (1.0, 2.0)}, where="run").limits == (1.0, 2.0)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"colour": 1}, r"run: unknown keys \['colour'\]"),
        ({"inner": {"colour": 1}}, r"run\.inner: unknown keys \['colour'\]"),
        ({"inner": 5}, r"run\.inner: expected an object, got 5"),
        ({"inner": {"size": [3]}}, r"run\.inner\.size: expected .*\[3\]"),
        ({"inner": {"size": [3, 4.5]}}, r"run\.inner\.size: .*4\.5"),
        ({"count": 5.5}, r"run\.count: .*5\.5"),
        ({"count": True}, r"run\.count: .*True"),
        ({"count": "5"}, r"run\.count: .*'5'"),
        ({"count": None}, r"run\.count: .*None"),
        ({"count": [5]}, r"run\.count: .*\[5\]"),
        ({"rate": math.nan}, r"run\.rate: .*nan"),
        ({"rate": "fast"}, r"run\.rate: .*'fast'"),
        ({"rate": False}, r"run\.rate: .*False"),
        ({"optional": "none"}, r"run\.optional: .*'none'"),
        ({"optional": [0.1, 0.2]}, r"run\.optional: .*\[0\.1, 0\.2\]"),
        ({"switch": 1}, r"run\.switch: .*1"),
        ({"choice": "third"}, r"run\.choice: .*'third'"),
        ({"choice": ["first", "second"]}, r"run\.choice: .*\['first', 'second'\]"),
        ({"choices": ["third"]}, r"run\.choices: .*'third'"),
        ({"names": "abc"}, r"run\.names: .*'abc'"),
        ({"names": ["a", 1]}, r"run\.names: .*1"),
        ({"limits": 0.5}, r"run\.limits: .*0\.5"),
        ({"limits": [0.0, 1.0, 2.0]}, r"run\.limits: .*2\.0"),
        ({"limits": {"low": 0.0}}, r"run\.limits: .*low"),
        ([1, 2], r"run: expected an object, got \[1, 2\]"),
    ],
)
def test_other_value_is_refused_at_its_place(values, place):
    with pytest.raises(ConfigError, match=place):
        from_plain(Outer, values, where="run")
