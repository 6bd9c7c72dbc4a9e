"""Which of two classes is the positive one, that a score is of."""

__all__ = ["choose_positive"]

from collections.abc import Sequence
from typing import Any

from brainfeat.exceptions import InputError

# Compared without case and punctuation.
_CONTROLS = {
    *("cn", "hc", "nc", "hv", "td", "con", "ctl", "ctrl", "control", "controls"),
    *("healthy", "healthycontrol", "healthycontrols", "healthyvolunteer"),
    *("cognitivelynormal", "normal", "normalcontrol", "nondemented", "unaffected"),
    *("no", "none", "negative", "absent", "false"),
}


def choose_positive(classes: Sequence[str], pos_label: Any = None) -> int:
    """Return the index of the positive one of two classes.

    By default the larger of two numbers, True, or the second of the sorted names unless
    it alone is a name of controls. Raises InputError if ``pos_label`` is no class.

    >>> choose_positive(["AD", "CN"]), choose_positive(["9", "10"])
    (0, 1)
    """
    if pos_label is not None:
        matches = [_is_same(name, pos_label) for name in classes]
        if not any(matches):
            names = ", ".join(classes) or "no labels"
            raise InputError(f"pos_label: expected one of {names}, got {pos_label!r}.")
        return matches.index(True)
    first, second = classes
    numbers = _to_number(first), _to_number(second)
    if numbers[0] is not None and numbers[1] is not None:
        return int(numbers[1] > numbers[0])
    return int(not _is_control(second) or _is_control(first))


def _is_same(name: str, label: Any) -> bool:
    number = _to_number(name)
    return name == str(label) or (number is not None and number == _to_number(label))


def _is_control(name: str) -> bool:
    return "".join(filter(str.isalnum, name)).casefold() in _CONTROLS


def _to_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
