"""The command line: one file a command."""

from brainfeat.cli.app import main

__all__ = ["main"]
