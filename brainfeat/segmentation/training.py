"""The loop that trains a decoder, and an encoder with it if asked to."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brainfeat.exceptions import MissingDependencyError, TrainingError
from brainfeat.metrics import dice_scores
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.stacks import StackPlan, Stacks, StackSizes
from brainfeat.segmentation.store import LabelledStore, LabelledVolumes

__all__ = ["TrainingPlan", "TrainingResult", "import_monai", "train"]

_WARM_UP = 0.1  # of the steps
_WEIGHT_DECAY = 0.01
_CLIP_GRADIENT = 1.0
# The encoder knows more than the decoder does, and should not forget it at once.
_ENCODER_RATE = 0.1
# A stack has about so many slices of the encoder's grid: what fits a cache.
_SLICES = 8
_N_STACKS = 2
# Voxels times classes of a stack, so that many classes do not fill the memory.
_SCORES = 30_000_000
_N_CHECKS = 10
_PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a training goes.

    Parameters
    ----------
    n_steps : int
        Steps, unless it stops early.
    learning_rate : float
        Highest rate of the decoder.
    batch_size : int
        Subjects of a step.
    freeze_encoder : bool
        Whether the encoder stays as it is.
    hide_modalities : bool
        Whether to take a modality away now and then.
    seed : int
        Of all randomness.
    train, held_out : ndarray of int
        Places of subjects in the store.
    """

    n_steps: int
    learning_rate: float
    batch_size: int
    freeze_encoder: bool
    hide_modalities: bool
    seed: int
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


class TrainingResult(NamedTuple):
    """What a training leaves beside the weights.

    Attributes
    ----------
    loss_curve : list of float
        Loss of each step.
    validation_scores : list of float
        Mean Dice of the held-out subjects at each check.
    """

    loss_curve: list[float]
    validation_scores: list[float]


def train(
    network: SegmentationNetwork,
    store: LabelledStore,
    plan: TrainingPlan,
    *,
    on_step: Callable[[int, float], None],
) -> TrainingResult:
    """Train a network in place.

    Parameters
    ----------
    network : SegmentationNetwork
        Its decoder has its first weights.
    store : LabelledStore
        Labelled subjects.
    plan : TrainingPlan
        How the training goes.
    on_step : callable
        Called with the number of steps that are done and the loss.

    Returns
    -------
    TrainingResult
        Curves; the network has the best weights if subjects were held out, else the
        last ones.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    loss_function = import_monai("monai.losses").DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True
    )
    optimizer, schedule = _make_optimizer(network, plan)
    # A frozen encoder has no best weights: it is left alone, and may be shared.
    best = _Best(_trained_modules(network, plan))
    curve: list[float] = []
    for step in range(plan.n_steps):
        _set_training(network, plan, training=True)
        optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for _ in range(plan.batch_size):
            stacks = _draw(network, store, plan, generator)
            part = loss_function(_decode(network, stacks, plan), stacks.labels)
            (part / plan.batch_size).backward()
            loss += float(part.detach()) / plan.batch_size
        if not np.isfinite(loss):
            raise TrainingError(
                f"step {step}: expected a finite loss, got {loss}; lower learning_rate."
            )
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], _CLIP_GRADIENT)
        optimizer.step()
        schedule.step()
        curve.append(loss)
        on_step(step + 1, loss)
        if len(plan.held_out) and _is_check(step + 1, plan.n_steps):
            _set_training(network, plan, training=False)
            best.update(_check(network, store, plan.held_out))
            if best.n_since >= _PATIENCE:
                break
    best.restore()
    _set_training(network, plan, training=False)
    return TrainingResult(curve, best.scores)


def import_monai(name: str) -> Any:
    """Import a module of monai, which takes seconds and is an extra.

    Parameters
    ----------
    name : str
        Such as ``"monai.losses"``.

    Returns
    -------
    module
        The module.

    Raises
    ------
    MissingDependencyError
        If monai is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            "SegmentationEstimator.fit needs monai: "
            'pip install "brainfeat[segmentation]"'
        ) from error


@dataclass
class _Best:
    """The best weights so far, by the held-out subjects."""

    modules: Sequence[nn.Module]
    scores: list[float] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    n_since: int = 0

    def update(self, score: float) -> None:
        is_best = score > max(self.scores, default=-1.0)
        self.scores.append(score)
        self.n_since = 0 if is_best else self.n_since + 1
        if is_best:
            self.states = [copy.deepcopy(m.state_dict()) for m in self.modules]

    def restore(self) -> None:
        for module, state in zip(self.modules, self.states, strict=False):
            module.load_state_dict(state)


