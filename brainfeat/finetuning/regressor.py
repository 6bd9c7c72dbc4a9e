"""A regressor of brain MRI: an encoder adapted to numbers of subjects."""

__all__ = ["BrainFoundRegressor"]

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from brainfeat.finetuning.estimator import FineTunedEncoder
from brainfeat.finetuning.labels import read_groups, read_numbers
from brainfeat.subjects.owners import subject_groups


class BrainFoundRegressor(RegressorMixin, FineTunedEncoder):
    """Predict a number, such as age, by an encoder that is adapted to it.

    A ridge regression on embeddings of the frozen encoder comes first, and fine-tuning
    starts from it, as in `BrainFoundClassifier`. Numbers are standardised, and the
    loss is half the squared error.

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
    modalities_ : tuple of str
        Modalities of the ``X`` of `fit`; `predict` accepts no others.
    n_steps_ : int
        Steps that were trained; 0 if the probe alone was as good.
    loss_curve_ : list of float
        Half the squared error of each step, of standardised numbers.
    held_out_score_, probe_score_ : float
        Explained variance (R2) of people who were held out, of the model and of the
        probe; NaN without any.
    held_out_predictions_ : ndarray of shape (n_subjects,)
        Their predictions.
    target_mean_, target_scale_ : float
        Mean and standard deviation of ``y``.
    checkpoint_fingerprint_, preprocessing_fingerprint_ : str
        SHA-256 of what the model was adapted from.

    Examples
    --------
    Predict the age of new scans::

        model = BrainFoundRegressor(random_state=0).fit(scans, age)
        model.predict(new_scans)
    """

    stored_names = (
        "modalities_",
        "n_steps_",
        "loss_curve_",
        "held_out_score_",
        "probe_score_",
        "held_out_predictions_",
        "target_mean_",
        "target_scale_",
        "preprocessing_fingerprint_",
    )

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Adapt the encoder to subjects with a number each.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `BrainFoundEmbedder`.
        y : array-like of shape (n_subjects,)
            Numbers.
        groups : array-like of shape (n_subjects,), optional
            Person of each row, for the folds; by default as for `BrainFoundClassifier`.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        ConfigError
            If a parameter has an impossible value.
        InputError
            If ``X`` has another form, or ``y`` has missing values or another length, or
            holds no numbers.
        ModalityError
            If a modality is unknown to the checkpoint, or missing where it may not.
        TrainingError
            If the training diverges.
        VolumeError
            If an image cannot be read.
        """
        checkpoint, table, plan = self._read(X)
        n_rows = len(table.rows)
        mean, scale, targets = read_numbers(y, n_rows)
        people = read_groups(groups, subject_groups(X, table.rows))
        fitted = self._fit(checkpoint, table, plan, targets, people)
        self.target_mean_, self.target_scale_ = mean, scale
        self.held_out_score_ = self.probe_score_ = float("nan")
        self.held_out_predictions_ = np.full(n_rows, np.nan)
        if fitted.held_out is not None:
            found, probed = fitted.held_out.unbiased, fitted.held_out.scores[0]
            self.held_out_predictions_ = self.to_numbers(found)
            self.held_out_score_ = float(r2_score(targets.values, found[:, 0]))
            self.probe_score_ = float(r2_score(targets.values, probed[:, 0]))
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predict the number of each subject.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        ndarray of float of shape (n_subjects,)
            In the units of ``y``.
        """
        return self.to_numbers(np.stack([one.scores for one in self._predict(X)]))

    def to_numbers(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn the scores of the head into numbers.

        Parameters
        ----------
        scores : ndarray of shape (n_subjects, 1)
            As in `Prediction`.

        Returns
        -------
        ndarray of shape (n_subjects,)
            In the units of ``y``.
        """
        return np.asarray(self.target_mean_ + self.target_scale_ * scores[:, 0])
