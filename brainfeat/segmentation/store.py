"""Labelled subjects on the grid, on disk: memory does not grow with their number."""

__all__ = [
    "BACKGROUND",
    "LabelledStore",
    "LabelledVolumes",
    "StoreWriter",
    "array_paths",
    "read_labelled",
    "write_store",
]

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from brainfeat.exceptions import BrainfeatError, InputError, TrainingError, brief_reason
from brainfeat.io.image_files import ImageSource
from brainfeat.io.json_files import read_json, write_json
from brainfeat.preprocessing.quality import Quality
from brainfeat.progress import track
from brainfeat.segmentation.inputs import SegmentationInput, SegmentationSpace
from brainfeat.segmentation.label_maps import (
    check_placement,
    label_map_name,
    lies_outside,
    read_label_map,
)
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.doubts import report_doubts
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.workers import Prefetch

BACKGROUND = 0

# The prior is averaged over cells of this edge in voxels of the encoder's grid, then
# smoothed by this sigma in cells, as structures differ in position between subjects.
_PRIOR_CELL = 2
_PRIOR_SIGMA = 1.0
# Weight of the mean over the grid, so that each class is possible everywhere.
_PRIOR_UNIFORM = 0.05
_PRIOR_MIN = 1e-6
# The finest parcellations have half as many: more are intensities of an image.
_MAX_LABELS = 2000
# Reading takes long, so failures are reported together; more than ten have one cause.
_MAX_FAILURES = 10
_INDEX = "index.json"


class LabelledVolumes(NamedTuple):
    """One subject as the training reads it."""

    coarse: Tensor  # float32 (1, encoder's M + 1, I, J, K); the foreground comes last
    fine: Tensor  # float32 (1, M, I * u, J * u, K * u)
    labels: Tensor  # float32 (1, 1, I * u, J * u, K * u): index of each voxel's class
    encoder_present: Tensor  # bool (1, encoder's M)
    present: Tensor  # bool (1, M)

    def to(self, device: torch.device) -> "LabelledVolumes":
        """Copy all tensors to a device."""
        return LabelledVolumes(*(tensor.to(device) for tensor in self))


@dataclass(frozen=True, eq=False)
class LabelledStore:
    """Labelled subjects in a folder of three arrays a subject."""

    folder: Path
    classes: tuple[int, ...]  # background first, then the other labels in rising order
    slab_counts: NDArray[np.int64]  # (n_subjects, n_classes, n_slabs): voxels
    present: NDArray[np.bool_]  # (n_subjects, M): modalities that the decoder sees
    encoder_present: NDArray[np.bool_]  # (n_subjects, encoder's M)
    codes: tuple[int, ...]  # label of each stored number
    upsampling: int  # fine voxels along the edge of a voxel of the encoder's grid
    # Modality on whose grid most label maps are; None if they are on none.
    label_grid: str | None = None

    @property
    def has_class(self) -> NDArray[np.bool_]:
        """Which classes each subject has on the grid, (n_subjects, n_classes)."""
        has_class: NDArray[np.bool_] = self.slab_counts.sum(axis=2) > 0
        return has_class

    def load(self, index: int) -> LabelledVolumes:
        """Read one subject to the CPU."""
        coarse, stored, labels = (np.load(p) for p in array_paths(self.folder, index))
        present = self.present[index]
        fine = np.zeros((len(present), *stored.shape[1:]), np.float32)
        fine[present] = stored[present] if len(stored) == len(present) else stored
        indices = np.array([self.classes.index(c) for c in self.codes], np.float32)
        return LabelledVolumes(
            torch.from_numpy(coarse[None]).float(),
            torch.from_numpy(fine[None]),
            torch.from_numpy(indices[labels][None, None]),
            torch.from_numpy(self.encoder_present[index][None]),
            torch.from_numpy(self.present[index][None]),
        )

    def prior(self, rows: NDArray[np.int64]) -> Tensor:
        """Compute the frequency of each class at each position in these subjects.

        Float32 of shape (n_classes, i, j, k), on a grid of half the encoder's.
        """
        sums: list[NDArray[np.float32]] = []
        for index in rows:
            coded = np.load(array_paths(self.folder, int(index))[-1])
            _add_fractions(sums, coded, _PRIOR_CELL * self.upsampling)
        zeros = np.zeros_like(sums[0])
        sums += [zeros] * (len(self.codes) - len(sums))
        order = [self.codes.index(label) for label in self.classes]
        return _smooth_prior([sums[code] for code in order], len(rows))


