"""A folder of heads that are drawn from label maps, and their manifest."""

__all__ = ["write_heads"]

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.delimited_rows import write_rows
from brainfeat.io.hashing import content_hash
from brainfeat.io.json_files import read_json, write_json
from brainfeat.io.volumes import write_volume
from brainfeat.progress import track
from brainfeat.simulation.contrast import MODALITIES
from brainfeat.simulation.head_contrast import HeadContrast
from brainfeat.simulation.head_labels import HeadLabels
from brainfeat.simulation.labelled_heads import HeadAnatomy, LabelledHead
from brainfeat.volume import Geometry, Volume

_MANIFEST, _SETTINGS, _TABLE = "manifest.tsv", "heads.json", "labels.tsv"
_VERSION = 1  # increment when the same settings give other volumes
_RANDOM_FRACTION = 0.2  # of scans with a random contrast, but for the first modality
_LARGEST_SHIFT = 15.0  # mm, of the head in the scanner
_N_KEPT = 4  # label maps in memory


def write_heads(
    label_maps: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    n_heads: int,
    *,
    label_table: str | os.PathLike[str],
    modalities: Sequence[str] = MODALITIES,
    spacing: float = 1.5,
    random_state: int = 0,
    show_progress: bool = False,
) -> Path:
    """Write heads of random people, drawn from label maps of whole heads.

    Each head has a scan of each modality and a label map on one grid. Heads that exist
    are kept, so that a further call resumes, or adds more.

    Parameters
    ----------
    label_maps : sequence of path-like
        Label maps of the head and all around it, with an own label for each tissue.
    output : path-like
        Folder of the heads.
    n_heads : int
        Number of heads.
    label_table : path-like
        TSV of the labels of the brain, with columns ``index``, ``name`` (a label may
        have several rows, for structures that overlap, and names of sides end in
        ``_left`` and ``_right``) and ``contrast``: ``white``, ``cortex``, ``nucleus``,
        ``deep`` or ``fluid``. Other labels are outside of the brain.
    modalities : sequence of {"T1w", "T2w", "FLAIR"}
        Scans of each head. Some have a random contrast, but for the first modality.
    spacing : float
        Edge of a voxel in mm.
    random_state : int
        Seed, at least 0.
    show_progress : bool
        Whether to show how many heads are done.

    Returns
    -------
    Path
        A manifest for ``brainfeat pretrain``: a row a head, with its scans, label map
        and table.
    """
    paths = [Path(path) for path in label_maps]
    if not paths or not set(modalities) <= set(MODALITIES):
        raise ConfigError(
            f"expected label maps, and modalities among {MODALITIES}, got {len(paths)} "
            f"label maps and {tuple(modalities)}."
        )
    folder, table = Path(output), HeadLabels.read(Path(label_table))
    settings = {
        "version": _VERSION,
        "label_maps": [content_hash(path) for path in paths],
        "label_table": content_hash(label_table),
        "modalities": list(modalities),
        "spacing": float(spacing),
        "random_state": int(random_state),
    }
    _open_folder(folder, settings, Path(label_table))
    read = lru_cache(_N_KEPT)(lambda path: LabelledHead.read(path, table))
    numbers = range(n_heads)
    for number in track(
        numbers, total=n_heads, description="heads", show=show_progress
    ):
        files = _files(folder, number, modalities)
        if not files["label_map"].is_file():
            generator = np.random.default_rng([random_state, number])
            head = read(paths[generator.integers(len(paths))])
            _write_head(head, files, spacing, generator)
    return _write_manifest(folder, n_heads, modalities)


def _write_head(
    head: LabelledHead,
    files: dict[str, Path],
    spacing: float,
    generator: np.random.Generator,
) -> None:
    labels = HeadAnatomy.draw(generator).apply(head, spacing)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(labels.shape) - 1) / 2.0
    affine[:3, 3] += generator.uniform(-_LARGEST_SHIFT, _LARGEST_SHIFT, 3)
    geometry, present = Geometry(labels.shape, affine), np.unique(labels)
    first, *_ = files
    # Last, as a sign that all is there.
    for name in (*[name for name in files if name != "label_map"], "label_map"):
        data: NDArray[Any] = labels
        if name != "label_map":
            is_random = name != first and generator.random() < _RANDOM_FRACTION
            contrast = HeadContrast.draw(
                name, present, head.table, generator, is_random=is_random
            )
            data = contrast.apply(labels)
        write_volume(Volume(data, geometry), files[name])


def _files(folder: Path, number: int, modalities: Sequence[str]) -> dict[str, Path]:
    name = f"head{number:05d}"
    scans = {m: folder / "scans" / f"{name}_{m}.nii.gz" for m in modalities}
    return scans | {"label_map": folder / "labels" / f"{name}.nii.gz"}


def _open_folder(folder: Path, settings: dict[str, Any], table: Path) -> None:
    """Create a folder, or reopen one of the same settings."""
    record = folder / _SETTINGS
    if record.exists():
        stored = read_json(record, "the settings of drawn heads")
        if changed := [k for k, v in settings.items() if stored.get(k) != v]:
            raise InputError(
                f"{folder}: expected a new folder, or heads of the same settings, got "
                f"another {', '.join(changed)}."
            )
        return
    for name in ("scans", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / _TABLE) as partial:
        partial.write_bytes(table.read_bytes())
    write_json(record, settings)


def _write_manifest(folder: Path, n_heads: int, modalities: Sequence[str]) -> Path:
    """Write a row a head; paths are relative to the folder."""
    columns = ["participant_id", *modalities, "label_map", "label_table"]
    rows = []
    for number in range(n_heads):
        files = _files(folder, number, modalities)
        paths = [path.relative_to(folder).as_posix() for path in files.values()]
        rows.append([f"head{number:05d}", *paths, _TABLE])
    manifest = folder / _MANIFEST
    with (
        atomic_write(manifest) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        write_rows(file, [columns, *rows], "\t")
    return manifest
