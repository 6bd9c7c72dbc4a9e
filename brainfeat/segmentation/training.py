"""The training loop of a decoder and, optionally, its encoder."""

__all__ = ["TrainingResult", "init_network", "train"]

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.exceptions import TrainingError
from brainfeat.metrics import dice_scores
from brainfeat.progress import ProgressDisplay
from brainfeat.segmentation.batches import BatchSource, DecoderBatch, DrawnCrops
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.losses import dice_ce_loss
from brainfeat.segmentation.network import SegmentationNetwork, init_decoder
from brainfeat.segmentation.plan import Split, TrainingPlan
from brainfeat.segmentation.run_state import SavedRun
from brainfeat.segmentation.store import LabelledStore
from brainfeat.segmentation.warm_start import DecoderStart

_WARM_UP = 0.1  # fraction of the steps
_WEIGHT_DECAY = 0.01
_CLIP_GRADIENT = 1.0
# Relative to the decoder's rate, so that the encoder keeps what it has learnt.
_ENCODER_RATE = 0.1
_N_VALIDATIONS = 10
_PATIENCE = 3


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
    *,
    start: DecoderStart | None = None,
    names: Mapping[int, str] = MappingProxyType({}),
) -> SegmentationNetwork:
    """Combine a checkpoint's encoder, shared if it is frozen, with a new decoder.

    It starts from another one, if there is one; ``names`` tell which classes are equal.
    """
    if plan.freeze_encoder:
        encoder = shared_encoder(checkpoint, device)
    else:
        encoder = checkpoint.build_encoder().to(device)
    n_classes, prior = len(store.classes), store.prior(split.train)  # no held-out ones
    settings = checkpoint.config.encoder
    if start is None:
        decoder = init_decoder(settings, space, n_classes, plan.seed)
    else:
        sizes = {"width": start.decoder.config.width, "n_places": len(start.prior)}
        decoder = init_decoder(settings, space, n_classes, plan.seed, **sizes)
        classes = [names.get(label, "") for label in store.classes]
        start.apply(decoder, space.modalities, classes)
        prior = torch.cat([prior, start.prior])
    return SegmentationNetwork(
        space=space, encoder=encoder, decoder=decoder, prior=prior, device=device
    )


def train(
    network: SegmentationNetwork,
    store: LabelledStore,
    split: Split,
    plan: TrainingPlan,
    *,
    source: BatchSource | None = None,
    saved: SavedRun | None = None,
    verbose: int = 0,
) -> TrainingResult:
    """Train a network in place.

    It keeps the best weights if subjects are held out, else the last ones. By default,
    batches are drawn by `DrawnCrops`. A saved run is resumed, and saved again as it
    goes on; it holds out no subjects. Its number of steps may have changed.
    """
    source = source or DrawnCrops(network, store, split.train, plan.freeze_encoder)
    generator = Generator().manual_seed(plan.seed)
    optimizer, schedule = _make_optimizer(network, plan)
    # A frozen encoder may be in use elsewhere: nothing is written to it.
    modules = _trained_modules(network, plan)
    best = _BestWeights(modules)
    curve = saved.restore(modules, optimizer, generator) if saved else []
    _forward(schedule, len(curve))
    with ProgressDisplay("training", plan.n_steps, show=verbose > 0) as display:
        for step in range(len(curve), plan.n_steps):
            _set_training(network, plan, training=True)
            loss = _accumulate(network, source, plan.batch_size, optimizer, generator)
            _check_loss(loss, step)
            for group in optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], _CLIP_GRADIENT)
            optimizer.step()
            schedule.step()
            curve.append(loss)
            display.advance(detail=f"loss {loss:.3f}")
            if saved and saved.is_due(step + 1, plan.n_steps):
                saved.save(modules, optimizer, generator, curve)
            if len(split.held_out) and _is_validation(step + 1, plan.n_steps):
                _set_training(network, plan, training=False)
                best.update(_validate(network, store, split.held_out))
                if best.n_since >= _PATIENCE:
                    break
    best.restore()
    _set_training(network, plan, training=False)
    return TrainingResult(curve, best.scores)


def _accumulate(
    network: SegmentationNetwork,
    source: BatchSource,
    n_subjects: int,
    optimizer: torch.optim.Optimizer,
    generator: Generator,
) -> float:
    """Compute the gradients of some subjects; return their mean loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for _ in range(n_subjects):
        batch = source.draw(generator)
        part = dice_ce_loss(_decode(network, batch), batch.labels)
        (part / n_subjects).backward()
        loss += float(part.detach()) / n_subjects
    return loss


def _forward(schedule: torch.optim.lr_scheduler.LRScheduler, n_steps: int) -> None:
    with warnings.catch_warnings():  # the optimizer's steps were of another process
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(n_steps):
            schedule.step()


def _check_loss(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise TrainingError(
            f"step {step}: expected a finite loss, got {loss}; lower learning_rate."
        )


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


def _decode(network: SegmentationNetwork, batch: DecoderBatch) -> Tensor:
    with network.precision():
        logits: Tensor = network.decoder(
            batch.voxels,
            batch.foreground,
            batch.tokens,
            batch.log_prior,
            present=batch.present,
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
        predicted = network.classify(
            volumes.coarse, volumes.fine, volumes.encoder_present, volumes.present
        )
        truth = network.to_slices(volumes.labels)[0, 0].cpu().numpy()
        scores.append(dice_scores(truth, predicted, classes))
    return float(np.nanmean(scores))
