"""Labelled subjects on the grid, on disk: memory does not grow with their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from brainfeat.exceptions import (
    BrainfeatError,
    InputError,
    TrainingError,
    brief_reason,
)
from brainfeat.io.image_files import ImageSource
from brainfeat.progress import track
from brainfeat.segmentation.inputs import (
    SegmentationInput,
    SegmentationSpace,
)
from brainfeat.segmentation.label_maps import name_of, read_label_map
from brainfeat.segmentation.label_places import check_place, lies_beside
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.subject import Subject
from brainfeat.workers import Prefetch

__all__ = ["BACKGROUND", "LabelledStore", "LabelledVolumes", "write_store"]

BACKGROUND = 0

# Voxels of the encoder's grid in a cell of the prior, along an edge, and how far, in
# cells, a structure of one subject may lie from where it lies in the next.
_PRIOR_CELL = 2
_PRIOR_SPREAD = 1.0
# What the prior does not know: each place may hold each class.
_PRIOR_DOUBT = 0.05
_PRIOR_LEAST = 1e-6
# Each check segments all of the held-out subjects: more would take long.
_N_HELD_OUT = 4
# The finest parcellations have half as many: more are the intensities of an image.
_MOST_LABELS = 2000
# So many are told at once, as reading takes long; more are one fault of all.
_MOST_FAILURES = 10


class LabelledVolumes(NamedTuple):
    """One subject on both grids, as the training takes it.

    Attributes
    ----------
    coarse : float32 Tensor of shape (1, n_encoder_modalities + 1, I, J, K)
        What the encoder sees; last comes the foreground.
    fine : float32 Tensor of shape (1, M, I * u, J * u, K * u)
        Voxels of the decoder.
    labels : float32 Tensor of shape (1, 1, I * u, J * u, K * u)
        Index of each voxel's class.
    encoder_present : bool Tensor of shape (1, n_encoder_modalities)
        Modalities that the subject has, of the encoder's.
    present : bool Tensor of shape (1, M)
        The same, of the decoder's.
    """

    coarse: Tensor
    fine: Tensor
    labels: Tensor
    encoder_present: Tensor
    present: Tensor


@dataclass(frozen=True, eq=False)
class LabelledStore:
    """Subjects in a folder.

    Parameters
    ----------
    folder : Path
        Holds three arrays a subject.
    classes : tuple of int
        The background, and then the other labels in rising order.
    slab_counts : ndarray of int of shape (n_subjects, n_classes, n_slabs)
        Voxels of each class in each slab.
    present, encoder_present : ndarray of bool of shape (n_subjects, n_modalities)
        Modalities that each subject has, of the decoder's and of the encoder's.
    codes : tuple of int
        Label that each stored number stands for.
    upsampling : int
        Fine voxels along an edge of a voxel of the encoder's grid.
    """

    folder: Path
    classes: tuple[int, ...]
    slab_counts: NDArray[np.int64]
    present: NDArray[np.bool_]
    encoder_present: NDArray[np.bool_]
    codes: tuple[int, ...]
    upsampling: int

    def __len__(self) -> int:
        return len(self.slab_counts)

    def load(self, index: int) -> LabelledVolumes:
        """Read one subject.

        Parameters
        ----------
        index : int
            Its place.

        Returns
        -------
        LabelledVolumes
            On the CPU.
        """
        coarse, fine, labels = (np.load(path) for path in _paths(self.folder, index))
        places = np.array([self.classes.index(c) for c in self.codes], np.float32)
        return LabelledVolumes(
            torch.from_numpy(coarse[None]).float(),
            torch.from_numpy(fine[None]).float(),
            torch.from_numpy(places[labels][None, None]),
            torch.from_numpy(self.encoder_present[index][None]),
            torch.from_numpy(self.present[index][None]),
        )

    def prior(self, rows: NDArray[np.int64]) -> Tensor:
        """Compute how often each class is found at each place.

        Parameters
        ----------
        rows : ndarray of int
            Places of the subjects that count.

        Returns
        -------
        float32 Tensor of shape (n_classes, i, j, k)
            Share of the voxels, on a grid of half the encoder's.
        """
        shares: list[NDArray[np.float32]] = []
        for index in rows:
            coded = np.load(_paths(self.folder, int(index))[-1])
            _add_shares(shares, coded, _PRIOR_CELL * self.upsampling)
        nowhere = np.zeros_like(shares[0])
        shares += [nowhere] * (len(self.codes) - len(shares))
        order = [self.codes.index(label) for label in self.classes]
        return _prior([shares[code] for code in order], len(rows))

    def split(
        self,
        fraction: float,
        people: NDArray[np.int64],
        random: np.random.RandomState,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Hold people out without whom the others still have every class.

        Parameters
        ----------
        fraction : float
            Share of the people that are held out, as far as that goes, until there
            are enough subjects to check; none without any class, of whom Dice tells
            nothing.
        people : ndarray of int of shape (n_subjects,)
            Number of the person that each subject is a scan of.
        random : RandomState
            Chooses them.

        Returns
        -------
        train, held_out : ndarray of int
            Places of subjects; more of those who are held out than are checked are in
            neither.
        """
        has_class = self.slab_counts.sum(axis=2) > 0  # n_subjects n_classes
        names = np.unique(people)
        n_held_out = int(fraction * len(names))
        held_out: list[int] = []
        for person in random.permutation(names):
            if n_held_out == 0 or len(held_out) >= _N_HELD_OUT:
                break
            own = np.flatnonzero(people == person)
            rest = np.delete(has_class, [*held_out, *own], axis=0)
            is_spare = (rest.any(axis=0) == has_class.any(axis=0)).all()
            if is_spare and has_class[own, 1:].any():
                held_out.extend(own.tolist())
                n_held_out -= 1
        train_rows = np.setdiff1d(np.arange(len(self)), held_out)
        checked = [row for row in held_out if has_class[row, 1:].any()]
        return train_rows, np.array(checked[:_N_HELD_OUT], dtype=np.int64)


