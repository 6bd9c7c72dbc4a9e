"""Progress and summary of a pretraining run."""

__all__ = ["TrainingDisplay", "format_training"]

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from brainfeat.pretraining.store_writer import ScanEvent
from brainfeat.pretraining.trainer import StepEvent
from brainfeat.progress import ProgressDisplay
from brainfeat.subjects.failures import one_line

if TYPE_CHECKING:
    from brainfeat.pretraining.run import TrainingSummary


class TrainingDisplay:
    """Show the scans that are preprocessed, and then the training steps."""

    def __init__(self, log_every: int) -> None:
        self._log_every = log_every
        self._displays: dict[str, ProgressDisplay] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __call__(self, event: ScanEvent | StepEvent) -> None:
        """Show one scan or one step."""
        if isinstance(event, ScanEvent):
            display = self._display("preprocessing", event.n_done, event.n_scans, 1)
            reason = f"failed: {one_line(str(event.error))}" if event.error else ""
            line = f"{one_line(event.scan.subject)}: {reason or 'preprocessed'}"
            display.advance(line=line, is_failure=event.error is not None)
            return
        display = self._display(
            "training", event.n_done, event.n_steps, self._log_every
        )
        loss, pace = event.measures["total"], event.measures["subjects_per_second"]
        display.advance(detail=f"loss {loss:.3f}, {pace:.1f} subjects/s")

    def _display(
        self, task: str, n_done: int, total: int, log_every: int
    ) -> ProgressDisplay:
        if task not in self._displays:
            self._stack.close()  # the bar of the stage before
            display = ProgressDisplay(
                task, total, n_before=n_done - 1, log_every=log_every
            )
            self._displays[task] = self._stack.enter_context(display)
        return self._displays[task]


def format_training(summary: "TrainingSummary") -> str:
    """Describe a finished run in a few lines."""
    lines = [f"{summary.n_steps} steps done"]
    if summary.loss is not None:
        lines[0] += f", final loss {summary.loss:.3f}"
    if summary.failed:
        lines[0] += f", {len(summary.failed)} failed"
    lines.append(f"checkpoint: {summary.folder}")
    if summary.failures is not None:
        lines.append(f"failures:   {summary.failures}")
    return "\n".join(lines)
