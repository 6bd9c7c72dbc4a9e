"""Paths as users write them."""

import os
from pathlib import Path

__all__ = ["expand_home"]


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Replace a leading ``~`` by the home that it stands for.

    Parameters
    ----------
    path : path-like
        As given by a user.

    Returns
    -------
    Path
        The same where ``~`` stands for nobody's home: ``Path.expanduser`` raises
        there, but it may be a file's name.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111
