"""Between the networks of a run and the checkpoints of everyone else."""

__all__ = ["export_checkpoint", "start_from"]

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.models.heads import AnatomyHead
from brainfeat.models.transfer import adapt_state
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.run_state import whole_tensor
from brainfeat.pretraining.self_distillation import SelfDistillation

_OBJECTIVES = {
    "dino": "DINO",
    "ibot": "iBOT",
    "koleo": "KoLeo",
    "infonce": "InfoNCE",
    "anatomy": "anatomy",
}


def start_from(
    model: SelfDistillation, init: str | os.PathLike[str] | Checkpoint
) -> None:
    """Give student and teacher the encoder of a checkpoint.

    Channels, image size and slab mixing are adapted; the heads stay as they are.

    Parameters
    ----------
    model : SelfDistillation
        Not wrapped yet; its encoders are overwritten.
    init : path-like, str or Checkpoint
        A checkpoint, or anything that ``Checkpoint.load`` takes.
    """
    checkpoint = init if isinstance(init, Checkpoint) else Checkpoint.load(init)
    state = adapt_state(
        checkpoint.state, checkpoint.config.encoder, model.config.encoder
    )
    for network in (model.student, model.teacher):
        network.get_submodule("encoder").load_state_dict(state)


def export_checkpoint(
    encoder: nn.Module,
    config: PretrainingConfig,
    preprocessing: Mapping[str, Any],
    *,
    n_steps: int,
    anatomy_head: AnatomyHead | None = None,
    quantities: Sequence[str] = (),
    tissues: Sequence[str] = (),
) -> Checkpoint:
    """Make a checkpoint of an encoder.

    Every process must call it.

    Parameters
    ----------
    encoder : nn.Module
        The teacher's `SlabEncoder`.
    config : PretrainingConfig
        How it was trained.
    preprocessing : mapping
        How its volumes were made.
    n_steps : int
        Steps that it was trained for.
    anatomy_head : AnatomyHead, optional
        The teacher's, if it learnt to read quantities from the tokens.
    quantities : sequence of str
        Names of what it reads.
    tissues : sequence of str
        Those that the checkpoint is to read.

    Returns
    -------
    Checkpoint
        Weights in float32 on the CPU.
    """
    state = {name: whole_tensor(v) for name, v in encoder.state_dict().items()}
    read: tuple[str, ...] = ()
    if anatomy_head is not None:
        read = tuple(tissues)
        state |= _read_out(anatomy_head, [quantities.index(name) for name in tissues])
    objectives = [
        f"{label} {getattr(config, f'{name}_weight'):g}"
        for name, label in _OBJECTIVES.items()
        if getattr(config, f"{name}_weight") > 0
    ]
    description = (
        f"Pretrained for {n_steps} steps of {config.batch_size} subjects, with "
        f"objectives {', '.join(objectives)}."
    )
    checkpoint_config = CheckpointConfig(
        # Stochastic depth belongs to the training, not to the encoder.
        encoder=dataclasses.replace(config.encoder, drop_path=0.0, tissues=read),
        plane=config.views.planes[0],
        preprocessing=dict(preprocessing),
        pooling="mean",
        missing_modalities=config.views.hidden_modalities > 0
        and len(config.encoder.modalities) > 1,
        trained=True,
        description=description,
    )
    return Checkpoint(checkpoint_config, state)


def _read_out(head: AnatomyHead, places: Sequence[int]) -> dict[str, Tensor]:
    """Take a head's units into its weights, for quantities as they are."""
    if not places:
        return {}
    values = {name: whole_tensor(value) for name, value in head.state_dict().items()}
    weight = values["linear.weight"] * values["spread"][:, None]
    bias = values["linear.bias"] * values["spread"] + values["mean"]
    rows = list(places)
    return {"anatomy.weight": weight[rows], "anatomy.bias": bias[rows]}
