"""Configurations are dataclasses, checked against their annotations."""

__all__ = [
    "Fraction",
    "JsonConfig",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Relation",
    "Rule",
    "UniqueNames",
    "check_fields",
    "from_plain",
    "is_integer",
    "is_number",
    "to_plain",
]

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from numbers import Integral, Real
from operator import attrgetter
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from brainfeat.exceptions import ConfigError

# Whether a relation between fields holds; the field to report; what it should be.
Relation = tuple[bool, str, str]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a value, for `typing.Annotated`, and how messages state it."""

    expected: str
    holds: Callable[[Any], bool]


PositiveInt = Annotated[int, Rule(">= 1", lambda value: value >= 1)]
NonNegativeInt = Annotated[int, Rule(">= 0", lambda value: value >= 0)]
PositiveFloat = Annotated[float, Rule("> 0", lambda value: value > 0)]
NonNegativeFloat = Annotated[float, Rule(">= 0", lambda value: value >= 0)]
Fraction = Annotated[float, Rule("in [0, 1]", lambda value: 0 <= value <= 1)]
UniqueNames = Annotated[
    tuple[str, ...],
    Rule("unique and not empty", lambda v: all(v) and len(v) == len(set(v))),
]


class JsonConfig:
    """Base of dataclasses that are stored as JSON."""

    _needs_all_keys: ClassVar[bool] = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from JSON values, or raise a ConfigError."""
        config: Self = from_plain(cls, values, complete=cls._needs_all_keys)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, for `from_dict`."""
        values: dict[str, Any] = to_plain(self)
        return values


def check_fields(
    config: Any,
    relations: Callable[[Any], Iterable[Relation]] | None = None,
    *,
    allow_lists: bool = False,
) -> None:
    """Check each field of a dataclass against its annotation.

    Annotations are numbers, text, Literals, tuples, unions, mappings, callables and
    dataclasses of these, with a `Rule` where `Annotated`. `relations` yields what
    must hold between fields; it is called once all fields have their types.
    Raises a ConfigError that lists all problems.
    """
    name = type(config).__name__
    problems = [*_problems(type(config), config, name, allow_lists=allow_lists)]
    if not problems and relations is not None:
        problems = [
            f"{name}.{field}: expected {expected}, got {attrgetter(field)(config)!r}"
            for holds, field, expected in relations(config)
            if not holds
        ]
    _raise(problems)


def from_plain(kind: Any, values: Any, where: str = "", complete: bool = False) -> Any:
    """Build a dataclass, and the dataclasses in it, from JSON values.

    Absent fields take their defaults unless `complete`; lists become tuples. Raises a
    ConfigError that lists all unknown or missing keys and all values of a wrong type;
    `where` names the value in messages, by default by its class.
    """
    where = where or kind.__name__
    problems = [*_plain_problems(kind, values, where)]
    missing = sorted({*_hints(kind)} - {*values}) if complete and not problems else []
    if missing:
        problems = [f"{where}: missing keys {missing}"]
    _raise(problems)
    return _build(kind, values)


def to_plain(value: Any) -> Any:
    """Turn a dataclass, and what is in it, into the JSON values of `from_plain`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if is_number(value) and not isinstance(value, int | float):
        return int(value) if isinstance(value, Integral) else float(value)  # numpy's
    return value


def is_integer(value: object, *, at_least: int) -> TypeGuard[int]:
    """Whether a value is an integer of Python or numpy, no bool, and large enough."""
    return is_number(value) and isinstance(value, Integral) and int(value) >= at_least


def is_number(value: object) -> TypeGuard[Any]:
    """Whether a value is a real number of Python or numpy; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("; ".join(problems) + ".")


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _problems(kind: Any, value: Any, where: str, *, allow_lists: bool) -> Iterator[str]:
    """Compare a value, and each field of a dataclass, with its annotation."""
    if not (_is_dataclass(kind) and isinstance(value, kind)):
        if not _fits(kind, value, allow_lists=allow_lists):
            yield f"{where}: expected {_describe(kind)}, got {value!r}"
        return
    for name, hint in _hints(kind).items():
        yield from _problems(
            hint, getattr(value, name), f"{where}.{name}", allow_lists=allow_lists
        )


def _plain_problems(kind: Any, value: Any, where: str) -> Iterator[str]:
    """Compare a JSON value with an annotation; dataclasses are objects."""
    kind = _member(kind, value)
    if not _is_dataclass(kind):
        yield from _problems(kind, value, where, allow_lists=True)
        return
    if not isinstance(value, Mapping):
        yield f"{where}: expected an object, got {value!r}"
        return
    hints = _hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        yield f"{where}: unknown keys {unknown}, expected some of {[*hints]}"
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in value
        and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        yield f"{where}: missing keys {missing}"
    for name in (name for name in hints if name in value):
        yield from _plain_problems(hints[name], value[name], f"{where}.{name}")


def _build(kind: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_build(None, item) for item in value)
    kind = _member(kind, value)
    if not (_is_dataclass(kind) and isinstance(value, Mapping)):
        return value
    hints = _hints(kind)
    return kind(**{name: _build(hints[name], item) for name, item in value.items()})


def _member(kind: Any, value: Any) -> Any:
    """Return the dataclass of a union that an object is for: of its kind, or the first.

    A kind is a field with one possible value.
    """
    is_object = isinstance(value, Mapping)
    members = [item for item in get_args(kind) if _is_dataclass(item)]
    is_union = get_origin(kind) in {Union, UnionType} and bool(members)
    if not is_union or not (is_object or len(members) == len(get_args(kind))):
        return kind
    name = value.get("kind") if is_object else None
    named = [item for item in members if name and getattr(item, "kind", None) == name]
    return (named or members)[0]


def _fits(kind: Any, value: Any, *, allow_lists: bool) -> bool:
    origin, items = get_origin(kind), get_args(kind)
    if origin is Annotated:
        base, *rules = items
        fits = _fits(base, value, allow_lists=allow_lists)
        return fits and all(rule.holds(value) for rule in rules)
    if origin in {Union, UnionType}:
        return any(_fits(item, value, allow_lists=allow_lists) for item in items)
    if origin is Literal:
        return any(type(value) is type(item) and value == item for item in items)
    if origin is tuple:
        return _fits_tuple(items, value, allow_lists=allow_lists)
    if kind is int:
        return is_number(value) and isinstance(value, Integral)
    if kind is float:
        return is_number(value) and not math.isnan(value)
    # Mapping and Callable have an origin; their items are not checked.
    return kind is Any or isinstance(value, origin or kind)


def _fits_tuple(kinds: tuple[Any, ...], value: Any, *, allow_lists: bool) -> bool:
    if not isinstance(value, (tuple, list) if allow_lists else tuple):
        return False
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    return len(kinds) == len(value) and all(
        _fits(kind, item, allow_lists=allow_lists)
        for kind, item in zip(kinds, value, strict=True)
    )


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _describe(kind: Any) -> str:
    origin, items = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join([_describe(items[0]), *(rule.expected for rule in items[1:])])
    if origin in {Union, UnionType}:
        return " or ".join(map(_describe, items))
    if origin is Literal:
        return f"one of {items}"
    if origin is tuple:
        length = "" if items[-1] is Ellipsis else f"{len(items)} "
        return f"a tuple of {length}{_describe(items[0])}"
    return "None" if kind is NoneType else str((origin or kind).__name__)
