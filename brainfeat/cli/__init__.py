"""The command line: one file a command."""

from brainfeat.cli.app import main

__all__ = ["main"]


def __dir__() -> list[str]:
    return sorted(__all__)