def _is_check(n_done: int, n_steps: int) -> bool:
    """Whether a tenth of the steps is done, or all of them: the last may be best."""
    return n_done % math.ceil(n_steps / _N_CHECKS) == 0 or n_done == n_steps


def _trained_modules(
    network: SegmentationNetwork, plan: TrainingPlan
) -> list[nn.Module]:
    return [network.decoder, *([] if plan.freeze_encoder else [network.encoder])]


def _make_optimizer(
    network: SegmentationNetwork, plan: TrainingPlan
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    modules = _trained_modules(network, plan)
    groups: list[dict[str, Any]] = [{"params": [*m.parameters()]} for m in modules]
    rates = [plan.learning_rate, plan.learning_rate * _ENCODER_RATE][: len(groups)]
    optimizer = torch.optim.AdamW(
        groups, lr=plan.learning_rate, weight_decay=_WEIGHT_DECAY
    )
    total = plan.n_steps + 1
    # The rise must end after the first step and not at it.
    share = max(_WARM_UP, 1.5 / total)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rates, total_steps=total, pct_start=share
    )
    return optimizer, schedule


def _set_training(
    network: SegmentationNetwork, plan: TrainingPlan, *, training: bool
) -> None:
    network.decoder.train(training)
    network.encoder.train(training and not plan.freeze_encoder)


def _draw(
    network: SegmentationNetwork,
    store: LabelledStore,
    plan: TrainingPlan,
    generator: torch.Generator,
) -> Stacks:
    space, thickness = network.space, network.grid.thickness
    drawn = StackPlan.draw(
        store,
        plan.train,
        space.preprocessor.shape,
        network.grid,
        sizes=_stack_sizes(network, store),
        hide=plan.hide_modalities,
        generator=generator,
    )
    volumes = LabelledVolumes(
        *(tensor.to(network.device) for tensor in store.load(drawn.subject))
    )
    places = [space.encoder_modalities.index(name) for name in space.modalities]
    return drawn.apply(volumes, places, thickness, space.upsampling)


def _stack_sizes(network: SegmentationNetwork, store: LabelledStore) -> StackSizes:
    n_slabs = store.slab_counts.shape[2]
    wanted = max(1, round(_SLICES / network.grid.thickness))
    n_voxels = int(np.prod(network.space.fine_geometry.shape)) // n_slabs
    affordable = max(1, _SCORES // (n_voxels * len(store.classes) * _N_STACKS))
    return StackSizes(_N_STACKS, min(wanted, affordable, n_slabs))


def _decode(network: SegmentationNetwork, stacks: Stacks, plan: TrainingPlan) -> Tensor:
    with torch.set_grad_enabled(not plan.freeze_encoder):
        tokens = network.tokens(stacks.coarse, stacks.encoder_present)
    thickness = network.grid.thickness
    parts = [slice(first, first + stacks.n_slabs) for first in stacks.first_slabs]
    log_prior = torch.cat(
        [
            network.log_prior[:, :, part.start * thickness : part.stop * thickness]
            for part in parts
        ]
    )
    logits: Tensor = network.decoder(
        stacks.voxels,
        stacks.foreground,
        [torch.cat([depth[:, part] for part in parts]) for depth in tokens],
        log_prior,
        present=stacks.present,
    )
    return logits


@torch.inference_mode()
def _check(
    network: SegmentationNetwork, store: LabelledStore, held_out: NDArray[np.int64]
) -> float:
    """Compute the mean Dice of the held-out subjects on the fine grid."""
    scores = []
    classes = range(1, len(store.classes))
    for subject in held_out:
        volumes = LabelledVolumes(
            *(tensor.to(network.device) for tensor in store.load(int(subject)))
        )
        parts = network.decode(
            volumes.coarse, volumes.fine, volumes.encoder_present, volumes.present
        )
        found = torch.cat([logits.argmax(1)[0] for logits in parts]).cpu().numpy()
        truth = network.to_stack(volumes.labels)[0, 0].cpu().numpy()
        scores.append(dice_scores(truth, found, classes))
    return float(np.nanmean(scores))
