"""The loss, and the training loop of a decoder and, optionally, its encoder."""

__all__ = ["TrainingResult", "dice_ce_loss", "dice_loss", "init_network", "train"]

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.exceptions import TrainingError
from brainfeat.metrics import dice_scores
from brainfeat.progress import ProgressDisplay
from brainfeat.segmentation.crops import CropPlan, CropSizes, TrainingCrops
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import SegmentationNetwork, init_decoder
from brainfeat.segmentation.plan import Split, TrainingPlan
from brainfeat.segmentation.store import LabelledStore

_WARM_UP = 0.1  # fraction of the steps
_WEIGHT_DECAY = 0.01
_CLIP_GRADIENT = 1.0
# Relative to the decoder's rate, so that the encoder keeps what it has learnt.
_ENCODER_RATE = 0.1
# Crops have about this many slices of the encoder's grid, which fit a CPU's cache.
_N_SLICES = 8
_N_CROPS = 2
# Limit of voxels times classes of a crop, so that many classes fit the memory.
_MAX_SCORES = 30_000_000
_N_VALIDATIONS = 10
_PATIENCE = 3
# Keeps the ratio defined for a class that neither labels nor prediction have.
_SMOOTHING = 1e-5


class TrainingResult(NamedTuple):
    """Curves of one training."""

    loss_curve: list[float]  # of each step
    validation_scores: list[float]  # mean Dice of the held-out subjects


def init_network(
    checkpoint: Checkpoint,
    space: SegmentationSpace,
    store: LabelledStore,
    split: Split,
    plan: TrainingPlan,
    device: torch.device,
) -> SegmentationNetwork:
    """Combine a checkpoint's encoder, shared if it is frozen, with a new decoder."""
    if plan.freeze_encoder:
        encoder = shared_encoder(checkpoint, device)
    else:
        encoder = checkpoint.build_encoder().to(device)
    return SegmentationNetwork(
        space=space,
        encoder=encoder,
        decoder=init_decoder(
            checkpoint.config.encoder, space, len(store.classes), plan.seed
        ),
        prior=store.prior(split.train),  # held-out labels must not leak
        device=device,
    )


def train(
    network: SegmentationNetwork,
    store: LabelledStore,
    split: Split,
    plan: TrainingPlan,
    *,
    verbose: int = 0,
) -> TrainingResult:
    """Train a network in place.

    It keeps the best weights if subjects are held out, else the last ones.
    """
    generator = Generator().manual_seed(plan.seed)
    sizes, space = _crop_sizes(network, store), network.space
    optimizer, schedule = _make_optimizer(network, plan)
    # A frozen encoder may be in use elsewhere: nothing is written to it.
    best = _BestWeights(_trained_modules(network, plan))
    curve: list[float] = []
    with ProgressDisplay("training", plan.n_steps, show=verbose > 0) as display:
        for step in range(plan.n_steps):
            _set_training(network, plan, training=True)
            optimizer.zero_grad(set_to_none=True)
            loss = 0.0
            for _ in range(plan.batch_size):
                drawn = CropPlan.draw(
                    store, split.train, space, sizes=sizes, generator=generator
                )
                crops = drawn.apply(store.load(drawn.subject).to(network.device), space)
                part = dice_ce_loss(_decode(network, crops, plan), crops.labels)
                (part / plan.batch_size).backward()
                loss += float(part.detach()) / plan.batch_size
            if not np.isfinite(loss):
                raise TrainingError(
                    f"step {step}: expected a finite loss, got {loss}; lower "
                    "learning_rate."
                )
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], _CLIP_GRADIENT)
            optimizer.step()
            schedule.step()
            curve.append(loss)
            display.advance(detail=f"loss {loss:.3f}")
            if len(split.held_out) and _is_validation(step + 1, plan.n_steps):
                _set_training(network, plan, training=False)
                best.update(_validate(network, store, split.held_out))
                if best.n_since >= _PATIENCE:
                    break
    best.restore()
    _set_training(network, plan, training=False)
    return TrainingResult(curve, best.scores)


@dataclass
class _BestWeights:
    """The weights of the highest validation score so far."""

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


