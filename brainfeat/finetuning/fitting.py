"""From labelled subjects to an adapted encoder and its head."""

__all__ = ["Fitted", "encode_subjects", "finetune", "pool_features"]

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from brainfeat.finetuning.adapters import adapt_encoder
from brainfeat.finetuning.head import TaskHead
from brainfeat.finetuning.network import FinetuningNetwork, FrozenTrunk, View
from brainfeat.finetuning.plan import FinetuningPlan
from brainfeat.finetuning.probe import Probe, fit_probe
from brainfeat.finetuning.reading import SubjectReader
from brainfeat.finetuning.selection import HeldOut, cross_validate
from brainfeat.finetuning.training import TrainingData, train
from brainfeat.models.protocol import Encoder
from brainfeat.progress import ProgressDisplay, track
from brainfeat.subjects.failures import add_context
from brainfeat.subjects.subject import Subject
from brainfeat.workers import Prefetch

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class Fitted(NamedTuple):
    """An adapted encoder with its head, and what its training tells of it."""

    updates: dict[str, Tensor]  # of the encoder's weights; empty for the probe alone
    head: TaskHead
    n_steps: int
    loss_curve: list[float]  # of each step
    held_out: HeldOut | None


def encode_subjects(
    subjects: Sequence[Subject],
    reader: SubjectReader,
    trunk: FrozenTrunk,
    *,
    n_views: int,
    seed: int,
    n_jobs: int,
    verbose: int = 0,
) -> list[list[View]]:
    """Preprocess subjects, and run the frozen blocks on each and its augmented copies.

    The error of the first subject that cannot be read is raised.
    """

    def read(item: tuple[int, Subject]) -> list[tuple[Tensor, Tensor, Tensor]]:
        index, subject = item
        # A subject's copies do not depend on the others.
        generator = Generator().manual_seed(seed + index)
        try:
            processed, _ = reader.read(subject)
            copies = (reader.augment(processed, generator) for _ in range(n_views))
            return [reader.input_of(processed), *copies]
        except Exception as error:
            raise add_context(error, subject) from error

    n = len(subjects)
    with Prefetch(
        read, enumerate(subjects), n_threads=n_jobs, n_ahead=n_jobs + 1
    ) as inputs:
        shown = track(inputs, total=n, description="reading", show=verbose > 0)
        return [[trunk.encode(*one) for one in views] for views in shown]


def pool_features(
    encoder: Encoder, views: Sequence[Sequence[View]], trunk: FrozenTrunk
) -> Floats:
    """Average the tokens of the frozen encoder over each brain: (n, views, D)."""
    head = TaskHead(encoder.config.embed_dim, 1, "mean").to(trunk.device)
    network = FinetuningNetwork(encoder, head, trunk.first_block)
    with torch.no_grad():
        rows = [torch.cat([network.pool(view) for view in each]) for each in views]
    return np.stack([row.double().cpu().numpy() for row in rows])


def finetune(
    encoder: Encoder,
    data: TrainingData,
    plan: FinetuningPlan,
    device: torch.device,
    *,
    verbose: int = 0,
) -> Fitted:
    """Train from the linear probe, as many steps as held-out people gain by."""
    first_block = plan.first_block(encoder.config.depth)
    targets, groups = data.targets, data.groups

    def build(probe: Probe) -> FinetuningNetwork:
        adapted = adapt_encoder(
            encoder,
            plan.adapt,
            first_block=first_block or 0,
            rank=plan.rank,
            seed=plan.seed,
        )
        dim, n_outputs = encoder.config.embed_dim, targets.n_outputs
        head = TaskHead(dim, n_outputs, plan.pooling)
        head.start_from(probe)
        return FinetuningNetwork(adapted, head.to(device), first_block)

    total = plan.n_steps * (plan.n_folds + 1)
    with ProgressDisplay("fine-tuning", total, show=verbose > 0) as display:
        held_out = cross_validate(data, plan, build, device, display.advance)
        probe = fit_probe(data.features, targets, groups, seed=plan.seed)
        network, curve = build(probe), []
        n_steps = plan.n_steps if held_out is None else held_out.n_steps

        def report(_: int, loss: float) -> None:
            curve.append(loss)
            display.advance(detail=f"loss {loss:.3f}")

        train(
            network,
            data,
            np.arange(len(groups)),
            plan,
            n_steps=n_steps,
            penalty=targets.penalty(probe.strength),
            report=report,
        )
    if not n_steps:
        return Fitted({}, TaskHead.of_probe(probe), 0, curve, held_out)
    return Fitted(network.updates(), network.copy_head(), n_steps, curve, held_out)
