"""What must hold before a run begins or goes on, checked before anything is written."""

__all__ = [
    "CONFIG_NAME",
    "STATE_NAME",
    "FitsEncoder",
    "check_fit",
    "check_grid",
    "check_run_folder",
    "hold_run_folder",
    "saved_step",
]

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from brainfeat.checkpoint.checkpoint import CHECKPOINT_FILES
from brainfeat.exceptions import CheckpointError, ConfigError, TrainingError
from brainfeat.io.json_files import read_json
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.ranks import rank, world_size
from brainfeat.pretraining.run_state import open_run_state
from brainfeat.slabs.grid import SlabGrid

if sys.platform != "win32":
    import fcntl

STATE_NAME = "state.safetensors"
CONFIG_NAME = "pretraining.json"


class FitsEncoder(Protocol):
    """What a configuration is compared with: a source, or scans not yet stored.

    Attributes
    ----------
    modalities : tuple of str
        BIDS suffixes, in the order of the volumes.
    quantities : tuple of str
        Names of the known quantities; empty without known anatomy.
    """

    @property
    def modalities(self) -> tuple[str, ...]:
        """BIDS suffixes, in the order of the volumes."""
        ...

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the known quantities."""
        ...


def check_fit(data: FitsEncoder, config: PretrainingConfig) -> None:
    """Refuse what would fail or learn nothing.

    Parameters
    ----------
    data : SubjectSource or ScanList
        What will be trained on.
    config : PretrainingConfig
        Hyperparameters.

    Raises
    ------
    ConfigError
        If data and configuration do not fit each other, or the configuration
        does not fit the number of processes.
    """
    n_parts = world_size() * config.accumulation_steps
    n_views = config.batch_size // n_parts * config.views.n_global
    share = config.views.mask_probability
    compares = config.koleo_weight > 0 or (
        config.dino_weight > 0 and config.centring == "sinkhorn"
    )
    checks = {
        f"the data have modalities {tuple(data.modalities)}, the encoder "
        f"{config.encoder.modalities}.": (
            tuple(data.modalities) == config.encoder.modalities
        ),
        "the anatomy objective needs data with known anatomy.": (
            config.anatomy_weight == 0 or len(data.quantities) > 0
        ),
        f"batch_size {config.batch_size} does not divide into {n_parts} parts "
        "(processes times accumulation_steps).": config.batch_size % n_parts == 0,
        f"iBOT needs masked views, and a mask_probability of {share} masks none of the "
        f"{n_views} global views of a part.": (
            config.ibot_weight == 0 or round(n_views * share) > 0
        ),
        # Alone, a subject has no neighbour, and Sinkhorn drives its views apart.
        "KoLeo, and DINO with centring 'sinkhorn', compare subjects: they need two in "
        f"each part, got batch_size {config.batch_size} in "
        f"{config.accumulation_steps} accumulated parts.": (
            not compares or config.batch_size > config.accumulation_steps
        ),
    }
    for problem, fits in checks.items():
        if not fits:
            raise ConfigError(problem)


def check_grid(shape: tuple[int, int, int], config: PretrainingConfig) -> None:
    """Refuse volumes that the checkpoint of a run could not encode as a whole.

    Training alone would not notice: it sees crops.

    Parameters
    ----------
    shape : tuple of int (I, J, K)
        Voxels of a volume.
    config : PretrainingConfig
        Hyperparameters.

    Raises
    ------
    ConfigError
        If volumes do not divide into slabs and patches.
    """
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
    """Tell whether a run goes on in a folder, and refuse to overwrite one.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    config : PretrainingConfig
        Hyperparameters.
    resume : bool
        Whether to go on where a run in the folder stopped.

    Returns
    -------
    bool
        Whether there is a state to go on from.

    Raises
    ------
    TrainingError
        If the folder holds a run and `resume` is false, or files that a checkpoint
        would replace.
    ConfigError
        If the run was begun with another configuration.
    CheckpointError
        If the configuration that it was begun with cannot be read.
    """
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
    begun = read_json(path, "the configuration of a run", error=CheckpointError)
    differing = _differences(begun, config.to_dict())
    if differing:
        raise ConfigError(
            f"{path}: the run was begun with {', '.join(differing)}; resume it with "
            "the same, or choose another folder."
        )
    return True


@contextmanager
def hold_run_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which two would leave as neither's.

    Parameters
    ----------
    folder : Path
        Folder of the run; made if needed.

    Yields
    ------
    None
        While it is held.

    Raises
    ------
    TrainingError
        If another run holds it.
    """
    if rank() != 0 or sys.platform == "win32":  # which has no such locks
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{folder}: another run is writing this folder; choose another."
            ) from error
        except OSError:  # some network file systems have no locks
            pass
        yield
    finally:
        os.close(place)


def saved_step(folder: Path) -> int:
    """Return the step that a run would go on from.

    Parameters
    ----------
    folder : Path
        Folder of the run.

    Returns
    -------
    int
        Steps that are done and saved; 0 if none is.

    Raises
    ------
    TrainingError
        If the state is damaged.
    """
    path = folder / STATE_NAME
    if not path.exists():
        return 0
    with open_run_state(path) as file:
        return int(json.loads(file.metadata()["facts"])["next_step"])


def _differences(begun: Any, now: Mapping[str, Any], where: str = "") -> list[str]:
    """Name the values that a run was begun with, where they are others now."""
    found = []
    for name, value in now.items():
        before = begun.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            found += _differences(before, value, f"{where}{name}.")
        elif before != value:
            found.append(f"{where}{name} {before} (now {value})")
    return found
