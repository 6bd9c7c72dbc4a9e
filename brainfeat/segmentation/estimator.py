"""Segmentation of new scans after training on a few labelled ones."""

__all__ = ["SegmentationEstimator"]

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import pandas as pd
from nibabel import Nifti1Image
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from brainfeat.checkpoint import sharing
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.io.paths import expand_home
from brainfeat.metrics import dice_scores
from brainfeat.models.device import resolve_device
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.progress import track
from brainfeat.segmentation.folder import read_folder, write_folder
from brainfeat.segmentation.inputs import SegmentationSpace, acquired_modalities
from brainfeat.segmentation.label_maps import (
    as_label_maps,
    check_classes,
    read_on_image,
)
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.plan import TrainingPlan, split_subjects
from brainfeat.segmentation.prediction import Segmentation, segment_subjects
from brainfeat.segmentation.store import write_store
from brainfeat.segmentation.training import init_network, train
from brainfeat.subjects.owners import subject_groups
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import (
    as_subjects,
    check_fitted_modalities,
    read_subjects,
    tag_images,
)

T = TypeVar("T")


class SegmentationEstimator(BaseEstimator):
    """Segment brain MRI after training on a few labelled examples.

    A light decoder learns from the tokens of a pretrained encoder, and from voxels of
    1 mm for sharp borders. Probabilities are interpolated on each image's own grid,
    where the most probable class is taken.

    Parameters
    ----------
    checkpoint : str or path-like
        Name of a bundled checkpoint, a checkpoint folder, or
        ``"hf-hub:org/name@revision"``.
    n_steps : int
        Steps of the training.
    learning_rate : float
        Peak learning rate of the decoder, after a warm-up of a tenth of the steps; an
        encoder that is trained has a tenth of it.
    freeze_encoder : bool
        Whether to train the decoder alone, which takes less time, memory and labels.
    batch_size : "auto" or int
        Subjects of a step; ``"auto"`` is 1 on a CPU and 4 elsewhere.
    device : "auto", str or torch.device
        Where the network runs; ``"auto"`` is CUDA if it is available.
    random_state : None, int or numpy.random.RandomState
        Seed; an integer gives the same model on the same machine.
    verbose : int
        Above 0, progress is shown: a bar on a terminal or in a notebook, else lines.
    modality : str, optional
        Modality of images that come without one; as for `BrainFoundEmbedder`.
    validation_fraction : float
        Fraction of the participants, rounded down, to hold out for early stopping, up
        to four subjects: training stops once their Dice no longer rises, and the best
        weights are kept. Subjects are of one participant if the first level of the
        index of ``X``, a file, or the ``sub-`` in their names is the same.
    n_jobs : int
        Threads that read and preprocess. Speed only: on a CPU all cores segment.

    Attributes
    ----------
    classes_ : ndarray of int of shape (n_classes,)
        Labels, 0 (background) first, then the others in rising order.
    modalities_ : tuple of str
        Modalities of the images in `fit`; `predict` accepts no others.
    loss_curve_ : list of float
        Dice loss plus cross-entropy of each step.
    validation_scores_ : list of float
        Mean Dice of the held-out subjects, at each tenth of the training.
    checkpoint_fingerprint_ : str
        SHA-256 of the encoder's weights and configuration.

    Examples
    --------
    Train on five scans, and segment others in their own space::

        model = SegmentationEstimator(random_state=0).fit(scans[:5], label_maps)
        model.predict(scans[5:])[0].to_filename("sub-06_dseg.nii.gz")
    """

    def __init__(  # noqa: PLR0913  an estimator's options are one flat list
        self,
        checkpoint: str | os.PathLike[str] = "brainfound-tiny",
        *,
        n_steps: int = 150,
        learning_rate: float = 1e-2,
        freeze_encoder: bool = True,
        batch_size: int | Literal["auto"] = "auto",
        device: Any = "auto",
        random_state: Any = None,
        verbose: int = 0,
        modality: str | None = None,
        validation_fraction: float = 0.1,
        n_jobs: int | None = 1,
    ) -> None:
        self.checkpoint = checkpoint
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.freeze_encoder = freeze_encoder
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.modality = modality
        self.validation_fraction = validation_fraction
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any) -> Self:
        """Train a decoder.

        All inputs are read and checked before the training starts. Preprocessed
        subjects are kept in a temporary folder, not in memory.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `BrainFoundEmbedder`: paths, globs or images; dicts ``{modality:
            image}``, one a subject; a DataFrame with a column per modality.
        y : list, Series or image
            A label map a subject, as path or image, in the order of ``X``. Labels are
            any integers; 0 is background, and may be all that a subject has. Its grid
            may differ from the image's, if both are aligned in scanner space.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        InputError
            If ``X`` or ``y`` has another form, a label map is missing, of another
            subject or outside its image, or a class is nowhere in the brain.
        ModalityError
            If a modality is unknown to the checkpoint, or missing where it must not.
        TrainingError
            If the training diverges, or the temporary folder is full.
        VolumeError
            If a file is not a usable image, or labels are not integers.
        """
        device, n_jobs = resolve_device(self.device), resolve_n_jobs(self.n_jobs)
        plan, random = TrainingPlan.from_parameters(self.get_params(), device)
        checkpoint = sharing.shared_checkpoint(self.checkpoint)
        table = read_subjects(X, checkpoint, self.modality)
        label_maps = as_label_maps(y, table.rows)
        acquired = acquired_modalities(table)
        space = SegmentationSpace.of_checkpoint(checkpoint.config, acquired)
        with tempfile.TemporaryDirectory(prefix="brainfeat-") as folder:
            store = write_store(
                table.rows,
                label_maps,
                space,
                Path(folder),
                n_jobs=n_jobs,
                verbose=self.verbose,
            )
            groups = subject_groups(X, table.rows)
            split = split_subjects(
                store.has_class, groups, self.validation_fraction, random
            )
            network = init_network(checkpoint, space, store, split, plan, device)
            result = train(network, store, split, plan, verbose=self.verbose)
        self.classes_ = np.array(store.classes)
        self.loss_curve_ = result.loss_curve
        self.validation_scores_ = result.validation_scores
        self._set_fitted(network, checkpoint)
        return self

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
            the classes, with shape, affine and units of the subject's first image.

        Raises
        ------
        ModalityError
            If ``X`` has a modality that `fit` did not see.
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
            foreground class; NaN where neither truth nor prediction has it.
        """
        network, subjects = self._prepare(X)
        label_maps = as_label_maps(y, subjects)
        for source, subject in zip(label_maps, subjects, strict=True):
            check_classes(source, subject, self.classes_.tolist())
        foreground = self.classes_[1:].tolist()
        predicted = self._segment(
            network, subjects, lambda item: (item.inputs.native, item.labels())
        )
        rows = [
            dice_scores(read_on_image(source, subject, grid), labels, foreground)
            for source, subject, (grid, labels) in zip(
                label_maps, subjects, predicted, strict=True
            )
        ]
        names = [subject.participant_id for subject in subjects]
        index = X.index if isinstance(X, pd.Series | pd.DataFrame) else names
        return pd.DataFrame(rows, index=index, columns=foreground)

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

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the fitted model, encoder and decoder, as safetensors and JSON.

        Parameters
        ----------
        folder : path-like
            Created if needed; ``~`` is the home folder.

        Returns
        -------
        Path
            The folder.
        """
        check_is_fitted(self)
        return write_folder(expand_home(folder), self, self._checkpoint())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a model that was saved.

        Parameters
        ----------
        folder : path-like
            What `save` wrote.

        Returns
        -------
        SegmentationEstimator
            Fitted.

        Raises
        ------
        CheckpointError
            If the folder holds no model, or a damaged one.
        """
        content = read_folder(expand_home(folder))
        estimator = cls(**content.parameters)
        for name, value in content.fitted.items():
            setattr(estimator, name, value)
        return estimator

    def __sklearn_tags__(self) -> Tags:
        tags = tag_images(super().__sklearn_tags__())
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = False
        return tags

    def _set_fitted(self, network: SegmentationNetwork, checkpoint: Checkpoint) -> None:
        self.modalities_ = network.space.modalities
        self.decoder_ = network.decoder.cpu()
        self.prior_ = network.prior
        self.tuned_checkpoint_ = None
        if not self.freeze_encoder:
            state = network.encoder.cpu().state_dict()
            self.tuned_checkpoint_ = Checkpoint(checkpoint.config, state)
        fitted = self.tuned_checkpoint_ or checkpoint
        self.checkpoint_fingerprint_ = fitted.fingerprint

    def _checkpoint(self) -> Checkpoint:
        checkpoint = self.tuned_checkpoint_ or sharing.shared_checkpoint(
            self.checkpoint
        )
        fitted = self.checkpoint_fingerprint_
        sharing.check_fingerprint(self.checkpoint, fitted, checkpoint.fingerprint)
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
            network, self.classes_, subjects, finish, n_jobs=n_jobs
        )
        with closing(stream):
            for outcome in track(stream, total=n, description="segmenting", show=show):
                yield outcome.unwrap()
