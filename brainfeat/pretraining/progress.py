"""The progress display of a run, and its curves for TensorBoard."""

__all__ = ["ProgressTracker", "TensorBoardLog"]

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from brainfeat.exceptions import import_optional
from brainfeat.pretraining.trainer import TrainingStep
from brainfeat.progress import ProgressDisplay
from brainfeat.subjects.failures import one_line
from brainfeat.subjects.subject import Outcome

T = TypeVar("T")


class ProgressTracker:
    """Show each preprocessed scan, and each step or, without a bar, some steps."""

    def __init__(self, log_every: int, *, show: bool = True) -> None:
        self._log_every, self._show = log_every, show

    def __call__(
        self, items: Iterable[T], *, total: int, description: str, n_before: int = 0
    ) -> Iterator[T]:
        """Yield the items unchanged, and show each."""
        log_every = self._log_every if description == "training" else 1
        with ProgressDisplay(
            description, total, n_before=n_before, log_every=log_every, show=self._show
        ) as display:
            for item in items:
                if isinstance(item, TrainingStep):
                    display.advance(detail=_describe_step(item))
                elif isinstance(item, Outcome):
                    line = _describe_outcome(item)
                    display.advance(line=line, is_failure=item.error is not None)
                yield item


def _describe_step(step: TrainingStep) -> str:
    loss, pace = step.measures["total"], step.measures["subjects_per_second"]
    return f"loss {loss:.3f}, {pace:.1f} subjects/s"


def _describe_outcome(outcome: Outcome[Any]) -> str:
    status = f"failed: {outcome.error}" if outcome.error else "preprocessed"
    return one_line(f"{outcome.subject.participant_id}: {status}")


class TensorBoardLog:
    """Write the measures of each step as scalars.

    Curves of `next_step` and later, from before an interruption, are hidden.
    Raises a MissingDependencyError if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, next_step: int = 0) -> None:
        message = "TensorBoard is not installed: pip install 'brainfeat[tensorboard]'"
        self._module = import_optional("torch.utils.tensorboard", message)
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
