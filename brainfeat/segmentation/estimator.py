"""Segmentation of new scans after training on a few labelled ones."""

__all__ = ["SegmentationEstimator"]

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from brainfeat.checkpoint import sharing
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.io.paths import expand_home
from brainfeat.models.device import resolve_device
from brainfeat.segmentation.fitting import Examples, Fitted, fit_network
from brainfeat.segmentation.folder import read_folder, write_folder
from brainfeat.segmentation.inputs import SegmentationSpace, acquired_modalities
from brainfeat.segmentation.label_maps import as_label_maps
from brainfeat.segmentation.locate import find_model, locate_model
from brainfeat.segmentation.names import check_names, collect_names, name_classes
from brainfeat.segmentation.plan import TrainingPlan, check_grid
from brainfeat.segmentation.predictor import FittedSegmentation
from brainfeat.segmentation.warm_start import DecoderStart
from brainfeat.subjects.owners import subject_groups
from brainfeat.subjects.table import read_subjects, tag_images


class SegmentationEstimator(FittedSegmentation):
    """Segment brain MRI after training on a few labelled examples.

    A light decoder learns from the tokens of a pretrained encoder, and from voxels of
    1 mm for sharp borders. Probabilities are interpolated on each image's own grid,
    where the most probable class is taken.

    Parameters
    ----------
    checkpoint : str or path-like
        Name of a bundled checkpoint, a checkpoint folder, or
        ``"hf-hub:org/name@revision"``. With ``"brainfound-tiny-anatomy"``, or a folder
        that `save` wrote, the training starts from the decoder of this model.
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
    where : {"brain", "head"}
        Where structures are predicted: in the brain that is found in each scan, or
        anywhere.
    grid : str
        Grid of the maps: ``"label"`` is that of the modality on which most label maps
        of the training were drawn, ``"first"`` that of each subject's first image;
        else a modality.
    n_folds : int
        Folds of a cross-validation over people, whose trainings take half of the steps
        each; 0 and 1 leave it out.
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
    names_ : dict of int to str
        Name of each class; ``class_7`` if it was given none.
    modalities_ : tuple of str
        Modalities of the images in `fit`; `predict` accepts no others.
    modality_scores_ : dict of str to float
        Dice of held-out subjects with each choice of modalities that the training had,
        such as ``"T1w+FLAIR"``; NaN where it is unknown. `predict` warns of subjects
        with fewer than all, and refuses choices that are not among them.
    label_grid_ : str or None
        Modality on whose grid most label maps were drawn; None if on none.
    held_out_score_ : float
        Dice by cross-validation, mean over subjects and classes; NaN without any.
    held_out_scores_ : dict of str to float
        Of each class, by its name.
    loss_curve_ : list of float
        Dice loss plus cross-entropy of each step.
    validation_scores_ : list of float
        Mean Dice of the held-out subjects, at each tenth of the training.
    encoder_ : str or path-like
        Checkpoint of the encoder: ``checkpoint``, or that of the model it names.
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
        where: Literal["brain", "head"] = "brain",
        grid: str = "label",
        n_folds: int = 3,
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
        self.where = where
        self.grid = grid
        self.n_folds = n_folds
        self.validation_fraction = validation_fraction
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, names: Mapping[int, str] | None = None) -> Self:
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
        names : dict of int to str, optional
            Names of labels, such as ``{1: "lesion"}``; of others, those in a table
            ``dseg.tsv`` beside the label maps.

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
        device, parameters = resolve_device(self.device), self.get_params()
        TrainingPlan.from_parameters(parameters, device)  # before anything is read
        given = check_names({} if names is None else names)
        start = self._read_start()
        source = start.encoder if start else self.checkpoint
        checkpoint = sharing.shared_checkpoint(source)
        table = read_subjects(X, checkpoint, self.modality)
        label_maps = as_label_maps(y, table.rows)
        acquired = acquired_modalities(table)
        check_grid(self.grid, acquired)
        files = (Path(m) for m in label_maps if isinstance(m, str | os.PathLike))
        known = collect_names(files) | given
        fitted = fit_network(
            Examples(table.rows, label_maps, subject_groups(X, table.rows), known),
            checkpoint,
            SegmentationSpace.of_checkpoint(checkpoint.config, acquired),
            parameters=parameters,
            device=device,
            start=start,
        )
        self.classes_ = np.array(fitted.classes)
        self.names_ = name_classes(fitted.classes, known)
        self.encoder_ = source
        self._set_fitted(fitted, checkpoint)
        return self

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
        """Read a model that was saved, or one that comes with the library.

        Parameters
        ----------
        folder : str or path-like
            What `save` wrote, or ``"brainfound-tiny-anatomy"``, which segments 31
            structures of the brain without any labels.

        Returns
        -------
        SegmentationEstimator
            Fitted.

        Raises
        ------
        CheckpointError
            If the folder holds no model, or a damaged one.
        """
        content = read_folder(locate_model(folder))
        estimator = cls(**content.parameters)
        for name, value in content.fitted.items():
            setattr(estimator, name, value)
        return estimator

    def __sklearn_tags__(self) -> Tags:
        tags = tag_images(super().__sklearn_tags__())
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = False
        return tags

    def _read_start(self) -> DecoderStart | None:
        """Read the model whose decoder the training starts from, if it is one."""
        folder = find_model(self.checkpoint)
        return None if folder is None else DecoderStart.read(folder)

    def _set_fitted(self, fitted: Fitted, checkpoint: Checkpoint) -> None:
        network, held_out = fitted.network, fitted.held_out
        self.modalities_ = network.space.modalities
        self.loss_curve_ = fitted.result.loss_curve
        self.validation_scores_ = fitted.result.validation_scores
        self.modality_scores_ = held_out.by_choice
        self.label_grid_ = fitted.label_grid
        self.held_out_score_ = held_out.mean
        foreground = [self.names_[label] for label in fitted.classes[1:]]
        self.held_out_scores_ = dict(zip(foreground, held_out.by_class, strict=True))
        self.decoder_ = network.decoder.cpu()
        self.prior_ = network.prior
        self.tuned_checkpoint_ = None
        if not self.freeze_encoder:
            state = network.encoder.cpu().state_dict()
            self.tuned_checkpoint_ = Checkpoint(checkpoint.config, state)
        tuned = self.tuned_checkpoint_ or checkpoint
        self.checkpoint_fingerprint_ = tuned.fingerprint
