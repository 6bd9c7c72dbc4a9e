"""Label maps of new scans, learnt from a few labelled ones."""

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from nibabel import Nifti1Image
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_checkpoint, shared_encoder
from brainfeat.configs import is_integer
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.paths import expand_home
from brainfeat.metrics import dice_scores
from brainfeat.models.device import resolve_device
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.progress import show_steps, show_subjects
from brainfeat.segmentation.folder import read_folder, write_folder
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.label_maps import as_label_maps, name_of, read_label_map
from brainfeat.segmentation.label_places import read_on_image
from brainfeat.segmentation.network import (
    SegmentationNetwork,
    encoder_slabs,
    first_decoder,
)
from brainfeat.segmentation.prediction import (
    SegmentedSubject,
    segment_subjects,
)
from brainfeat.segmentation.store import LabelledStore, write_store
from brainfeat.segmentation.training import (
    TrainingPlan,
    import_monai,
    train,
)
from brainfeat.subjects.contract import (
    check_checkpoint_name,
    check_modalities,
    check_weights,
    read_subjects,
    tag_images,
)
from brainfeat.subjects.owners import number_people
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import SubjectTable

__all__ = ["SegmentationEstimator"]

T = TypeVar("T")

# Subjects of a step on an accelerator; a CPU is busy with one.
_ACCELERATOR_BATCH = 4


