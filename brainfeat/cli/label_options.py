"""Options that take several labels, as those of BIDS apps do."""

__all__ = ["CommandOfManyLabels"]

import os
from typing import Any

import typer
from typer.core import TyperCommand

_OPTIONS = {"participant-label", "session-label"}


class CommandOfManyLabels(TyperCommand):
    """A command that takes ``--participant-label 01 02``, as BIDS apps do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, a label option and its labels as one option a label."""
        return super().parse_args(ctx, _repeat_options(args))


def _repeat_options(arguments: list[str]) -> list[str]:
    """Turn ``--participant-label 01 02`` into two options with a value each.

    Raises
    ------
    BadParameter
        If no label comes after such an option.
    """
    repeated: list[str] = []
    option = None
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        if _takes_labels(argument):
            if not _is_label(following):
                raise typer.BadParameter("expected a label.", param_hint=argument)
            option = argument
            continue
        if not _is_label(argument):
            option = None
        elif option is not None:
            repeated.append(option)
        repeated.append(argument)
    return repeated


def _takes_labels(argument: str) -> bool:
    name = argument.lstrip("-").replace("_", "-")
    return argument.startswith("-") and name in _OPTIONS


def _is_label(argument: str) -> bool:
    """Whether it is none of what may follow labels: an option, a level, a path."""
    is_level = argument in {"participant", "group"}
    return not (argument.startswith("-") or is_level or os.sep in argument)
