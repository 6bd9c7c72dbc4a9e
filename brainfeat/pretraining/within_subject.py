"""Features in units of how the scans of one subject differ."""

__all__ = ["normalise_within_subjects"]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import InputError
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.encoded_scans import encode_scans
from brainfeat.pretraining.store import StoredScan, VolumeStore

_FEWEST = 8  # visits with several scans
_SHRINKAGE = 0.1  # of the mean variance, added to that of each direction
_Floats = NDArray[np.float64]


class _Spread(NamedTuple):
    """How the mean tokens of scans differ."""

    center: _Floats  # D: mean of the first scans of subjects
    between: _Floats  # D D: covariance of these
    within: _Floats  # D D: mean covariance of the scans of a visit


def normalise_within_subjects(checkpoint: Checkpoint, store: VolumeStore) -> Checkpoint:
    """Give directions in which the scans of one subject differ less weight.

    The mean tokens of the scans of a visit differ in contrast, resolution and noise,
    not in anatomy. The inverse square root of their covariance, which is shrunk towards
    a multiple of the identity, becomes a projection after the final norm: within-class
    covariance normalisation [1]_. Tokens are centred on the first scans of subjects,
    and scaled so that the variance between these is one in the mean of all features.
    The read-out of anatomy takes the map back, and reads what it read before.

    Raises an InputError unless at least eight visits have several scans.

    References
    ----------
    .. [1] Hatch et al., "Within-class covariance normalization for SVM-based speaker
       recognition", Interspeech 2006.
    """
    spread = _measure(checkpoint, store)
    dim = len(spread.center)
    noise = spread.within + _SHRINKAGE * np.trace(spread.within) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(noise)
    weight = (vectors / np.sqrt(values)) @ vectors.T
    weight /= np.sqrt(np.trace(weight @ spread.between @ weight) / dim)
    config = checkpoint.config
    encoder = dataclasses.replace(config.slab_encoder, projection=True)
    state = _project(checkpoint.state, spread.center, weight)
    config = dataclasses.replace(config, encoder=encoder)
    return Checkpoint(config, state, checkpoint.model_card)


def _measure(checkpoint: Checkpoint, store: VolumeStore) -> _Spread:
    firsts, within = [], []
    for scans in store.subjects.values():
        means = _mean_tokens(checkpoint, store, scans)
        firsts.append(means[0])
        for visit in dict.fromkeys(scan.visit for scan in scans):
            rows = means[[scan.visit == visit for scan in scans]]
            if len(rows) > 1:
                within.append(np.cov(rows, rowvar=False))
    if len(within) < _FEWEST:
        raise InputError(
            f"{store.folder}: expected at least {_FEWEST} visits with several scans, "
            f"got {len(within)}."
        )
    rows = np.array(firsts)
    between = np.cov(rows, rowvar=False)
    return _Spread(rows.mean(axis=0), between, np.mean(within, axis=0))


def _mean_tokens(
    checkpoint: Checkpoint, store: VolumeStore, scans: Sequence[StoredScan]
) -> _Floats:
    encoded = encode_scans(checkpoint, store, scans)
    means = [pool_tokens(scan.output, scan.fractions, "mean") for scan in encoded]
    return torch.cat(means).double().numpy()


def _project(
    state: Mapping[str, Tensor], center: _Floats, weight: _Floats
) -> dict[str, Tensor]:
    """Return weights whose tokens are a linear map of centred tokens of before."""
    new = {name: value.double() for name, value in state.items()}
    shift, matrix = torch.from_numpy(center), torch.from_numpy(weight)
    first = new.get("projection.weight", torch.eye(len(shift), dtype=torch.float64))
    offset = new.get("projection.bias", torch.zeros_like(shift)) - shift
    new["projection.weight"], new["projection.bias"] = matrix @ first, matrix @ offset
    if "anatomy.weight" in new:
        read = new["anatomy.weight"]
        new["anatomy.weight"] = torch.linalg.solve(matrix, read, left=False)
        new["anatomy.bias"] = new["anatomy.bias"] + read @ shift
    return {name: value.float() for name, value in new.items()}
