"""Units of the features of an encoder: the spread of mean tokens between people."""

__all__ = ["standardise_features"]

import numpy as np
import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import InputError
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.first_scans import encode_first_scans
from brainfeat.pretraining.store import VolumeStore

_FEWEST = 8  # subjects that tell a spread
_SMALLEST_SPREAD = 0.1  # of the median; less is hardly more than noise


def standardise_features(checkpoint: Checkpoint, store: VolumeStore) -> Checkpoint:
    """Give each feature mean 0 and standard deviation 1 between the people of a store.

    Without it a few features with a large spread decide how alike two brains are. The
    change is exact: the last layer norm takes it in, and the read-out of anatomy, which
    reads what it read before, takes it back.
    """
    names = [*store.subjects]
    if len(names) < _FEWEST:
        raise InputError(
            f"{store.folder}: expected at least {_FEWEST} subjects, got {len(names)}."
        )
    means = np.array(
        [
            pool_tokens(scan.output, scan.fractions, "mean")[0].double().numpy()
            for scan in encode_first_scans(checkpoint, store, names)
        ]
    )
    center, spread = means.mean(axis=0), means.std(axis=0)
    spread = np.maximum(spread, _SMALLEST_SPREAD * np.median(spread))
    state = {name: value.double() for name, value in checkpoint.state.items()}
    shift, scale = torch.from_numpy(center), torch.from_numpy(spread)
    changed = {
        "norm.weight": state["norm.weight"] / scale,
        "norm.bias": (state["norm.bias"] - shift) / scale,
    }
    if "anatomy.weight" in state:
        changed["anatomy.weight"] = state["anatomy.weight"] * scale
        changed["anatomy.bias"] = (
            state["anatomy.bias"] + state["anatomy.weight"] @ shift
        )
    new = {n: changed.get(n, value).float() for n, value in state.items()}
    return Checkpoint(checkpoint.config, new, checkpoint.model_card)
