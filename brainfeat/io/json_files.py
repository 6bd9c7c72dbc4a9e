"""JSON files that hold one object."""

__all__ = ["read_json", "read_json_object"]

import json
from pathlib import Path
from typing import Any

from brainfeat.exceptions import BrainfeatError, InputError, brief_reason


def read_json(
    path: Path, what: str, *, error: type[BrainfeatError] = InputError
) -> dict[str, Any]:
    """Read a JSON file that must be there.

    Parameters
    ----------
    path : Path
        The JSON file.
    what : str
        What the file holds, for the error.
    error : type
        The error.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    BrainfeatError
        Of the type asked for, if it cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: cannot be read ({brief_reason(problem)}).") from problem
    except ValueError as problem:  # also of text that is not UTF-8
        raise error(
            f"{path}: expected {what}, got no valid JSON ({brief_reason(problem)})."
        ) from problem
    if not isinstance(content, dict):
        raise error(
            f"{path}: expected {what} as a JSON object, got {type(content).__name__}."
        )
    return content


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that may be missing or damaged.

    Parameters
    ----------
    path : Path
        The JSON file.

    Returns
    -------
    dict or None
        None if it is not there, or holds no JSON object.
    """
    try:
        return read_json(path, "an object")
    except InputError:
        return None