def write_store(
    subjects: Sequence[Subject],
    label_maps: Sequence[ImageSource],
    space: SegmentationSpace,
    folder: Path,
    *,
    n_jobs: int,
    verbose: int,
) -> LabelledStore:
    """Resample labelled subjects to the grid, check them, and store them.

    Raises an InputError that names each subject that cannot be used, up to ten.
    """
    writer = StoreWriter(folder, space)
    failures: list[Exception] = []
    with Prefetch(
        lambda pair: _try_to_read(*pair, space),
        zip(subjects, label_maps, strict=True),
        n_threads=n_jobs,
        n_ahead=n_jobs,
    ) as outcomes:
        shown = track(
            report_doubts(outcomes),
            total=len(subjects),
            description="preprocessing",
            show=verbose > 0,
        )
        for outcome in shown:
            if outcome.error is None:
                writer.add(outcome.unwrap())
                continue
            failures.append(outcome.error)
            if len(failures) == _MAX_FAILURES:
                break
    if len(failures) == 1:
        raise failures[0]
    if failures:
        reasons = " ".join(map(str, failures))
        raise InputError(f"{len(failures)} subjects cannot be used: {reasons}")
    return writer.finish()


class _Labelled(NamedTuple):
    """A subject with its labels on the fine grid."""

    inputs: SegmentationInput
    labels: NDArray[np.int32]
    native_labels: list[int]  # other than the background
    name: str
    grid: str | None  # modality on whose grid the label map is
    participant: str

    @property
    def quality(self) -> Quality:
        return self.inputs.coarse.quality


def _try_to_read(
    subject: Subject, label_map: ImageSource, space: SegmentationSpace
) -> Outcome[_Labelled]:
    try:
        return Outcome(subject, read_labelled(subject, label_map, space))
    except BrainfeatError as error:
        return Outcome(subject, error=error)


def read_labelled(
    subject: Subject, label_map: ImageSource, space: SegmentationSpace
) -> "_Labelled":
    """Read one subject and its labels on the fine grid, for a `StoreWriter`."""
    name = label_map_name(label_map, subject)
    native = read_label_map(label_map, subject)
    present = [int(label) for label in np.unique(native.data) if label != BACKGROUND]
    if len(present) > _MAX_LABELS:
        raise InputError(
            f"{name}: expected a label map of at most {_MAX_LABELS} classes, got "
            f"{len(present)} different values; is it an image of intensities?"
        )
    inputs = space.read(subject)
    check_placement(native, inputs.native, name)
    labels = space.to_grid(native, inputs)
    grid = inputs.grid_like(native.geometry)
    to_scanner = (grid or inputs.grids[0]).to_scanner
    if not labels.any() and lies_outside(native, inputs.fine.geometry, to_scanner):
        raise InputError(
            f"{name}: expected labels where the brain of {subject.participant_id} lies "
            "in scanner space, got none there; is its header another image's?"
        )
    modality = grid and grid.modality
    return _Labelled(inputs, labels, present, name, modality, subject.participant_id)


@dataclass
class StoreWriter:
    """Writes subjects one by one; classes are known only after the last.

    A store that is to outlast the process has an index, see `save_index`.
    """

    folder: Path
    space: SegmentationSpace
    codes: dict[int, int] = field(default_factory=lambda: {BACKGROUND: 0})
    first_names: dict[int, str] = field(default_factory=dict)  # label map with a label
    counts: list[NDArray[np.int64]] = field(default_factory=list)
    present: list[NDArray[np.bool_]] = field(default_factory=list)
    encoder_present: list[NDArray[np.bool_]] = field(default_factory=list)
    grids: Counter[str | None] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)  # participants

    @classmethod
    def open(cls, folder: Path, space: SegmentationSpace) -> "StoreWriter":
        """Reopen a store that has an index, or begin one."""
        folder.mkdir(parents=True, exist_ok=True)
        writer, path = cls(folder, space), folder / _INDEX
        if path.is_file():
            index = read_json(path, "the index of a store")
            writer.codes = {int(k): v for k, v in index["codes"].items()}
            writer.first_names = dict.fromkeys(writer.codes, str(path))
            writer.counts = [np.array(c, np.int64) for c in index["counts"]]
            writer.present = [np.array(v, np.bool_) for v in index["present"]]
            shown = index["encoder_present"]
            writer.encoder_present = [np.array(v, np.bool_) for v in shown]
            writer.names = list(index["names"])
        return writer

    def save_index(self) -> None:
        """Write what `open` reads."""
        content = {
            "names": self.names,
            "codes": {str(label): code for label, code in self.codes.items()},
            "counts": [count.tolist() for count in self.counts],
            "present": [row.tolist() for row in self.present],
            "encoder_present": [row.tolist() for row in self.encoder_present],
        }
        write_json(self.folder / _INDEX, content)

    def add(self, item: _Labelled) -> None:
        """Write the arrays of a subject."""
        for label in item.native_labels:
            self.codes.setdefault(label, len(self.codes))
            self.first_names.setdefault(label, item.name)
        coded = _encode(item.labels, self.codes)
        _save(self.folder, len(self.counts), item.inputs, coded)
        grid = self.space.slab_grid
        thickness = grid.thickness * self.space.upsampling
        fine_grid = SlabGrid(thickness=thickness, plane=grid.plane)
        self.counts.append(_count_voxels(coded, fine_grid))
        self.names.append(item.participant)
        self.grids[item.grid] += 1
        self.present.append(item.inputs.present)
        self.encoder_present.append(item.inputs.coarse.present)

    def finish(self) -> LabelledStore:
        """Return the store of all subjects so far."""
        if not self.first_names:
            raise InputError(
                "label maps: expected labels other than 0 in at least one, got none "
                f"in any of {len(self.counts)}."
            )
        classes = (BACKGROUND, *sorted(set(self.codes) - {BACKGROUND}))
        slab_counts = _stack_counts(self.counts, [self.codes[c] for c in classes])
        for label, count in zip(classes, slab_counts.sum(axis=(0, 2)), strict=True):
            if count == 0 and label != BACKGROUND:
                raise InputError(
                    f"{self.first_names[label]}: expected class {label} on the brain's "
                    "grid of at least one subject, got no voxel; it is too small or "
                    "too far away."
                )
        return LabelledStore(
            self.folder,
            classes,
            slab_counts,
            np.stack(self.present),
            np.stack(self.encoder_present),
            tuple(self.codes),
            self.space.upsampling,
            self.grids.most_common(1)[0][0] if self.grids else None,
        )


