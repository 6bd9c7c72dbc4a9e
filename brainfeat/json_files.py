"""JSON files that the library wrote itself, and that something may have damaged."""

__all__ = ["read_json_object", "read_own_json"]

import json
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError, brief_reason


def read_own_json(path: Path, what: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Parameters
    ----------
    path : Path
        An existing file.
    what : str
        What the file holds, for the error.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    InputError
        If it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: expected {what}, got no valid JSON ({brief_reason(error)})."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected {what}, got no JSON object.")
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
        return read_own_json(path, "an object")
    except (OSError, InputError):
        return None