def write_store(
    subjects: Sequence[Subject],
    label_maps: Sequence[ImageSource],
    space: SegmentationSpace,
    slab_grid: SlabGrid,
    folder: Path,
    *,
    n_jobs: int,
    verbose: int,
) -> LabelledStore:
    """Take labelled subjects to the grid, and check them on the way.

    Parameters
    ----------
    subjects : sequence of Subject
        Images.
    label_maps : sequence of path-like or nibabel image
        One a subject.
    space : SegmentationSpace
        The grids.
    slab_grid : SlabGrid
        Slabs of the encoder.
    folder : Path
        Where the arrays are written.
    n_jobs : int
        Threads that preprocess.
    verbose : int
        Nothing is shown at 0.

    Returns
    -------
    LabelledStore
        All subjects.

    Raises
    ------
    InputError
        If no label map has foreground, one does not overlap its image, a class has no
        voxel on the grid, or several subjects cannot be used, each for its reason.
    TrainingError
        If the disk is full.
    VolumeError
        If a file is no usable image, or labels are not integers.
    """
    fine_grid = SlabGrid(
        thickness=slab_grid.thickness * space.upsampling, plane=slab_grid.plane
    )
    codes: dict[int, int] = {BACKGROUND: 0}
    named_in: dict[int, str] = {}
    counts, present, encoder_present = [], [], []
    failures: list[BrainfeatError] = []
    with Prefetch(
        lambda pair: _try_to_read(*pair, space),
        zip(subjects, label_maps, strict=True),
        n_threads=n_jobs,
        n_ahead=n_jobs,
    ) as items:
        shown = track(
            items, total=len(subjects), description="preprocessing", show=verbose > 0
        )
        for index, item in enumerate(shown):
            if isinstance(item, BrainfeatError):
                failures.append(item)
                if len(failures) == _MOST_FAILURES:
                    break
                continue
            for label in item.found:
                codes.setdefault(label, len(codes))
                named_in.setdefault(label, item.name)
            coded = _encode(item.labels, codes)
            _save(folder, index, item.subject, coded)
            counts.append(_count(coded, fine_grid))
            present.append(space.present(item.subject))
            encoder_present.append(item.subject.coarse.present)
    _raise_any(failures)
    if not named_in:
        raise InputError(
            "label maps: expected labels other than 0 in one at least, got none in any "
            f"of {len(subjects)}."
        )
    classes = (BACKGROUND, *sorted(set(codes) - {BACKGROUND}))
    slab_counts = _stack_counts(counts, [codes[label] for label in classes])
    for label, count in zip(classes, slab_counts.sum(axis=(0, 2)), strict=True):
        if count == 0 and label != BACKGROUND:
            raise InputError(
                f"{named_in[label]}: expected class {label} on the brain's grid of at "
                "least one subject, got no voxel; it is too small or too far away."
            )
    return LabelledStore(
        folder,
        classes,
        slab_counts,
        np.stack(present),
        np.stack(encoder_present),
        tuple(codes),
        space.upsampling,
    )


