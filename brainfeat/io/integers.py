"""Integers that a user gives, numpy's among them."""

__all__ = ["is_integer"]

from numbers import Integral
from typing import TypeGuard


def is_integer(value: object, *, at_least: int) -> TypeGuard[int]:
    """Whether a value is an integer, and large enough.

    Parameters
    ----------
    value : object
        What was given; True equals 1, but is no integer to a user.
    at_least : int
        Smallest that will do.

    Returns
    -------
    bool
        True for Python's integers and numpy's.
    """
    is_number = isinstance(value, Integral) and not isinstance(value, bool)
    return is_number and int(value) >= at_least  # type: ignore[call-overload]
