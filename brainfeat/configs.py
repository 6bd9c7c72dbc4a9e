"""Configurations made of dataclasses as plain JSON values, strictly."""

__all__ = ["check_kinds", "from_plain", "to_plain"]

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from brainfeat.exceptions import ConfigError


def check_kinds(value: Any, *, where: str) -> None:
    """Check that each field of a dataclass, and of those in it, is of its kind.

    Parameters
    ----------
    value : object
        The dataclass, of fields as for `from_plain`; lists are as good as tuples.
    where : str
        Name of the value in messages.

    Raises
    ------
    ConfigError
        If a field is of another type than it should be.
    """
    for name, kind in get_type_hints(type(value)).items():
        item, place = getattr(value, name), f"{where}.{name}"
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            _with_tuples(kind, item, place)
        elif isinstance(item, kind):
            check_kinds(item, where=place)
        else:
            raise ConfigError(f"{place}: expected {kind.__name__}, got {item!r}.")


def from_plain(kind: Any, values: Any, *, where: str) -> Any:
    """Build a dataclass, and the dataclasses in it, from JSON values.

    Parameters
    ----------
    kind : type
        The dataclass; its fields are numbers, strings, tuples of these, or
        dataclasses.
    values : mapping
        Field names and values; absent fields take their defaults.
    where : str
        Name of the value in messages.

    Returns
    -------
    object
        An instance of `kind`.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is of another type than its field.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected an object, got {values!r}.")
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{where}: unknown keys {unknown}.")
    arguments = {
        name: from_plain(hints[name], value, where=f"{where}.{name}")
        if dataclasses.is_dataclass(hints[name])
        else _with_tuples(hints[name], value, f"{where}.{name}")
        for name, value in values.items()
    }
    return kind(**arguments)


def to_plain(value: Any) -> Any:
    """Turn a dataclass, and what is in it, into JSON values.

    Parameters
    ----------
    value : object
        A dataclass, dict, tuple, number, string or None.

    Returns
    -------
    object
        Dicts, lists, numbers and strings, which `from_plain` reads.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, tuple) else value


def _with_tuples(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON value with lists as tuples, if it is of the field's kind."""
    name = kind.__name__ if isinstance(kind, type) else kind
    problem = ConfigError(f"{where}: expected {name}, got {value!r}.")
    # A union and a Literal have arguments too, but hold no items.
    items = get_args(kind) if get_origin(kind) is tuple else ()
    if not isinstance(value, list | tuple):
        if not items and _is_of_kind(kind, value):
            return value
        raise problem
    if not items or (Ellipsis not in items and len(items) != len(value)):
        raise problem
    return tuple(_with_tuples(items[0], item, where) for item in value)


def _is_of_kind(kind: Any, value: Any) -> bool:
    choices = get_args(kind)
    # A bool is an int to Python, but never a number to the user.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float or (float in choices and value is not None):
        return is_number and not math.isnan(value)
    if value is None:
        return type(None) in choices
    return type(value) is kind or value in choices
