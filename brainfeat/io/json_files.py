"""JSON files that hold one object."""

__all__ = ["format_json", "read_json", "read_json_object", "write_json"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brainfeat.exceptions import BrainfeatError, InputError, brief_reason
from brainfeat.io.atomic import atomic_write
from brainfeat.io.file_kinds import describe_stranger, first_bytes


def read_json(
    path: Path, what: str, *, error: type[BrainfeatError] = InputError
) -> dict[str, Any]:
    """Read a JSON object that must exist, or raise ``error``.

    The message says that the file should hold ``what``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: cannot be read ({brief_reason(problem)}).") from problem
    except ValueError as problem:  # also of text that is not UTF-8
        stranger = describe_stranger(first_bytes(path))
        got = stranger or f"no valid JSON ({brief_reason(problem)})"
        raise error(f"{path}: expected {what}, got {got}.") from problem
    if not isinstance(content, dict):
        raise error(
            f"{path}: expected {what} as a JSON object, got {type(content).__name__}."
        )
    return content


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, None if the file is missing or holds something else."""
    try:
        return read_json(path, "an object")
    except InputError:
        return None


def write_json(path: Path, content: Mapping[str, Any], *, indent: int = 2) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(format_json(content, indent=indent), encoding="utf-8")


def format_json(content: Mapping[str, Any] | Sequence[Any], *, indent: int = 2) -> str:
    """Return the text of a JSON file."""
    return json.dumps(content, indent=indent) + "\n"
