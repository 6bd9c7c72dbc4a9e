"""Calibration of the volumes that an encoder reads, on subjects with label maps."""

__all__ = ["calibrate_read_out"]

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import InputError
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.encoded_scans import (
    EncodedScan,
    encode_scans,
    first_scans,
)
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.store import VolumeStore

logger = logging.getLogger(__name__)

_FEWEST = 8  # subjects that know a structure
_FARTHEST = 9.0  # median distances from the line: six standard deviations
_LEAST_CORRELATION = 0.75  # below, volumes of slope one would be mostly noise
_FEWEST_TO_REFIT, _LEAST_IMPROVEMENT = 30, 0.05  # of the correlation
_PENALTY = 1.0  # on the offset's dependence on a token, in variances between subjects
_Floats = NDArray[np.float64]


def calibrate_read_out(checkpoint: Checkpoint, store: VolumeStore) -> Checkpoint:
    """Give the volumes that a checkpoint reads the scale of label maps.

    The volume of each structure, read from the first scan of each subject of a store,
    is regressed on that of the label map. A gain and an offset of the whole brain,
    which give this line slope one and no offset, become part of the read-out; the
    opposite regression would shrink volumes towards their mean. Subjects far from the
    line of the others are left out: their label maps are wrong. Structures that fewer
    than eight subjects know are left as they are, and the slope of those that are read
    with a correlation below 0.75 stays below one. From thirty subjects on, a ridge
    regression first moves the map of a structure, if this predicts the volumes of
    subjects that are left out clearly better.

    The read-out stays a linear map of tokens that is summed over patches, whose number
    depends on the brain. So the offset is a map of tokens, too, whose sum over a brain
    is as nearly one in all of them as a ridge regression can make it.
    """
    config = checkpoint.config.slab_encoder
    sums = _Sums.measure(checkpoint, store)
    weight, bias = (
        checkpoint.state[f"anatomy.{name}"].double().numpy().copy()
        for name in ("weight", "bias")
    )
    unit = _ridge(sums.columns).sum(axis=1)
    spread = (sums.columns @ unit).std()
    logger.info("Offsets vary by %.1f%% between brains.", 100 * spread)
    for row, name in enumerate(config.anatomy_names):
        true = sums.of_structure(name)
        known = np.isfinite(true)
        if known.sum() >= _FEWEST:
            read_out = sums.to_columns(weight[row], bias[row])
            known[known] = _find_typical(sums.columns[known] @ read_out, true[known])
            read_out = _fit(sums.columns[known], read_out, unit, true[known], name)
            weight[row], bias[row] = sums.to_map(read_out)
    state = dict(checkpoint.state)
    for name, value in (("weight", weight), ("bias", bias)):
        state[f"anatomy.{name}"] = torch.from_numpy(value).float()
    return Checkpoint(checkpoint.config, state, checkpoint.model_card)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over the patches of each of n subjects."""

    tokens: _Floats  # n D
    n_patches: _Floats  # n
    true: _Floats  # n R: volumes of the targets in patches, NaN if not known
    targets: tuple[str, ...]

    @classmethod
    def measure(cls, checkpoint: Checkpoint, store: VolumeStore) -> "_Sums":
        """Encode the first scan of each subject that has a label map."""
        config = checkpoint.config.slab_encoder
        names = [name for name, scans in store.subjects.items() if scans[0].labels]
        if not config.anatomy_names or len(names) < _FEWEST:
            raise InputError(
                f"{store.folder}: expected at least {_FEWEST} subjects with label maps "
                "and a checkpoint that reads anatomy, got "
                f"{len(names)} subjects and {len(config.anatomy_names)} structures."
            )
        scans = encode_scans(checkpoint, store, first_scans(store, names))
        rows = [_sum_patches(config, scan) for scan in scans]
        tokens, n_patches, true = (np.array(part) for part in zip(*rows, strict=True))
        return cls(tokens, n_patches, true, store.targets)

    @cached_property
    def columns(self) -> _Floats:
        """Patches and their tokens, over the mean number of patches: n, 1 + D."""
        means = self.tokens / self.n_patches[:, None] - self._center
        number = self.n_patches / self.n_patches.mean()
        table = np.hstack([np.ones((len(number), 1)), means])
        return np.asarray(number[:, None] * table)

    def to_columns(self, weight: _Floats, bias: float) -> _Floats:
        """Return the coefficients of columns that read what a map of tokens does."""
        first = bias + self._center @ weight
        return np.asarray(self.n_patches.mean() * np.concatenate([[first], weight]))

    def to_map(self, coefficients: _Floats) -> tuple[_Floats, float]:
        """Return weight (D,) and bias of tokens; the inverse of `to_columns`."""
        first, *rest = coefficients / self.n_patches.mean()
        weight = np.array(rest)
        return weight, float(first - self._center @ weight)

    @cached_property
    def _center(self) -> _Floats:
        means: _Floats = (self.tokens / self.n_patches[:, None]).mean(axis=0)
        return means

    def of_structure(self, name: str) -> _Floats:
        """Return the volumes of a structure; NaN where not known."""
        if name not in self.targets:
            return np.full(len(self.true), np.nan)
        return self.true[:, self.targets.index(name)]


def _sum_patches(
    config: EncoderConfig, scan: EncodedScan
) -> tuple[_Floats, float, _Floats]:
    """Return the sum of tokens, the number of patches, and the volumes of targets."""
    inside = scan.fractions > 0
    tokens = scan.output.patch_tokens[inside].double().sum(dim=0)
    return tokens.numpy(), float(inside.sum()), _true_volumes(config, scan.subject)


def _true_volumes(config: EncoderConfig, subject: SubjectBatch) -> _Floats:
    if subject.labels is None or subject.members is None or subject.known is None:
        raise InputError("expected a store with label maps.")
    labels = subject.labels[0, 0].flatten().long()
    counts = torch.bincount(labels, minlength=subject.members.shape[1] + 1)
    voxels = (counts[1:].double() @ subject.members[0].double()).numpy()
    voxels[~subject.known[0].numpy()] = np.nan
    return np.asarray(voxels / (config.thickness * config.patch_size**2))


def _fit(
    columns: _Floats, read_out: _Floats, unit: _Floats, true: _Floats, name: str
) -> _Floats:
    """Return coefficients of columns that read volumes of slope one."""
    read, shift = columns @ read_out, 0.0
    refitted = _refit(columns, read, true) if len(true) >= _FEWEST_TO_REFIT else None
    if refitted is not None:
        read_out = refitted.scale * read_out + refitted.change
        read, shift = refitted.left_out, refitted.shift
        logger.info("%s: refitted", name)
    gain, offset = _fit_line(read, columns @ unit, true)
    logger.info("%s: gain %.2f, offset %+.2f patches", name, gain, offset)
    return gain * read_out + (gain * shift + offset) * unit


class _Refit(NamedTuple):
    """A read-out that is scaled and changed, and volumes of subjects left out of it."""

    scale: float
    change: _Floats
    shift: float
    left_out: _Floats


def _refit(columns: _Floats, read: _Floats, true: _Floats) -> _Refit | None:
    """Move a read-out towards whole volumes; None unless that reads others better."""
    scale = true.std() / max(read.std(), 1e-12)
    residuals = true - scale * read
    table = np.hstack([columns, np.ones((len(true), 1))])
    solution = _ridge(table, is_shifted=True)
    change, leverage = solution @ residuals, np.einsum("nd,dn->n", table, solution)
    left_out = true - (residuals - table @ change) / (1.0 - leverage)
    if _correlate(left_out, true) < _correlate(read, true) + _LEAST_IMPROVEMENT:
        return None
    return _Refit(scale, change[:-1], change[-1], left_out)


def _ridge(columns: _Floats, *, is_shifted: bool = False) -> _Floats:
    """Return the matrix that makes coefficients of columns (n, 1 + D) from values (n,).

    An even share of all patches, the first column, is not penalised, nor is a shift,
    the last.
    """
    penalty = np.full(columns.shape[1], len(columns) * _PENALTY)
    penalty *= columns[:, 1 : -1 if is_shifted else None].var(axis=0).mean()
    penalty[[0, -1] if is_shifted else [0]] = 0.0
    matrix = np.linalg.solve(columns.T @ columns + np.diag(penalty), columns.T)
    return np.asarray(matrix, np.float64)


def _correlate(first: _Floats, second: _Floats) -> float:
    deviations = first.std() * second.std()
    products = (first - first.mean()) * (second - second.mean())
    return float(products.mean() / deviations) if deviations > 0 else 0.0


def _find_typical(read: _Floats, true: _Floats) -> NDArray[np.bool_]:
    """Find subjects near the line of most, since some label maps are wrong.

    The line has the median slope between two subjects.
    """
    first, second = np.triu_indices(len(true), 1)
    apart = true[second] - true[first]
    differ = apart != 0
    slopes = (read[second] - read[first])[differ] / apart[differ]
    residuals = read - true * (np.median(slopes) if differ.any() else 0.0)
    distances = np.abs(residuals - np.median(residuals))
    return np.asarray(distances <= _FARTHEST * np.median(distances))


def _fit_line(read: _Floats, unit: _Floats, true: _Floats) -> tuple[float, float]:
    """Return gain and offset with which ``gain * read + offset * unit`` has slope one.

    That is its slope on `true`, and its mean is that of `true`.
    """
    centered = true - true.mean()
    of_read, of_unit = centered @ read / len(true), centered @ unit / len(true)
    above = true.var() * unit.mean() - true.mean() * of_unit
    below = of_read * unit.mean() - read.mean() * of_unit
    largest = true.std() / max(read.std(), 1e-12) / _LEAST_CORRELATION
    # Not read at all, or the same in all subjects: only the mean is calibrated.
    gain = float(min(above / below, largest)) if above * below > 0 else 1.0
    return gain, float((true.mean() - gain * read.mean()) / unit.mean())
