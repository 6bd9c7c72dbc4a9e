"""How long to train: by the loss of people who were held out."""

__all__ = ["HeldOut", "cross_validate"]

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.finetuning.network import FinetuningNetwork
from brainfeat.finetuning.plan import FinetuningPlan
from brainfeat.finetuning.probe import Probe, fit_probe, split_people
from brainfeat.finetuning.training import TrainingData, score_views, train
from brainfeat.models.threads import map_in_threads

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_MAX_THREADS = 2  # each holds a copy of the trained blocks


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Scores of subjects by networks that did not see them."""

    steps: tuple[int, ...]  # trained before; the first is 0, the probe alone
    scores: Floats  # steps n K
    losses: Floats  # steps n
    folds: Rows  # n, the fold of each subject

    @property
    def n_steps(self) -> int:
        """Steps of the least loss; 0 unless it is clearly less than the probe's."""
        return self.steps[_choose(self.losses)]

    @property
    def unbiased(self) -> Floats:
        """Scores (n, K) after the steps that the other folds choose."""
        rows: Floats = np.empty(self.scores.shape[1:])
        for fold in np.unique(self.folds):
            is_in = self.folds == fold
            rows[is_in] = self.scores[_choose(self.losses[:, ~is_in]), is_in]
        return rows


def cross_validate(
    data: TrainingData,
    plan: FinetuningPlan,
    build: Callable[[Probe], FinetuningNetwork],
    device: torch.device,
    advance: Callable[[], None] = lambda: None,
) -> HeldOut | None:
    """Train on all folds of people but one, and score those of this one.

    ``advance`` is called after each step. None if there are too few people.
    """
    targets, groups = data.targets, data.groups
    folds = [*split_people(targets.strata, groups, plan.n_folds, plan.seed)]
    if not folds:
        return None
    steps = plan.checkpoints
    scores = np.zeros((len(steps), len(groups), targets.n_outputs))

    def run(fold: tuple[Rows, Rows]) -> None:
        training, tested = fold
        part = targets.take(training)
        features = data.features[training]
        probe = fit_probe(features, part, groups[training], seed=plan.seed)
        network = build(probe)
        views = [data.views[row][0] for row in tested]
        scores[0, tested] = probe.score(data.features[tested])

        def report(n_done: int, _: float) -> None:
            advance()
            if n_done in steps:
                found = score_views(network, views).double().numpy()
                scores[steps.index(n_done), tested] = found

        penalty = part.penalty(probe.strength)
        n_steps = plan.n_steps
        train(
            *(network, data, training, plan),
            n_steps=n_steps,
            penalty=penalty,
            report=report,
        )

    with map_in_threads(run, folds, device=device, max_threads=_MAX_THREADS) as done:
        for _ in done:
            pass
    rows = np.arange(len(groups))
    losses = [targets.losses(torch.from_numpy(s), rows).numpy() for s in scores]
    numbers = np.zeros(len(groups), dtype=np.intp)
    for number, (_, tested) in enumerate(folds):
        numbers[tested] = number
    return HeldOut(steps, scores, np.stack(losses), numbers)


def _choose(losses: Floats) -> int:
    """Return the row of the least mean loss, if it is less than the first's."""
    gains = losses[0] - losses  # steps n
    best = int(gains.mean(axis=1).argmax())
    error = gains[best].std() / np.sqrt(gains.shape[1])
    return best if gains[best].mean() > error else 0
