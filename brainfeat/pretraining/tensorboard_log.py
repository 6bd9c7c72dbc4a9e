"""Curves of a run for TensorBoard."""

__all__ = ["TensorBoardLog"]

from importlib import import_module
from pathlib import Path
from typing import Any, Self

from brainfeat.exceptions import MissingDependencyError
from brainfeat.pretraining.trainer import TrainingStep


class TensorBoardLog:
    """Write the measures of each step as scalars.

    Curves of `next_step` and later, from before an interruption, are hidden.
    Raises a MissingDependencyError if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, next_step: int = 0) -> None:
        try:
            self._module = import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise MissingDependencyError(
                "TensorBoard is not installed: pip install 'brainfeat[tensorboard]'"
            ) from error
        self._folder, self._next_step = folder, next_step
        self._writer: Any = None

    def write(self, step: TrainingStep) -> None:
        """Write the measures of one step."""
        if self._writer is None:  # nothing is written before the run begins
            self._writer = self._module.SummaryWriter(
                str(self._folder), purge_step=self._next_step
            )
        for name, value in step.measures.items():
            if value is not None:
                self._writer.add_scalar(name, value, step.n_done - 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()
