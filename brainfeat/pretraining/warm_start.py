"""How a run starts: from random weights, a checkpoint or its saved state."""

__all__ = ["Start", "choose_start", "initialise"]

import logging
import os
from pathlib import Path
from typing import NamedTuple

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import ConfigError
from brainfeat.models.transfer import adapt_state
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.ranks import rank
from brainfeat.pretraining.run_checks import check_run_folder
from brainfeat.pretraining.run_state import CONFIG_NAME
from brainfeat.pretraining.self_distillation import SelfDistillation

logger = logging.getLogger(__name__)

_FIXED_SIZES = ("embed_dim", "depth", "num_heads", "patch_size", "ffn")


class Start(NamedTuple):
    """Whether a run resumes and, if not, its initial checkpoint, if any."""

    resumes: bool
    checkpoint: Checkpoint | None = None


def choose_start(
    folder: Path,
    config: PretrainingConfig,
    *,
    init: str | os.PathLike[str] | None,
    resume: bool,
) -> Start:
    """Check the folder of a run and load the checkpoint `init` unless it resumes."""
    if check_run_folder(folder, config, resume=resume):
        return Start(resumes=True)
    if resume and (folder / CONFIG_NAME).exists() and rank() == 0:
        logger.warning(
            "%s: there is no state to resume from; the run starts anew, from %s.",
            folder,
            "random weights" if init is None else os.fspath(init),
        )
    return Start(False, None if init is None else _load(init, config))


def initialise(model: SelfDistillation, checkpoint: Checkpoint) -> None:
    """Copy an encoder into student and teacher, adapted in channels and image size.

    The heads keep their weights; the model must not be wrapped yet.
    """
    state = adapt_state(
        checkpoint.state, checkpoint.config.encoder, model.config.encoder
    )
    for network in (model.student, model.teacher):
        network.get_submodule("encoder").load_state_dict(state)


def _load(init: str | os.PathLike[str], config: PretrainingConfig) -> Checkpoint:
    """Load the initial checkpoint; raise unless the encoder's sizes match."""
    checkpoint = Checkpoint.load(init)
    for name in _FIXED_SIZES:
        values = [
            getattr(encoder, name)
            for encoder in (checkpoint.config.encoder, config.encoder)
        ]
        if values[0] != values[1]:
            raise ConfigError(
                f"{os.fspath(init)}: its encoder has {name} {values[0]}, that of the "
                f"configuration {values[1]}."
            )
    adapt_state(checkpoint.state, checkpoint.config.encoder, config.encoder)
    plane, planes = checkpoint.config.plane, config.views.planes
    if plane not in planes:
        logger.warning(
            "%s: its slabs are %s, those of this run %s (views.planes).",
            os.fspath(init),
            plane,
            ", ".join(planes),
        )
    return checkpoint