class SegmentationEstimator(BaseEstimator):
    """Segment brain MRI after a few labelled examples.

    A light decoder learns from the tokens of a pretrained encoder, and from the voxels
    at about 1 mm for sharp borders. Label maps come back on each image's own grid:
    probabilities are interpolated there, and the most probable class is taken.

    Parameters
    ----------
    checkpoint : str or path-like
        Name of a bundled checkpoint, a checkpoint folder, or
        ``"hf-hub:org/name@revision"``.
    n_steps : int
        Steps of the training.
    learning_rate : float
        Highest learning rate of the decoder; an encoder that is not frozen learns at a
        tenth of it. It rises over the first tenth of the steps, and then falls.
    freeze_encoder : bool
        Whether the encoder stays as it is; else it is trained with the decoder, which
        takes more time, memory and labels.
    batch_size : "auto" or int
        Subjects of a step; ``"auto"`` is 1 on a CPU and 4 elsewhere.
    device : "auto", str or torch.device
        Where the network runs; ``"auto"`` is CUDA if it is there.
    random_state : None, int or numpy.random.RandomState
        Seed of first weights, examples and augmentation. An integer gives the same
        model on the same machine.
    verbose : int
        Above 0, progress is shown on a terminal, else logged.
    modality : str, optional
        Modality of images that come without one; as for `BrainFoundEmbedder`.
    validation_fraction : float
        Share of the people, rounded down, who are held out of the training, until four
        subjects are: it stops once their Dice no longer grows, and the best weights are
        kept. Fewer than ten people are all trained on by default. Subjects are of one
        person if the first level of the index of ``X``, a file, or the ``sub-`` in
        their names is the same.
    n_jobs : int
        Threads that read and preprocess. Speed only: on a CPU all cores segment.

    Attributes
    ----------
    classes_ : ndarray of int of shape (n_classes,)
        Labels, 0 (background) first, then the others in rising order.
    modalities_ : tuple of str
        Modalities of the images in `fit`; `predict` accepts no others.
    loss_curve_ : list of float
        Dice loss and cross-entropy of each step.
    validation_scores_ : list of float
        Mean Dice of the held-out subjects, at each tenth of the training.
    checkpoint_fingerprint_ : str
        SHA-256 of the encoder's weights and configuration.

    See Also
    --------
    BrainFoundEmbedder : One vector a subject.

    Examples
    --------
    Learn from five scans, and segment others in their own space::

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

        Everything is read and checked before the training starts. Preprocessed
        subjects are kept in a temporary folder meanwhile, so that memory does not grow
        with their number.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `BrainFoundEmbedder`: paths, globs or images; dicts ``{modality:
            image}``, one a subject; a DataFrame with a column per modality.
        y : list, Series or image
            A label map a subject, as path or image, in the order of ``X``. Labels are
            any integers; 0 is background, and may be all that a subject has. It may
            have another grid than its image, if it lies with it in scanner space.

        Returns
        -------
        self
            Ready to predict.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it is damaged.
        ConfigError
            If a parameter has an impossible value.
        InputError
            If ``X`` or ``y`` has another form, a label map is missing, is named after
            another subject, lies beside its image or lost its affine, all hold
            background only, or a class is nowhere in the brain.
        MissingDependencyError
            If monai is not installed.
        ModalityError
            If a modality is unknown to the checkpoint, or missing where it may not.
        TrainingError
            If the training diverges, or the temporary folder is full.
        VolumeError
            If a file is no usable image, or labels are not integers.
        """
        self._check_parameters()
        import_monai("monai.losses")
        checkpoint = shared_checkpoint(self.checkpoint)
        table = read_subjects(X, checkpoint, self.modality)
        label_maps = as_label_maps(y, table.rows)
        given = _given_modalities(table)
        space = SegmentationSpace.of_checkpoint(checkpoint.config, given)
        with tempfile.TemporaryDirectory(prefix="brainfeat-") as folder:
            store = write_store(
                table.rows,
                label_maps,
                space,
                encoder_slabs(checkpoint.config),
                Path(folder),
                n_jobs=resolve_n_jobs(self.n_jobs),
                verbose=self.verbose,
            )
            people = number_people(X, table.rows)
            self._train(store, people, checkpoint, space)
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
        CheckpointError
            If the checkpoint is not the one that was fitted.
        InputError
            If ``X`` has another form.
        ModalityError
            If ``X`` has a modality that `fit` did not see.
        VolumeError
            If a scan cannot be read.
        """
        return [*self._stream(X, lambda item: item.to_label_map(self.classes_))]

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

        Raises
        ------
        CheckpointError
            If the checkpoint is not the one that was fitted.
        InputError
            If ``X`` has another form.
        ModalityError
            If ``X`` has a modality that `fit` did not see.
        VolumeError
            If a scan cannot be read.
        """
        return [*self._stream(X, SegmentedSubject.to_probability_map)]

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
            From 0 to 1; NaN if no subject has or is given a class.

        Raises
        ------
        InputError
            If ``X`` or ``y`` has another form, a label map has a class that `fit` did
            not see, or lies beside its image.
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
            True label maps, as for `fit`.

        Returns
        -------
        DataFrame
            A row a subject, with the index of ``X`` if it has one; a column a
            foreground class; NaN where neither the truth nor the prediction has the
            class.

        Raises
        ------
        InputError
            If ``X`` or ``y`` has another form, a label map has a class that `fit` did
            not see, or lies beside its image.

        See Also
        --------
        brainfeat.metrics.hausdorff_distances : How far borders lie apart, in mm.
        """
        check_is_fitted(self)
        table = read_subjects(X, self._checkpoint(), self.modality)
        label_maps = as_label_maps(y, table.rows)
        for source, subject in zip(label_maps, table.rows, strict=True):
            self._check_classes(source, subject)
        foreground = self._classes()[1:]
        rows = []
        found = self._stream(X, lambda item: (item.placed, item.choose(self.classes_)))
        for (placed, labels), source, subject in zip(
            found, label_maps, table.rows, strict=True
        ):
            truth = read_on_image(source, subject, placed.native)
            rows.append(dice_scores(truth, labels, foreground))
        names = [subject.participant_id for subject in table.rows]
        index = X.index if isinstance(X, pd.Series | pd.DataFrame) else names
        return pd.DataFrame(rows, index=index, columns=foreground)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the fitted model as a folder of safetensors and JSON.

        Parameters
        ----------
        folder : path-like
            Made if it is not there, ``~`` is the home folder; holds encoder and
            decoder then.

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

    def _check_parameters(self) -> None:
        check_checkpoint_name(self.checkpoint)
        if not is_integer(self.n_steps, at_least=1):
            raise ConfigError(
                f"n_steps: expected a positive integer, got {self.n_steps!r}."
            )
        if self.batch_size != "auto" and not is_integer(self.batch_size, at_least=1):
            raise ConfigError(
                "batch_size: expected 'auto' or a positive integer, "
                f"got {self.batch_size!r}."
            )
        rate = self.learning_rate
        if not isinstance(rate, Real) or isinstance(rate, bool) or not rate > 0:
            raise ConfigError(
                f"learning_rate: expected a positive number, got {rate!r}."
            )
        if not isinstance(self.freeze_encoder, bool | np.bool_):
            raise ConfigError(
                f"freeze_encoder: expected True or False, got {self.freeze_encoder!r}."
            )
        share = self.validation_fraction
        if not isinstance(share, Real) or not 0 <= share < 1:
            raise ConfigError(
                f"validation_fraction: expected a number in [0, 1), got {share!r}."
            )
        resolve_device(self.device)
        resolve_n_jobs(self.n_jobs)
        try:
            check_random_state(self.random_state)
        except ValueError as error:
            raise ConfigError(
                "random_state: expected None, an integer or a RandomState, "
                f"got {self.random_state!r}."
            ) from error

    def _train(
        self,
        store: LabelledStore,
        people: NDArray[np.int64],
        checkpoint: Checkpoint,
        space: SegmentationSpace,
    ) -> None:
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31))
        device = resolve_device(self.device)
        train_rows, held_out = store.split(self.validation_fraction, people, random)
        network = SegmentationNetwork.join(
            checkpoint.config,
            space,
            encoder=(
                shared_encoder(checkpoint, device)
                if self.freeze_encoder
                else checkpoint.build_encoder().to(device)
            ),
            decoder=first_decoder(
                checkpoint.config.encoder, space, len(store.classes), seed
            ),
            # What is held out must not be known from the prior.
            prior=store.prior(train_rows),
            device=device,
        )
        plan = TrainingPlan(
            n_steps=int(self.n_steps),
            learning_rate=float(self.learning_rate),
            batch_size=self._batch_size(device),
            freeze_encoder=self.freeze_encoder,
            hide_modalities=checkpoint.config.missing_modalities,
            seed=seed,
            train=train_rows,
            held_out=held_out,
        )
        with show_steps(plan.n_steps, verbose=self.verbose) as tell:
            result = train(network, store, plan, on_step=tell)
        self.loss_curve_ = result.loss_curve
        self.validation_scores_ = result.validation_scores
        self.classes_ = np.array(store.classes)
        self._keep(network, checkpoint)

    def _keep(self, network: SegmentationNetwork, checkpoint: Checkpoint) -> None:
        self.modalities_ = network.space.modalities
        self.decoder_ = network.decoder.cpu()
        self.prior_ = network.prior
        self.tuned_checkpoint_ = None
        if not self.freeze_encoder:  # or the weights stay with their checkpoint
            state = network.encoder.cpu().state_dict()
            self.tuned_checkpoint_ = Checkpoint(checkpoint.config, state)
        found = self.tuned_checkpoint_ or checkpoint
        self.checkpoint_fingerprint_ = found.fingerprint

    def _batch_size(self, device: torch.device) -> int:
        if self.batch_size != "auto":
            return int(self.batch_size)
        return 1 if device.type == "cpu" else _ACCELERATOR_BATCH

    def _checkpoint(self) -> Checkpoint:
        found = self.tuned_checkpoint_ or shared_checkpoint(self.checkpoint)
        fitted = self.checkpoint_fingerprint_
        check_weights(self.checkpoint, fitted, found.fingerprint)
        return found

    def _classes(self) -> list[int]:
        return [int(label) for label in self.classes_]

    def _stream(self, X: Any, finish: Callable[[SegmentedSubject], T]) -> Iterator[T]:
        """Segment subjects, and give in order what ``finish`` makes of each.

        Raises
        ------
        ModalityError
            If ``X`` has a modality that `fit` did not see.
        """
        check_is_fitted(self)
        checkpoint = self._checkpoint()
        table = read_subjects(X, checkpoint, self.modality)
        check_modalities(self, self.modalities_, _given_modalities(table))
        segmented = segment_subjects(
            self._fitted_network(checkpoint),
            table.rows,
            finish,
            n_jobs=resolve_n_jobs(self.n_jobs),
        )
        with closing(segmented):
            yield from show_subjects(
                segmented, len(table.rows), done="segmented", verbose=self.verbose
            )

    def _fitted_network(self, checkpoint: Checkpoint) -> SegmentationNetwork:
        device = resolve_device(self.device)
        return SegmentationNetwork.join(
            checkpoint.config,
            SegmentationSpace.of_checkpoint(checkpoint.config, self.modalities_),
            encoder=shared_encoder(checkpoint, device),
            # A copy: what is fitted stays on the CPU, and can be pickled anywhere.
            decoder=copy.deepcopy(self.decoder_),
            prior=self.prior_,
            device=device,
        )

    def _check_classes(self, source: ImageSource, subject: Subject) -> None:
        found = np.unique(read_label_map(source, subject).data)
        unknown = sorted({int(label) for label in found} - set(self._classes()))
        if unknown:
            raise InputError(
                f"{name_of(source, subject)}: expected classes of the training "
                f"{self._classes()}, got {unknown} too."
            )


def _given_modalities(table: SubjectTable) -> tuple[str, ...]:
    """Modalities that a subject has: nothing is learnt of a column without images."""
    found = {n for row in table.rows for n, i in row.images.items() if i is not None}
    return tuple(name for name in table.modalities if name in found)
