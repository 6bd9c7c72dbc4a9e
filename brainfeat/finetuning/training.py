"""The training of a network from its linear probe."""

__all__ = ["TrainingData", "score_views", "train"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from brainfeat.exceptions import TrainingError
from brainfeat.finetuning.network import FinetuningNetwork, View
from brainfeat.finetuning.plan import FinetuningPlan
from brainfeat.finetuning.targets import Targets

Rows = NDArray[np.intp]

_WARM_UP = 0.1  # fraction of the steps
_CLIP_GRADIENT = 1.0
_WEIGHT_DECAY = 0.01
# Relative to the encoder's: tokens are long, so that small queries choose few of them,
# and the probe is nearly at its optimum.
_QUERY_RATE, _HEAD_RATE = 0.03, 0.3


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Views of subjects: the first as they are, others augmented; and their labels."""

    views: Sequence[Sequence[View]]
    targets: Targets
    groups: Rows  # the person of each subject
    # (n, views, D): mean tokens of the frozen encoder.
    view_features: NDArray[np.float64]

    @property
    def features(self) -> NDArray[np.float64]:
        """Mean tokens (n, D) of subjects as they are."""
        return self.view_features[:, 0]

    def draw(self, row: int, generator: Generator) -> tuple[View, Tensor]:
        """Draw one of the views of a subject, with its mean token (D,)."""
        views = self.views[row]
        index = int(torch.randint(len(views), (), generator=generator))
        return views[index], torch.from_numpy(self.view_features[row, index])


def train(
    network: FinetuningNetwork,
    data: TrainingData,
    rows: Rows,
    plan: FinetuningPlan,
    *,
    n_steps: int,
    penalty: float,
    report: Callable[[int, float], None],
) -> None:
    """Train in place; call ``report`` with the number of steps done and the loss.

    ``penalty`` is that of the probe, so that its weights are where this loss begins.
    """
    generator = Generator().manual_seed(plan.seed)
    optimizer = _make_optimizer(network, plan)
    n_warm_up = max(1, round(_WARM_UP * plan.n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / n_warm_up)
    )
    order: list[int] = []
    for step in range(n_steps):
        while len(order) < plan.batch_size:
            order += rows[torch.randperm(len(rows), generator=generator)].tolist()
        batch, order = order[: plan.batch_size], order[plan.batch_size :]
        optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for row in batch:
            view, first = data.draw(row, generator)
            pooled = network.pool(view)
            network.head.follow(pooled - first.to(pooled))
            scores = network.head.score(pooled)
            part = data.targets.losses(scores, np.array([row])).sum() / len(batch)
            part.backward()
            loss += float(part.detach())
        shrinkage = 0.5 * penalty * network.head.weight.square().sum()
        shrinkage.backward()
        if not np.isfinite(loss):
            raise TrainingError(
                f"step {step}: expected a finite loss, got {loss}; lower learning_rate."
            )
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], _CLIP_GRADIENT)
        optimizer.step()
        schedule.step()
        report(step + 1, loss)


@torch.no_grad()
def score_views(network: FinetuningNetwork, views: Sequence[View]) -> Tensor:
    """Score subjects one by one: (n, K) on the CPU."""
    return torch.cat([network(view) for view in views]).cpu()


def _make_optimizer(
    network: FinetuningNetwork, plan: FinetuningPlan
) -> torch.optim.Optimizer:
    head, rate = network.head, plan.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": [*network.trained().values()]},
        {"params": head.query_parameters(), "lr": _QUERY_RATE * rate},
        # The probe has its own penalty.
        {
            "params": [head.weight, head.bias],
            "lr": _HEAD_RATE * rate,
            "weight_decay": 0.0,
        },
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=rate, weight_decay=_WEIGHT_DECAY)