def _is_validation(n_done: int, n_steps: int) -> bool:
    """Whether a tenth of the steps is done, or all of them: the last may be best."""
    return n_done % math.ceil(n_steps / _N_VALIDATIONS) == 0 or n_done == n_steps


def _trained_modules(
    network: SegmentationNetwork, plan: TrainingPlan
) -> list[nn.Module]:
    return [network.decoder, *([] if plan.freeze_encoder else [network.encoder])]


def _make_optimizer(
    network: SegmentationNetwork, plan: TrainingPlan
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    modules = _trained_modules(network, plan)
    groups = [{"params": [*module.parameters()]} for module in modules]
    rate = plan.learning_rate
    rates = [rate, rate * _ENCODER_RATE][: len(groups)]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=_WEIGHT_DECAY)
    n_total = plan.n_steps + 1
    # The schedule fails if the warm-up ends exactly at the first step.
    warm_up = max(_WARM_UP, 1.5 / n_total)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rates, total_steps=n_total, pct_start=warm_up
    )
    return optimizer, schedule


def _set_training(
    network: SegmentationNetwork, plan: TrainingPlan, *, training: bool
) -> None:
    network.decoder.train(training)
    network.encoder.train(training and not plan.freeze_encoder)


def _crop_sizes(network: SegmentationNetwork, store: LabelledStore) -> CropSizes:
    n_slabs = store.slab_counts.shape[2]
    target = max(1, round(_N_SLICES / network.grid.thickness))
    n_voxels = int(np.prod(network.space.fine_shape)) // n_slabs
    limit = max(1, _MAX_SCORES // (n_voxels * len(store.classes) * _N_CROPS))
    return CropSizes(_N_CROPS, min(target, limit, n_slabs))


def _decode(
    network: SegmentationNetwork, crops: TrainingCrops, plan: TrainingPlan
) -> Tensor:
    with torch.set_grad_enabled(not plan.freeze_encoder):
        tokens = network.tokens(crops.coarse, crops.encoder_present)
    thickness = network.grid.thickness
    parts = [slice(first, first + crops.n_slabs) for first in crops.first_slabs]
    slices = [slice(p.start * thickness, p.stop * thickness) for p in parts]
    log_prior = torch.cat([network.log_prior[:, :, part] for part in slices])
    with network.precision():
        logits: Tensor = network.decoder(
            crops.voxels,
            crops.foreground,
            [torch.cat([depth[:, part] for part in parts]) for depth in tokens],
            log_prior,
            present=crops.present,
        )
    return logits


@torch.inference_mode()
def _validate(
    network: SegmentationNetwork, store: LabelledStore, held_out: NDArray[np.int64]
) -> float:
    """Compute the mean Dice of the held-out subjects on the fine grid."""
    scores = []
    classes = range(1, len(store.classes))
    for row in held_out:
        volumes = store.load(int(row)).to(network.device)
        parts = network.decode(
            volumes.coarse, volumes.fine, volumes.encoder_present, volumes.present
        )
        predicted = torch.cat([logits.argmax(1)[0] for logits in parts]).cpu().numpy()
        truth = network.to_slices(volumes.labels)[0, 0].cpu().numpy()
        scores.append(dice_scores(truth, predicted, classes))
    return float(np.nanmean(scores))


def dice_ce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Add Dice loss and cross-entropy; logits (B, K, ...), labels (B, 1, ...)."""
    return dice_loss(logits, labels) + F.cross_entropy(logits, labels[:, 0].long())


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Average one minus the soft Dice over foreground classes, pooled over the batch.

    The V-Net loss (Milletari et al., 2016, doi:10.1109/3DV.2016.79) without squares.
    """
    probabilities = logits.softmax(1)[:, 1:]  # background is class 0
    spatial = [1] * (logits.ndim - 2)
    classes = torch.arange(1, logits.shape[1], device=logits.device)
    truth = (labels == classes.view(1, -1, *spatial)).to(logits.dtype)
    pooled = (0, *range(2, logits.ndim))
    overlap = (probabilities * truth).sum(pooled)
    total = probabilities.sum(pooled) + truth.sum(pooled)
    return (1 - (2 * overlap + _SMOOTHING) / (total + _SMOOTHING)).mean()
