"""The checkpoint of a run."""

__all__ = ["export_checkpoint"]

import dataclasses

from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.models.heads import AnatomyHead
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.run_state import whole_tensor
from brainfeat.pretraining.self_distillation import HeadedEncoder
from brainfeat.pretraining.source import SubjectSource

_OBJECTIVES = {
    "dino": "DINO",
    "ibot": "iBOT",
    "koleo": "KoLeo",
    "infonce": "InfoNCE",
    "anatomy": "anatomy",
}


def export_checkpoint(
    teacher: HeadedEncoder,
    config: PretrainingConfig,
    source: SubjectSource,
    *,
    n_steps: int,
) -> Checkpoint:
    """Make a checkpoint of the teacher's encoder, in float32 on the CPU.

    An anatomy head becomes the encoder's read-out of the tissues. Every rank must call
    this.
    """
    encoder, head = teacher.get_submodule("encoder"), teacher.anatomy_head
    state = {name: whole_tensor(v) for name, v in encoder.state_dict().items()}
    tissues: tuple[str, ...] = ()
    if head is not None:
        tissues = tuple(source.tissues)
        state |= _read_out(head, [source.targets.index(name) for name in tissues])
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
        encoder=dataclasses.replace(config.encoder, drop_path=0.0, tissues=tissues),
        plane=config.views.planes[0],
        preprocessing=dict(source.preprocessing),
        pooling="mean",
        missing_modalities=config.views.hidden_modalities > 0
        and len(config.encoder.modalities) > 1,
        trained=True,
        description=description,
    )
    return Checkpoint(checkpoint_config, state)


def _read_out(head: AnatomyHead, indices: list[int]) -> dict[str, Tensor]:
    """Fold the standardisation of a head into its weights."""
    if not indices:
        return {}
    values = {name: whole_tensor(value) for name, value in head.state_dict().items()}
    weight = values["linear.weight"] * values["spread"][:, None]
    bias = values["linear.bias"] * values["spread"] + values["mean"]
    return {"anatomy.weight": weight[indices], "anatomy.bias": bias[indices]}
