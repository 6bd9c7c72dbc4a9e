import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.configs import (
    Fraction,
    PositiveInt,
    UniqueNames,
    check_fields,
    from_plain,
    is_integer,
    to_plain,
)
from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.decoder import DecoderConfig
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.slabs.crops import CropConfig
from brainfeat.slabs.grid import SlabGrid
from brainfeat.slabs.intensity import IntensityConfig


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
    ("values", "message"),
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
def test_invalid_value_is_reported_with_its_path(values, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(Outer, values, where="run")


def test_all_problems_are_in_one_message():
    values = {"inner": {"size": 3, "colour": 1}, "count": "5", "switch": 1}
    with pytest.raises(ConfigError) as error:
        from_plain(Outer, values, where="run")
    for problem in (
        "run.inner: unknown keys ['colour']",
        "run.inner.size: expected a tuple of 2 int, got 3",
        "run.count: expected int, got '5'",
        "run.switch: expected bool, got 1",
    ):
        assert problem in str(error.value)


def test_key_without_a_default_must_be_there():
    with pytest.raises(ConfigError, match=r"CheckpointConfig: missing keys \['enco"):
        from_plain(CheckpointConfig, {"preprocessing": {}})


@dataclass(frozen=True, kw_only=True)
class Checked:
    inner: Inner = field(default_factory=Inner)
    n_parts: PositiveInt = 2
    n_items: PositiveInt = 6
    kept: Fraction = 0.5
    names: UniqueNames = ("a",)

    def __post_init__(self):
        check_fields(self, _relations)


def _relations(config):
    yield config.n_items % config.n_parts == 0, "n_items", "a multiple of n_parts"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_parts": 0}, "Checked.n_parts: expected int >= 1, got 0."),
        ({"n_items": 7}, "Checked.n_items: expected a multiple of n_parts, got 7."),
        ({"kept": 1.5}, "Checked.kept: expected float in [0, 1], got 1.5."),
        (
            {"names": ("a", "a")},
            "Checked.names: expected a tuple of str unique and not empty, "
            "got ('a', 'a').",
        ),
        ({"inner": {"name": "x"}}, "Checked.inner: expected Inner, got {'name': 'x'}."),
        (
            {"n_parts": "2", "kept": None},
            "Checked.n_parts: expected int >= 1, got '2'; "
            "Checked.kept: expected float in [0, 1], got None.",
        ),
        ({"inner": Inner(name=3)}, "Checked.inner.name: expected str, got 3."),
    ],
)
def test_rules_and_relations_are_checked_when_a_config_is_made(values, message):
    with pytest.raises(ConfigError) as error:
        Checked(**values)
    assert str(error.value) == message


def test_lists_are_tuples_only_where_allowed():
    config = Outer(limits=[0.0, 1.0])
    check_fields(config, allow_lists=True)
    with pytest.raises(ConfigError, match=r"Outer.limits: expected a tuple of 2"):
        check_fields(config)


def test_numbers_of_numpy_are_numbers():
    config = Outer(count=np.int64(3), limits=(np.float32(0.5), 1.0))
    check_fields(config)
    assert json.dumps(to_plain(config))


CONFIGS = [
    EncoderConfig(),
    Preprocessor(),
    CheckpointConfig(encoder=EncoderConfig(), preprocessing={}),
    DecoderConfig(n_classes=3, n_modalities=1, embed_dim=8, n_depths=2),
    SlabGrid(),
    CropConfig(),
    IntensityConfig(),
]


@pytest.mark.parametrize(
    ("config", "name"),
    [(config, item.name) for config in CONFIGS for item in dataclasses.fields(config)],
)
def test_each_field_rejects_a_value_of_another_type(config, name):
    message = rf"^{type(config).__name__}\.{name}: expected .*, got 3j\.$"
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **{name: 3j})


@pytest.mark.parametrize("value", [2, 3, np.int64(2), np.uint8(2)])
def test_integers_are_those_of_python_and_numpy(value):
    assert is_integer(value, at_least=2)


@pytest.mark.parametrize("value", [1, -2, np.int64(1), True, 2.0, "2", None, [2]])
def test_smaller_and_other_values_are_no_integers(value):
    assert not is_integer(value, at_least=2)
