"""Calibration of the volumes that an encoder reads, on subjects with label maps."""

__all__ = ["calibrate_read_out"]

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import InputError
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.first_scans import EncodedScan, encode_first_scans
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.store import VolumeStore

logger = logging.getLogger(__name__)

_FEWEST = 8  # subjects that know a structure
_FARTHEST = 9.0  # median distances from the line: six standard deviations
_GAINS = (0.5, 3.0)  # more would be noise of a structure that is hardly read
_PENALTY = 1.0  # on the offset's dependence on a token, in variances between subjects
_Floats = NDArray[np.float64]


def calibrate_read_out(checkpoint: Checkpoint, store: VolumeStore) -> Checkpoint:
    """Give the volumes that a checkpoint reads the scale of label maps.

    The volume of each structure, read from the first scan of each subject of a store,
    is regressed on that of the label map. A gain and an offset of the whole brain,
    which give this line slope one and no offset, become part of the read-out; the
    opposite regression would shrink volumes towards their mean. Subjects far from the
    line of the others are left out: their label maps are wrong. Structures that fewer
    than eight subjects know are left as they are.

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
    unit_weight, unit_bias = _fit_unit(sums)
    read = sums.tokens @ weight.T + sums.n_patches[:, None] * bias
    unit = sums.tokens @ unit_weight + sums.n_patches * unit_bias
    logger.info("Offsets vary by %.1f%% between brains.", 100 * unit.std())
    for row, name in enumerate(config.anatomy_names):
        true = sums.of_structure(name)
        known = np.isfinite(true)
        if known.sum() < _FEWEST:
            continue
        known[known] = _find_typical(read[known, row], true[known])
        gain, offset = _fit_line(read[known, row], unit[known], true[known])
        weight[row] = gain * weight[row] + offset * unit_weight
        bias[row] = gain * bias[row] + offset * unit_bias
        logger.info("%s: gain %.2f, offset %+.2f patches", name, gain, offset)
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
        scans = encode_first_scans(checkpoint, store, names)
        rows = [_sum_patches(config, scan) for scan in scans]
        tokens, n_patches, true = (np.array(part) for part in zip(*rows, strict=True))
        return cls(tokens, n_patches, true, store.targets)

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


def _fit_unit(sums: _Sums) -> tuple[_Floats, float]:
    """Return weight (D,) and bias of tokens whose sum over a brain is about one."""
    number = sums.n_patches / sums.n_patches.mean()
    means = sums.tokens / sums.n_patches[:, None]
    center = means.mean(axis=0)
    columns = number[:, None] * np.hstack([np.ones((len(number), 1)), means - center])
    # An even share of all patches is not penalised.
    penalty = np.full(
        columns.shape[1], len(number) * _PENALTY * means.var(axis=0).mean()
    )
    penalty[0] = 0.0
    gram = columns.T @ columns + np.diag(penalty)
    even, *weight = np.linalg.solve(gram, columns.sum(axis=0)) / sums.n_patches.mean()
    return np.array(weight), float(even - center @ np.array(weight))


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
    # Not read at all, or the same in all subjects: only the mean is calibrated.
    gain = float(np.clip(above / below, *_GAINS)) if above * below > 0 else 1.0
    return gain, float((true.mean() - gain * read.mean()) / unit.mean())
