"""From labelled subjects to a trained network, and what is known of it."""

__all__ = ["Examples", "Fitted", "fit_network"]

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.io.image_files import ImageSource
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.plan import TrainingPlan, split_subjects
from brainfeat.segmentation.store import write_store
from brainfeat.segmentation.training import TrainingResult, train
from brainfeat.segmentation.validation import (
    HeldOutScores,
    TrainingData,
    cross_validate,
)
from brainfeat.segmentation.warm_start import DecoderStart
from brainfeat.subjects.subject import Subject


class Examples(NamedTuple):
    """Labelled subjects to learn from."""

    subjects: Sequence[Subject]
    label_maps: Sequence[ImageSource]
    groups: NDArray[np.int64]  # the person of each subject
    names: Mapping[int, str]  # of labels


class Fitted(NamedTuple):
    """A trained network, and what its training tells of it."""

    network: SegmentationNetwork
    classes: tuple[int, ...]
    result: TrainingResult
    held_out: HeldOutScores
    label_grid: str | None  # modality on whose grid the label maps are


def fit_network(
    examples: Examples,
    checkpoint: Checkpoint,
    space: SegmentationSpace,
    *,
    parameters: Mapping[str, Any],
    device: torch.device,
    start: DecoderStart | None = None,
) -> Fitted:
    """Train on labelled subjects, and score folds of them.

    ``parameters`` are those of the estimator. Preprocessed subjects are kept in a
    temporary folder, which the final training and those of all folds read.
    """
    plan, random = TrainingPlan.from_parameters(parameters, device)
    n_jobs, verbose = resolve_n_jobs(parameters["n_jobs"]), parameters["verbose"]
    with tempfile.TemporaryDirectory(prefix="brainfeat-") as folder:
        store = write_store(
            *(examples.subjects, examples.label_maps, space, Path(folder)),
            n_jobs=n_jobs,
            verbose=verbose,
        )
        fraction = parameters["validation_fraction"]
        split = split_subjects(store.has_class, examples.groups, fraction, random)
        data = TrainingData(
            checkpoint=checkpoint,
            space=space,
            store=store,
            groups=examples.groups,
            device=device,
            start=start,
            names=examples.names,
        )
        network = data.init_network(split, plan)
        result = train(network, store, split, plan, verbose=verbose)
        held_out = cross_validate(
            data,
            plan,
            n_folds=parameters["n_folds"],
            in_brain=parameters["where"] == "brain",
            verbose=verbose,
        )
    return Fitted(network, store.classes, result, held_out, store.label_grid)
