"""A classifier of brain MRI: an encoder adapted to labelled subjects."""

__all__ = ["BrainFoundClassifier"]

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.metrics import roc_auc_score

from brainfeat.finetuning.estimator import FineTunedEncoder
from brainfeat.finetuning.labels import read_classes, read_groups
from brainfeat.subjects.owners import subject_groups


class BrainFoundClassifier(ClassifierMixin, FineTunedEncoder):
    """Classify brain MRI by an encoder that is adapted to labelled subjects.

    A linear probe of the frozen encoder comes first, and fine-tuning starts from it
    [1]_: its head is the probe, and the encoder is as it was. Both are trained as many
    steps as people who are held out gain by; if these gain nothing, the probe is the
    model.

    Parameters
    ----------
    checkpoint : str or path-like
        As for `BrainFoundEmbedder`; a transformer.
    adapt : {"lora", "last", "all"}
        What is trained: updates of low rank of the linear layers of the last blocks,
        these blocks, or the whole encoder.
    rank : int
        Rank of the updates of ``"lora"``.
    n_blocks : int
        Blocks that are trained, from the last; ``"all"`` trains all of them. What comes
        before them is computed once.
    pooling : {"mean", "attention"}
        How the head averages the patch tokens over the brain: by the brain in each
        patch, or by weights that are trained, too.
    n_steps : int
        The most steps; 0 fits the probe alone.
    learning_rate : float
        Of the encoder, after a warm-up of a tenth of the steps; the head has a third
        of it, and the attention a thirtieth.
    batch_size : int
        Subjects of a step.
    n_views : int
        Randomly changed copies of each subject that are trained on, too: turned,
        shifted, mirrored, with other intensities.
    n_folds : int
        Folds of people, each of which is held out in turn to choose the number of
        steps; with 0 or 1, all ``n_steps`` are taken.
    class_weight : None, "balanced" or dict
        As in scikit-learn.
    modality : str, optional
        Modality of images without one, such as paths; as for `BrainFoundEmbedder`.
    preprocessor : Preprocessor or InputRecipe, optional
        Replaces the checkpoint's preprocessing.
    device : "auto", str or torch.device
        Where the encoder is trained and runs; ``"auto"`` is CUDA if available.
    random_state : None, int or numpy.random.RandomState
        Seed; an integer gives the same model on the same machine.
    n_jobs : int
        Threads that read and preprocess. Changes speed only.
    verbose : int
        Above 0, progress is shown: a bar on a terminal or in a notebook, else lines.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted labels.
    modalities_ : tuple of str
        Modalities of the ``X`` of `fit`; `predict` accepts no others.
    n_steps_ : int
        Steps that were trained; 0 if the probe alone was as good.
    loss_curve_ : list of float
        Cross-entropy of each step.
    held_out_score_, probe_score_ : float
        Area under the ROC curve (mean over classes, each against the rest) of people
        who were held out, of the model and of the probe; NaN without any.
    held_out_proba_ : ndarray of shape (n_subjects, n_classes)
        Their probabilities.
    checkpoint_fingerprint_, preprocessing_fingerprint_ : str
        SHA-256 of what the model was adapted from.

    References
    ----------
    .. [1] Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
       Out-of-Distribution", ICLR 2022.

    Examples
    --------
    Classify new scans after training on labelled ones::

        model = BrainFoundClassifier(random_state=0).fit(scans, diagnosis)
        model.predict_proba(new_scans)
    """

    stored_names = (
        "classes_",
        "modalities_",
        "n_steps_",
        "loss_curve_",
        "held_out_score_",
        "probe_score_",
        "held_out_proba_",
        "preprocessing_fingerprint_",
    )

    def __init__(  # noqa: PLR0913  an estimator's options are one flat list
        self,
        checkpoint: str | os.PathLike[str] = "brainfound-tiny",
        *,
        adapt: Literal["lora", "last", "all"] = "lora",
        rank: int = 8,
        n_blocks: int = 1,
        pooling: Literal["mean", "attention"] = "mean",
        n_steps: int = 40,
        learning_rate: float = 3e-4,
        batch_size: int = 4,
        n_views: int = 1,
        n_folds: int = 3,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        modality: str | None = None,
        preprocessor: Any = None,
        device: Any = "auto",
        random_state: Any = None,
        n_jobs: int | None = 1,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            checkpoint,
            adapt=adapt,
            rank=rank,
            n_blocks=n_blocks,
            pooling=pooling,
            n_steps=n_steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            n_views=n_views,
            n_folds=n_folds,
            modality=modality,
            preprocessor=preprocessor,
            device=device,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Adapt the encoder to labelled subjects.

        Each subject is read and preprocessed once.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `BrainFoundEmbedder`.
        y : array-like of shape (n_subjects,)
            Classes.
        groups : array-like of shape (n_subjects,), optional
            Person of each row, for the folds; by default rows are of one person if the
            first level of the index of ``X``, a file, or the ``sub-`` in their names is
            the same.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        ConfigError
            If a parameter has an impossible value.
        InputError
            If ``X`` has another form, or ``y`` has missing values, one class, or
            another length.
        ModalityError
            If a modality is unknown to the checkpoint, or missing where it may not.
        TrainingError
            If the training diverges.
        VolumeError
            If an image cannot be read.
        """
        checkpoint, table, plan = self._read(X)
        n_rows = len(table.rows)
        classes, targets = read_classes(y, n_rows, self.class_weight)
        people = read_groups(groups, subject_groups(X, table.rows))
        fitted = self._fit(checkpoint, table, plan, targets, people)
        self.classes_ = classes
        self.held_out_score_ = self.probe_score_ = float("nan")
        self.held_out_proba_ = np.full((n_rows, len(classes)), np.nan)
        if fitted.held_out is not None:
            scores = fitted.held_out
            self.held_out_proba_ = softmax(scores.unbiased, axis=1)
            self.held_out_score_ = _area(targets.codes, self.held_out_proba_)
            self.probe_score_ = _area(targets.codes, softmax(scores.scores[0], axis=1))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Choose the most probable class of each subject.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_subjects,)
            Elements of ``classes_``.
        """
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute the probability of each class.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_subjects, n_classes)
            In the order of ``classes_``.
        """
        scores = np.stack([one.scores for one in self._predict(X)])
        return self.to_probabilities(scores)

    def to_probabilities(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn the scores of the head into probabilities.

        Parameters
        ----------
        scores : ndarray of shape (n_subjects, n_classes)
            As in `Prediction`.

        Returns
        -------
        ndarray of shape (n_subjects, n_classes)
            Rows sum to one.
        """
        return np.asarray(softmax(scores, axis=1))


def _area(codes: NDArray[np.intp], probabilities: NDArray[np.float64]) -> float:
    """Compute the AUC, over classes each against the rest."""
    n_classes = probabilities.shape[1]
    columns = [1] if n_classes == 2 else range(n_classes)
    areas = [roc_auc_score(codes == c, probabilities[:, c]) for c in columns]
    return float(np.mean(areas))
