"""Label maps, probabilities and scores of a fitted segmentation model."""

__all__ = ["FittedSegmentation"]

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from brainfeat.checkpoint import sharing
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.display.documented import Documented
from brainfeat.metrics import dice_scores
from brainfeat.models.decoder import SegmentationDecoder
from brainfeat.models.device import resolve_device
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.progress import track
from brainfeat.segmentation.inputs import SegmentationSpace, acquired_modalities
from brainfeat.segmentation.label_maps import (
    as_label_maps,
    check_classes,
    read_on_image,
)
from brainfeat.segmentation.locate import find_model
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.plan import check_grid
from brainfeat.segmentation.prediction import (
    PredictionSettings,
    Segmentation,
    segment_subjects,
)
from brainfeat.segmentation.volumes import measure_segmentation
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import as_subjects, check_fitted_modalities

T = TypeVar("T")


class FittedSegmentation(Documented, BaseEstimator):
    """What `SegmentationEstimator` does once it is fitted."""

    checkpoint: Any
    device: Any
    grid: str
    modality: str | None
    n_jobs: int | None
    verbose: int
    where: str
    classes_: NDArray[np.int64]
    names_: dict[int, str]
    modalities_: tuple[str, ...]
    modality_scores_: dict[str, float]
    held_out_scores_: dict[str, float]
    label_grid_: str | None
    decoder_: SegmentationDecoder
    encoder_: Any
    prior_: Tensor
    tuned_checkpoint_: Checkpoint | None
    checkpoint_fingerprint_: str

    def predict(self, X: Any) -> list[Nifti1Image]:
        """Segment each subject in its own space.

        All label maps are held in memory; ``brainfeat segment predict`` writes each.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        list of nibabel.Nifti1Image
            A label map a subject, of the smallest of uint8, uint16 and int32 that holds
            the classes, with shape, affine and units of the image that `grid` names.

        Raises
        ------
        ModalityError
            If ``X`` has a modality, or a choice of them, that `fit` did not see.
        """
        return [*self._segment(*self._prepare(X), Segmentation.to_label_map)]

    def predict_proba(self, X: Any) -> list[Nifti1Image]:
        """Compute the probability of each class in each voxel.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        list of nibabel.Nifti1Image
            One a subject, float32 of shape (size_i, size_j, size_k, n_classes), in the
            order of ``classes_``.
        """
        return [*self._segment(*self._prepare(X), Segmentation.to_probability_map)]

    def predict_uncertainty(self, X: Any) -> list[Nifti1Image]:
        """Compute one minus the probability of the label of each voxel.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        list of nibabel.Nifti1Image
            One a subject, float32, on the grid of its label map.
        """
        return [*self._segment(*self._prepare(X), Segmentation.to_uncertainty_map)]

    def volumes(self, X: Any) -> pd.DataFrame:
        """Measure the volume of each structure, in millilitres.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        DataFrame
            A row a subject, with the index of ``X`` if it has one. Columns are, for a
            structure named ``lesion``, ``lesion_ml`` and ``lesion_count``, the number
            of its connected components; then ``brain_ml``, ``mean_uncertainty`` and the
            quality of the alignment, ``qc_*``.
        """
        network, subjects = self._prepare(X)
        finish = partial(measure_segmentation, names=self.names_)
        rows = [*self._segment(network, subjects, finish)]
        return pd.DataFrame(rows, index=_index(X, subjects))

    def score(self, X: Any, y: Any) -> float:
        """Compute the mean Dice over subjects and foreground classes.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.
        y : list, Series or image
            True label maps, as for `fit`.

        Returns
        -------
        float
            From 0 to 1; NaN if neither truth nor prediction has any foreground.
        """
        scores = self.score_table(X, y).to_numpy()
        known = scores[~np.isnan(scores)]
        return float(known.mean()) if len(known) else float("nan")

    def score_table(self, X: Any, y: Any) -> pd.DataFrame:
        """Compute the Dice of each class and subject, on the grid of the images.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.
        y : list, Series or image
            True label maps, as for `fit`, of classes that `fit` saw.

        Returns
        -------
        DataFrame
            A row a subject, with the index of ``X`` if it has one; a column a
            foreground class, by its name or else its label; NaN where neither truth
            nor prediction has it.
        """
        network, subjects = self._prepare(X)
        label_maps = as_label_maps(y, subjects)
        for source, subject in zip(label_maps, subjects, strict=True):
            check_classes(source, subject, self.classes_.tolist())
        foreground = self.classes_[1:].tolist()
        predicted = self._segment(
            network, subjects, lambda item: (item.grid.geometry, item.labels())
        )
        rows = [
            dice_scores(read_on_image(source, subject, grid), labels, foreground)
            for source, subject, (grid, labels) in zip(
                label_maps, subjects, predicted, strict=True
            )
        ]
        columns = [
            label if self.names_[label] == f"class_{label}" else self.names_[label]
            for label in foreground
        ]
        return pd.DataFrame(rows, index=_index(X, subjects), columns=columns)

    def build_network(self) -> SegmentationNetwork:
        """Load the fitted network on the device.

        Returns
        -------
        SegmentationNetwork
            For `brainfeat.segmentation.prediction.segment_subjects`.
        """
        check_is_fitted(self)
        checkpoint, device = self._checkpoint(), resolve_device(self.device)
        return SegmentationNetwork(
            space=SegmentationSpace.of_checkpoint(checkpoint.config, self.modalities_),
            encoder=sharing.shared_encoder(checkpoint, device),
            # Copied, so that the fitted one stays on the CPU and can be pickled.
            decoder=copy.deepcopy(self.decoder_),
            prior=self.prior_,
            device=device,
        )

    def prediction_settings(self) -> PredictionSettings:
        """Return where and on which grid the fitted model predicts.

        Returns
        -------
        PredictionSettings
            For `brainfeat.segmentation.prediction.segment_subjects`.
        """
        check_grid(self.grid, self.modalities_)
        named = {"label": self.label_grid_, "first": None}
        return PredictionSettings(
            in_brain=self.where == "brain",
            grid=named.get(self.grid, self.grid),
            modality_scores=self.modality_scores_,
        )

    def _checkpoint(self) -> Checkpoint:
        # The checkpoint may be a model, whose encoder and decoder were the start.
        is_model = find_model(self.checkpoint) is not None
        source = self.encoder_ if is_model else self.checkpoint
        checkpoint = self.tuned_checkpoint_ or sharing.shared_checkpoint(source)
        fitted = self.checkpoint_fingerprint_
        sharing.check_fingerprint(source, fitted, checkpoint.fingerprint)
        return checkpoint

    def _prepare(self, X: Any) -> tuple[SegmentationNetwork, Sequence[Subject]]:
        """Load the network, and check subjects against it."""
        network = self.build_network()
        table = as_subjects(
            X,
            modality=self.modality,
            modalities=network.space.encoder_modalities,
            allow_missing=network.space.allow_missing,
        )
        check_fitted_modalities(self, self.modalities_, acquired_modalities(table))
        return network, table.rows

    def _segment(
        self,
        network: SegmentationNetwork,
        subjects: Sequence[Subject],
        finish: Callable[[Segmentation], T],
    ) -> Iterator[T]:
        """Yield what ``finish`` makes of each segmentation; raise the first error."""
        n, n_jobs, show = len(subjects), resolve_n_jobs(self.n_jobs), self.verbose > 0
        stream = segment_subjects(
            network,
            self.classes_,
            subjects,
            finish,
            settings=self.prediction_settings(),
            n_jobs=n_jobs,
        )
        with closing(stream):
            for outcome in track(stream, total=n, description="segmenting", show=show):
                yield outcome.unwrap()


def _index(X: Any, subjects: Sequence[Subject]) -> Any:
    names = [subject.participant_id for subject in subjects]
    return X.index if isinstance(X, pd.Series | pd.DataFrame) else names
