"""Find a segmentation model: bundled, or a folder."""

__all__ = [
    "LICENCE_NAME",
    "MODEL_NAME",
    "bundled_models",
    "find_model",
    "locate_model",
]

import os
from pathlib import Path

from brainfeat.checkpoint.known import find_known
from brainfeat.io.paths import expand_home

MODEL_NAME = "segmentation.json"
LICENCE_NAME = "licence.txt"  # of bundled models, beside the card: one line
_BUNDLED = Path(__file__).parents[1] / "weights"


def bundled_models() -> list[str]:
    """List the names of the models that come with the library.

    >>> bundled_models()
    ['brainfound-tiny-anatomy']
    """
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{MODEL_NAME}"))


def locate_model(source: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundled model, or a folder as it is given."""
    name = os.fspath(source)
    return _BUNDLED / name if name in bundled_models() else expand_home(name)


def find_model(source: object) -> Path | None:
    """Return the folder of a segmentation model; None if it is anything else."""
    if not isinstance(source, str | os.PathLike) or find_known(os.fspath(source)):
        return None
    folder = locate_model(source)
    # Path.is_file raises an error if a name is too long.
    return folder if os.path.isfile(folder / MODEL_NAME) else None  # noqa: PTH113
