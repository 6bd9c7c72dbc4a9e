"""Weights of other libraries, whose layout is found by keys and shapes."""

from brainfeat.checkpoint.layouts.conversion import (
    Converted,
    convert_file,
    convert_foreign,
    convert_state,
    load_foreign,
)

__all__ = [
    "Converted",
    "convert_file",
    "convert_foreign",
    "convert_state",
    "load_foreign",
]


def __dir__() -> list[str]:
    return sorted(__all__)
