"""The log of a run: one JSON object a line."""

__all__ = ["RunLog"]

import json
from pathlib import Path
from typing import Any

from brainfeat.io.atomic import atomic_write
from brainfeat.pretraining.ranks import rank


class RunLog:
    """Append lines to a JSONL file, from rank 0 alone.

    Parameters
    ----------
    path : Path
        File to append to.
    next_step : int
        Lines of this step and later ones, from before an interruption, are
        removed: the run writes them again.
    """

    def __init__(self, path: Path, next_step: int) -> None:
        self._path = path
        if rank() == 0:
            kept = [line for line in _lines(path) if _step(line) < next_step]
            with atomic_write(path) as partial:
                partial.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, **values: Any) -> None:
        """Append one line.

        Parameters
        ----------
        step : int
            Current step.
        **values : object
            JSON values by name; None is left out.
        """
        if rank() == 0:
            present = {name: v for name, v in values.items() if v is not None}
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **present}) + "\n")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _step(line: str) -> float:
    # A line that was cut off by a crash is dropped.
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