class _Labelled(NamedTuple):
    """A subject with its labels on the fine grid."""

    subject: SegmentationInput
    labels: NDArray[np.int32]
    found: list[int]
    name: str


def _try_to_read(
    subject: Subject, label_map: ImageSource, space: SegmentationSpace
) -> _Labelled | BrainfeatError:
    try:
        return _read(subject, label_map, space)
    except BrainfeatError as error:
        return error


def _raise_any(failures: Sequence[BrainfeatError]) -> None:
    if len(failures) == 1:
        raise failures[0]
    if failures:
        reasons = " ".join(map(str, failures))
        raise InputError(f"{len(failures)} subjects cannot be used: {reasons}")


def _read(
    subject: Subject, label_map: ImageSource, space: SegmentationSpace
) -> _Labelled:
    name = name_of(label_map, subject)
    native = read_label_map(label_map, subject)
    found = [int(label) for label in np.unique(native.data) if label != BACKGROUND]
    if len(found) > _MOST_LABELS:
        raise InputError(
            f"{name}: expected a label map of at most {_MOST_LABELS} classes, got "
            f"{len(found)} different values; is it an image of intensities?"
        )
    placed = space.read(subject)
    check_place(native, placed.native, name)
    labels = space.to_grid(native, placed)
    fine = placed.fine
    if not labels.any() and lies_beside(native, fine.geometry, fine.grid_to_scanner):
        raise InputError(
            f"{name}: expected labels where the brain of {subject.participant_id} lies "
            "in scanner space, got none there; is its header another image's?"
        )
    return _Labelled(placed, labels, found, name)


def _encode(labels: NDArray[np.int32], codes: dict[int, int]) -> NDArray[np.uint16]:
    known = np.array(sorted(codes))
    numbers = np.array([codes[label] for label in known.tolist()], dtype=np.uint16)
    coded: NDArray[np.uint16] = numbers[np.searchsorted(known, labels)]
    return coded


def _count(coded: NDArray[np.uint16], grid: SlabGrid) -> NDArray[np.int64]:
    n_codes = int(coded.max()) + 1
    slabs = grid.extract(coded[None])
    return np.stack([np.bincount(s.ravel(), minlength=n_codes) for s in slabs], axis=1)


def _stack_counts(
    counts: Sequence[NDArray[np.int64]], order: Sequence[int]
) -> NDArray[np.int64]:
    """Give all subjects a row a class: early ones did not know the later classes."""
    stacked = np.zeros((len(counts), len(order), counts[0].shape[1]), np.int64)
    for index, count in enumerate(counts):
        stacked[index, : len(count)] = count
    return stacked[:, order]


def _add_shares(
    shares: list[NDArray[np.float32]], coded: NDArray[np.uint16], cell: int
) -> None:
    """Add the share of each class in each cell, in place."""
    for code in range(int(coded.max()) + 1):
        is_class = torch.from_numpy((coded == code).astype(np.float32))
        share = F.avg_pool3d(is_class[None], cell, ceil_mode=True)[0].numpy()
        if code == len(shares):
            shares.append(np.zeros_like(share))
        shares[code] += share


def _prior(shares: Sequence[NDArray[np.float32]], n_subjects: int) -> Tensor:
    means = np.stack(shares) / n_subjects
    spread = ndimage.gaussian_filter(means, (0.0, *[_PRIOR_SPREAD] * 3), mode="nearest")
    anywhere = means.mean(axis=(1, 2, 3), keepdims=True)
    prior = (1 - _PRIOR_DOUBT) * spread + _PRIOR_DOUBT * anywhere
    # Label maps that fill the grid leave no background, and 0 has no logarithm.
    np.maximum(prior[0], _PRIOR_LEAST, out=prior[0])
    return torch.from_numpy(prior.astype(np.float32))


def _save(
    folder: Path, index: int, subject: SegmentationInput, coded: NDArray[np.uint16]
) -> None:
    coarse = np.concatenate([subject.coarse.data, subject.coarse.foreground[None]])
    arrays = (coarse.astype(np.float16), subject.voxels.astype(np.float16), coded)
    for path, array in zip(_paths(folder, index), arrays, strict=True):
        try:
            np.save(path, array)
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written ({brief_reason(error)}); TMPDIR names a "
                "folder with more space."
            ) from error


def _paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    return (
        folder / f"{index}_coarse.npy",
        folder / f"{index}_fine.npy",
        folder / f"{index}_labels.npy",
    )
