"""How a run starts: checks, the lock of its folder, and the initial weights."""

__all__ = [
    "Start",
    "check_fit",
    "check_grid",
    "check_run_folder",
    "choose_start",
    "initialise",
    "keep_background",
    "run_lock",
]

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from brainfeat.checkpoint.checkpoint import CHECKPOINT_FILES, Checkpoint
from brainfeat.exceptions import CheckpointError, ConfigError, TableError, TrainingError
from brainfeat.io.json_files import read_json
from brainfeat.io.locks import FolderBusyError, lock_folder, release_folder
from brainfeat.models.config import Background
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.transfer import adapt_state
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.ranks import rank, world_size
from brainfeat.pretraining.run_state import CONFIG_NAME, STATE_NAME, saved_step
from brainfeat.pretraining.self_distillation import SelfDistillation
from brainfeat.pretraining.source import PairedSource, SubjectSource
from brainfeat.pretraining.store import VolumeStore
from brainfeat.slabs.grid import SlabGrid

if TYPE_CHECKING:
    from brainfeat.pretraining.data import TrainingSubjects

logger = logging.getLogger(__name__)

# In names such as hippocampus_left, ctx-lh-insula and Left-Amygdala.
_SIDE = re.compile(r"(^|[^a-z])(left|right|lh|rh|l|r)([^a-z]|$)", re.IGNORECASE)
# What a resumed run may change: how long it is, what it writes, and how it computes.
_FREE = (
    "n_steps",
    "log_every",
    "checkpoint_every",
    "probe_every",
    "precision",
    "activation_checkpointing",
    "parallel",
)
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
    if init is None and config.has_frozen_teacher:
        raise ConfigError(
            "agreement with a frozen teacher needs trained weights to start from: "
            "give init (--init brainfound-tiny), or agreement_teacher 'moving_average'."
        )
    return Start(False, None if init is None else _load(init, config))


def initialise(model: SelfDistillation, checkpoint: Checkpoint) -> None:
    """Copy an encoder into student and teacher, adapted in channels and image size.

    The heads keep their weights; the model must not be wrapped yet.
    """
    encoder = checkpoint.config.slab_encoder
    state = adapt_state(checkpoint.state, encoder, model.config.encoder)
    for network in (model.student, model.teacher):
        network.get_submodule("encoder").load_state_dict(state)
    if model.reference is not None:
        model.reference.load_state_dict(state)
    keep_background(model.reference, encoder.background)


def keep_background(encoder: SlabEncoder | None, background: Background) -> None:
    """Let a frozen teacher see the background that its weights were trained with."""
    if encoder is not None:
        encoder.config = dataclasses.replace(encoder.config, background=background)


def _load(init: str | os.PathLike[str], config: PretrainingConfig) -> Checkpoint:
    """Load the initial checkpoint; raise unless the encoder's sizes match."""
    checkpoint = Checkpoint.load(init)
    encoder = checkpoint.config.slab_encoder
    for name in _FIXED_SIZES:
        size, expected = getattr(encoder, name), getattr(config.encoder, name)
        if size != expected:
            raise ConfigError(
                f"{os.fspath(init)}: its encoder has {name} {size}, that of the "
                f"configuration {expected}."
            )
    adapt_state(checkpoint.state, encoder, config.encoder)
    plane, planes = checkpoint.config.plane, config.views.planes
    if plane not in planes:
        logger.warning(
            "%s: its slabs are %s, those of this run %s (views.planes).",
            os.fspath(init),
            plane,
            ", ".join(planes),
        )
    return checkpoint


def check_fit(
    data: "SubjectSource | TrainingSubjects", config: PretrainingConfig
) -> None:
    """Raise ConfigError unless the configuration fits the data and the ranks."""
    requirements = chain(_data_requirements(data, config), _size_requirements(config))
    for fits, problem in requirements:
        if not fits:
            raise ConfigError(problem)


def check_grid(shape: tuple[int, int, int], config: PretrainingConfig) -> None:
    """Raise ConfigError unless volumes, as crops do, divide into slabs and patches."""
    encoder, plane = config.encoder, config.views.planes[0]
    axes = SlabGrid(thickness=encoder.thickness, plane=plane).axes
    parts = (encoder.thickness, encoder.patch_size, encoder.patch_size)
    if any(shape[axis] % part for axis, part in zip(axes, parts, strict=True)):
        raise ConfigError(
            f"volumes of {tuple(shape)} voxels do not divide into {plane} slabs of "
            f"{encoder.thickness} slices and patches of {encoder.patch_size} x "
            f"{encoder.patch_size} pixels."
        )