def _encode(labels: NDArray[np.int32], codes: dict[int, int]) -> NDArray[np.uint16]:
    known = np.array(sorted(codes))
    numbers = np.array([codes[label] for label in known.tolist()], dtype=np.uint16)
    coded: NDArray[np.uint16] = numbers[np.searchsorted(known, labels)]
    return coded


def _count_voxels(coded: NDArray[np.uint16], grid: SlabGrid) -> NDArray[np.int64]:
    """Count the voxels of each code in each slab, (n_codes, n_slabs)."""
    n_codes = int(coded.max()) + 1
    slabs = grid.extract(coded[None])
    return np.stack([np.bincount(s.ravel(), minlength=n_codes) for s in slabs], axis=1)


def _stack_counts(
    counts: Sequence[NDArray[np.int64]], order: Sequence[int]
) -> NDArray[np.int64]:
    """Stack counts in the order of the classes; early subjects have fewer codes."""
    stacked = np.zeros((len(counts), len(order), counts[0].shape[1]), np.int64)
    for index, count in enumerate(counts):
        stacked[index, : len(count)] = count
    return stacked[:, order]


def _add_fractions(
    sums: list[NDArray[np.float32]], coded: NDArray[np.uint16], cell: int
) -> None:
    """Add the fraction of each class in each cell to `sums`, in place."""
    for code in range(int(coded.max()) + 1):
        is_class = torch.from_numpy((coded == code).astype(np.float32))
        fraction = F.avg_pool3d(is_class[None], cell, ceil_mode=True)[0].numpy()
        if code == len(sums):
            sums.append(np.zeros_like(fraction))
        sums[code] += fraction


def _smooth_prior(sums: Sequence[NDArray[np.float32]], n_subjects: int) -> Tensor:
    means = np.stack(sums) / n_subjects
    smooth = ndimage.gaussian_filter(means, (0.0, *[_PRIOR_SIGMA] * 3), mode="nearest")
    overall = means.mean(axis=(1, 2, 3), keepdims=True)
    prior = (1 - _PRIOR_UNIFORM) * smooth + _PRIOR_UNIFORM * overall
    # Label maps that fill the grid leave no background, and log(0) is infinite.
    np.maximum(prior[0], _PRIOR_MIN, out=prior[0])
    return torch.from_numpy(prior.astype(np.float32))


def _save(
    folder: Path, index: int, inputs: SegmentationInput, coded: NDArray[np.uint16]
) -> None:
    half = np.float16
    # Modalities that were not acquired are left out.
    voxels = inputs.voxels[inputs.present].astype(half)
    arrays = (inputs.stack_coarse().astype(half), voxels, coded)
    for path, array in zip(array_paths(folder, index), arrays, strict=True):
        try:
            np.save(path, array)
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written ({brief_reason(error)}); set TMPDIR to a "
                "folder with more space."
            ) from error


def array_paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    """Return the files of the encoder's grid, of fine voxels and of labels."""
    return (
        folder / f"{index}_coarse.npy",
        folder / f"{index}_fine.npy",
        folder / f"{index}_labels.npy",
    )
