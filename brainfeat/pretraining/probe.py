"""A linear probe that scores an encoder during training, and its labels."""

__all__ = ["LinearProbe", "make_probe", "read_labels"]

import logging
import os
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.delimited_rows import DelimitedError, read_records
from brainfeat.io.paths import expand_home
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.store import VolumeStore
from brainfeat.slabs.crops import pool_patches, stack_to_slabs
from brainfeat.slabs.grid import Plane, SlabGrid

_N_FOLDS = 5
_N_REPEATS = 3
logger = logging.getLogger(__name__)
_SUBJECT_COLUMNS = ("participant_id", "subject")
_MAX_CLASS_SIZE = 100  # their volumes are kept in memory


class LinearProbe:
    """Score an encoder by cross-validated logistic regression on labelled subjects.

    Whole volumes are encoded, of the first acquisition of each of B subjects. `labels`
    (B,) has at least two subjects of each class.
    """

    def __init__(
        self, subjects: SubjectBatch, labels: ArrayLike, *, plane: Plane = "axial"
    ) -> None:
        self.subjects, self.labels = subjects, np.asarray(labels, dtype=bool)
        self.plane: Plane = plane

    def __call__(self, encoder: SlabEncoder) -> float:
        """Return the mean area under the ROC curve of held-out subjects."""
        return self.score(self.embed(encoder))

    def score(self, rows: NDArray[np.float32]) -> float:
        """Cross-validate the probe on embeddings (B, D)."""
        n_folds = min(_N_FOLDS, *np.bincount(self.labels, minlength=2))
        folds = RepeatedStratifiedKFold(
            n_splits=int(n_folds), n_repeats=_N_REPEATS, random_state=0
        )
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )
        scores = cross_val_score(probe, rows, self.labels, cv=folds, scoring="roc_auc")
        return float(scores.mean())

    @torch.no_grad()
    def embed(self, encoder: SlabEncoder) -> NDArray[np.float32]:
        """Average the patch tokens of each subject: (B, D)."""
        config = encoder.config
        axes = SlabGrid(thickness=config.thickness, plane=self.plane).axes
        device = encoder.cls_token.device
        rows = []
        for number in range(len(self.labels)):
            volumes = self.subjects.volumes[number, 0].to(device)
            volumes = volumes.permute(0, *(axis + 1 for axis in axes))
            foreground = self.subjects.foreground[number, 0].permute(axes)
            pooled = pool_patches(
                foreground[None, None, None], config.thickness, config.patch_size
            )
            fractions = config.count_foreground(pooled[0, ..., 0]).to(device)  # 1 S h w
            output = encoder(
                stack_to_slabs(volumes[None], config.thickness),
                present=self.subjects.present[number, :1].to(device),
                foreground=fractions > 0,
            )
            rows.append(pool_tokens(output, fractions).float().cpu().numpy())
        return np.concatenate(rows)


def read_labels(
    path: str | os.PathLike[str], column: str | None = None
) -> dict[str, bool]:
    """Read two classes from a TSV, or a CSV by its name.

    `column` is by default the only one beside ``participant_id`` or ``subject``.
    Returns, by subject without its ``sub-``, whether it is of the class that comes
    last in the alphabet. Rows without a subject or a class are skipped.
    """
    try:
        columns, lines = read_records(expand_home(path))
    except (OSError, DelimitedError) as error:
        raise InputError(
            f"{os.fspath(path)}: cannot be read ({brief_reason(error)})."
        ) from error
    name = next((name for name in _SUBJECT_COLUMNS if name in columns), None)
    others = [other for other in columns if other != name]
    chosen = column or (others[0] if len(others) == 1 else None)
    if name is None or chosen not in others:
        raise InputError(
            f"{os.fspath(path)}: expected a column participant_id and "
            f"{column or 'one of classes'}, got {', '.join(columns) or 'none'}."
        )
    classes: dict[str, str] = {}
    for line in lines.values():
        subject, value = line[name], line[chosen]
        if subject is None or value is None:
            continue
        known = classes.setdefault(subject.removeprefix("sub-"), value)
        if value != known:
            raise InputError(
                f"{os.fspath(path)}: expected one class in {chosen} for {subject}, "
                f"got {known} and {value}."
            )
    values = sorted(set(classes.values()))
    if len(values) != 2:
        raise InputError(
            f"{os.fspath(path)}: expected two classes in {chosen}, got {len(values)}."
        )
    return {subject: value == values[1] for subject, value in classes.items()}


def make_probe(
    labels: Mapping[str, bool], store: VolumeStore, *, plane: Plane
) -> LinearProbe:
    """Build a probe of the labelled subjects of a store, at most 100 of each class."""
    members: dict[bool, list[str]] = {False: [], True: []}
    for subject in store.subjects:
        label = labels.get(subject.removeprefix("sub-"))
        if label is not None and len(members[label]) < _MAX_CLASS_SIZE:
            members[label].append(subject)
    sizes = [len(members[label]) for label in (False, True)]
    if min(sizes) < 2:
        raise InputError(
            "labels: expected two scanned subjects of each class, got "
            f"{sizes[0]} and {sizes[1]}."
        )
    logger.info("The probe has %d and %d subjects of the two classes.", *sizes)
    names = members[False] + members[True]
    flags = [False] * sizes[0] + [True] * sizes[1]
    return LinearProbe(store.load(names), flags, plane=plane)