def check_run_folder(folder: Path, config: PretrainingConfig, *, resume: bool) -> bool:
    """Return whether a run in a folder resumes; refuse to overwrite one."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder}: expected a folder to write, got a file.")
    if not (folder / STATE_NAME).exists():
        taken = [name for name in CHECKPOINT_FILES if (folder / name).exists()]
        if taken:
            raise TrainingError(
                f"{folder}: holds {', '.join(taken)}, and no run that can be resumed; "
                "choose another folder."
            )
        return False
    if not resume:
        raise TrainingError(
            f"{folder}: holds a run; resume it (--resume, resume=True), or choose "
            "another folder."
        )
    path = folder / CONFIG_NAME
    saved = read_json(path, "the configuration of a run", error=CheckpointError)
    # Fields that an older version did not have had the effect of their defaults.
    defaults = PretrainingConfig().to_dict()
    before, now = _filled(saved, defaults), config.to_dict()
    changes = _changes(before, now)
    refused = [change for change in changes if change.split(" ")[0] not in _FREE]
    if refused:
        raise ConfigError(
            f"{path}: the run began with {', '.join(refused)}; resume it with the same "
            "values, or choose another folder."
        )
    n_done = saved_step(folder)
    if config.n_steps < n_done:
        raise ConfigError(
            f"{folder}: {n_done} steps are done; n_steps (--steps) must be at least as "
            f"many, got {config.n_steps}."
        )
    if changes and rank() == 0:
        logger.info("%s: resumes with %s.", folder, ", ".join(changes))
    return True


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if needed."""
    if rank() != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_folder(folder / ".lock")
    except FolderBusyError as error:
        raise TrainingError(
            f"{folder}: another run is writing this folder; choose another."
        ) from error
    except TableError:  # some network file systems have no locks
        yield
        return
    try:
        yield
    finally:
        release_folder(folder / ".lock", lock)


def _data_requirements(
    data: "SubjectSource | TrainingSubjects", config: PretrainingConfig
) -> Iterator[tuple[bool, str]]:
    """Yield whether each requirement holds, and what is wrong otherwise."""
    yield (
        tuple(data.modalities) == config.encoder.modalities,
        f"the data have modalities {tuple(data.modalities)}, the encoder "
        f"{config.encoder.modalities}.",
    )
    yield (
        config.anatomy_weight == 0 or len(data.targets) > 0,
        "the anatomy objective needs data with known anatomy.",
    )
    yield (
        # Subjects that are still to be preprocessed have no method draw.
        not config.uses_pairs
        or isinstance(data, PairedSource)
        or not hasattr(data, "draw"),
        "agreement and consistency need data with several acquisitions of a brain: "
        "images, a store or simulated subjects.",
    )
    sided = [name for name in data.targets if _SIDE.search(name)]
    flips = config.views.global_boxes != "whole" and config.views.global_crops.flip > 0
    yield (
        config.anatomy_weight == 0 or not sided or not flips,
        f"mirrored crops would exchange the sides of {', '.join(sided[:3])}; set "
        "views.global_crops.flip to 0.",
    )
    yield (
        not config.uses_pairs
        or not isinstance(data, VolumeStore)
        or data.n_acquisitions > 1,
        "agreement and consistency compare acquisitions, and the store has one of each "
        "subject; make a store of the images with n_degraded above 0.",
    )


def _size_requirements(config: PretrainingConfig) -> Iterator[tuple[bool, str]]:
    """Yield the same of the sizes of a step."""
    n_parts = world_size() * config.accumulation_steps
    yield (
        config.batch_size % n_parts == 0,
        f"batch_size {config.batch_size} does not divide into {n_parts} parts "
        "(processes times accumulation_steps).",
    )
    n_views = config.batch_size // n_parts * config.views.n_global
    probability = config.views.mask_probability
    yield (
        config.ibot_weight == 0 or round(n_views * probability) > 0,
        f"iBOT needs masked views, and a mask_probability of {probability} masks none "
        f"of the {n_views} global views of a part.",
    )
    # With one subject, Sinkhorn would drive its views apart.
    compares = config.koleo_weight > 0 or (
        config.dino_weight > 0 and config.centring == "sinkhorn"
    )
    yield (
        not compares or config.batch_size > config.accumulation_steps,
        "KoLeo, and DINO with centring 'sinkhorn', compare subjects: they need two in "
        f"each part, got batch_size {config.batch_size} in "
        f"{config.accumulation_steps} accumulated parts.",
    )


def _filled(saved: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields, also of objects, that a saved configuration does not have."""
    given = saved if isinstance(saved, Mapping) else {}
    return {**defaults, **given} | {
        name: _filled(given.get(name), value)
        for name, value in defaults.items()
        if isinstance(value, Mapping)
    }


def _changes(saved: Any, now: Mapping[str, Any], where: str = "") -> list[str]:
    """List the values in which a saved configuration differs from the present one."""
    changes = []
    for name, value in now.items():
        before = saved.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            changes += _changes(before, value, f"{where}{name}.")
        elif before != value:
            changes.append(f"{where}{name} {before} (now {value})")
    return changes
