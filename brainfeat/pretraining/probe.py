"""A linear probe that scores an encoder during training."""

__all__ = ["LinearProbe"]

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.slabs.crops import pool_patches, stack_to_slabs
from brainfeat.slabs.grid import Plane, SlabGrid

_N_FOLDS = 5
_N_REPEATS = 3


class LinearProbe:
    """Score an encoder by cross-validated logistic regression on labelled subjects.

    Parameters
    ----------
    subjects : SubjectBatch
        Whole volumes, one row a subject; the first acquisition is used.
    labels : array of bool of shape (B,)
        Class of each subject; at least two of each.
    plane : {"axial", "coronal", "sagittal"}
        Plane of the slabs.
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
            foreground = self.subjects.foreground[number].permute(axes)
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
