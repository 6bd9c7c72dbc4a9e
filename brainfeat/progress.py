"""What a user sees of long work: a bar on a terminal, elsewhere about ten log lines."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, track

__all__ = ["show_steps", "show_subjects"]

_LOGGER = logging.getLogger(__name__)
_N_LINES = 10

Result = TypeVar("Result")


def show_subjects(
    results: Iterable[Result], n_subjects: int, *, done: str, verbose: int
) -> Iterator[Result]:
    """Show how many subjects are done.

    Parameters
    ----------
    results : iterable
        One a subject.
    n_subjects : int
        Number of subjects.
    done : str
        What becomes of each, such as "embedded".
    verbose : int
        Nothing is shown at 0.

    Yields
    ------
    object
        Each result.
    """
    if verbose > 0 and sys.stderr.isatty():
        console = Console(stderr=True)
        yield from track(results, done.capitalize(), n_subjects, console=console)
        return
    for n_done, result in enumerate(results, start=1):
        yield result
        if verbose > 0 and n_done % max(1, n_subjects // _N_LINES) == 0:
            _LOGGER.info("%s %d of %d subjects", done, n_done, n_subjects)


@contextmanager
def show_steps(n_steps: int, *, verbose: int) -> Iterator[Callable[[int, float], None]]:
    """Show the steps of a training, and their loss.

    Parameters
    ----------
    n_steps : int
        Number of steps.
    verbose : int
        Nothing is shown at 0.

    Yields
    ------
    callable
        To be told of each step: how many are done, and the loss.
    """
    if verbose > 0 and sys.stderr.isatty():
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("Training", total=n_steps)

            def show(n_done: int, loss: float) -> None:
                text = f"Training (loss {loss:.3f})"
                progress.update(task, completed=n_done, description=text)

            yield show
        return

    def log(n_done: int, loss: float) -> None:
        if verbose > 0 and n_done % max(1, n_steps // _N_LINES) == 0:
            _LOGGER.info("step %d of %d: loss %.3f", n_done, n_steps, loss)

    yield log
