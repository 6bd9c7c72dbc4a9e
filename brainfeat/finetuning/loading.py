"""A fine-tuned model of either kind from its folder."""

__all__ = ["load_model"]

from pathlib import Path

from brainfeat.exceptions import CheckpointError
from brainfeat.finetuning.classifier import BrainFoundClassifier
from brainfeat.finetuning.folder import read_config
from brainfeat.finetuning.regressor import BrainFoundRegressor
from brainfeat.io.paths import expand_home

_KINDS = {kind.__name__: kind for kind in (BrainFoundClassifier, BrainFoundRegressor)}


def load_model(folder: Path) -> BrainFoundClassifier | BrainFoundRegressor:
    """Read the estimator that a folder names."""
    name = read_config(expand_home(folder)).get("estimator")
    if name not in _KINDS:
        raise CheckpointError(f"{folder}: expected one of {[*_KINDS]}, got {name!r}.")
    return _KINDS[name].load(folder)
