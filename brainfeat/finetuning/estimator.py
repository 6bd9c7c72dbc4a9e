"""What the fine-tuned classifier and regressor share."""

__all__ = ["FineTunedEncoder"]

import os
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from brainfeat.checkpoint import sharing
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.display.documented import Documented
from brainfeat.exceptions import ConfigError
from brainfeat.finetuning.adapters import merge_updates
from brainfeat.finetuning.fitting import (
    Fitted,
    encode_subjects,
    finetune,
    pool_features,
)
from brainfeat.finetuning.folder import read_folder, write_folder
from brainfeat.finetuning.head import TaskHead
from brainfeat.finetuning.network import FrozenTrunk
from brainfeat.finetuning.plan import FinetuningPlan
from brainfeat.finetuning.prediction import Prediction, Predictor
from brainfeat.finetuning.reading import SubjectReader
from brainfeat.finetuning.targets import Targets
from brainfeat.finetuning.training import TrainingData
from brainfeat.io.paths import expand_home
from brainfeat.models.device import resolve_device
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.preprocessing.interface import known_fingerprint
from brainfeat.progress import track
from brainfeat.subjects.doubts import report_doubts
from brainfeat.subjects.table import (
    SubjectTable,
    check_fitted_modalities,
    read_subjects,
    tag_images,
)


class FineTunedEncoder(Documented, TransformerMixin, BaseEstimator):
    """An encoder that is adapted to a label, after a linear probe of it."""

    # Fitted attributes that a folder holds as JSON.
    stored_names: ClassVar[tuple[str, ...]]

    modalities_: tuple[str, ...]
    checkpoint_fingerprint_: str
    preprocessing_fingerprint_: str | None
    updates_: dict[str, Tensor]
    head_: TaskHead
    n_steps_: int
    held_out_score_: float
    probe_score_: float
    loss_curve_: list[float]

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
        modality: str | None = None,
        preprocessor: Any = None,
        device: Any = "auto",
        random_state: Any = None,
        n_jobs: int | None = 1,
        verbose: int = 0,
    ) -> None:
        self.checkpoint = checkpoint
        self.adapt = adapt
        self.rank = rank
        self.n_blocks = n_blocks
        self.pooling = pooling
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_views = n_views
        self.n_folds = n_folds
        self.modality = modality
        self.preprocessor = preprocessor
        self.device = device
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embed each subject by the adapted encoder, as its head pools it.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        ndarray of float32 of shape (n_subjects, n_features)
            The mean token over the brain, or that of the attention.
        """
        return np.stack([one.embedding for one in self._predict(X)])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : object
            Ignored.

        Returns
        -------
        ndarray of str of shape (n_features,)
            ``emb_000`` and so on.
        """
        check_is_fitted(self)
        names = [f"emb_{index:03d}" for index in range(self.head_.weight.shape[1])]
        return np.array(names, dtype=object)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the trained weights and the head; the encoder's own are only named.

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
        return write_folder(expand_home(folder), self)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a model that was saved.

        Parameters
        ----------
        folder : path-like
            What `save` wrote.

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        CheckpointError
            If the folder holds no such model, a damaged one, or the encoder that it
            names has other weights.
        """
        content = read_folder(expand_home(folder), cls.__name__)
        estimator = cls(**content.parameters)
        for name, value in content.fitted.items():
            setattr(estimator, name, value)
        estimator.base_checkpoint()
        return estimator

    def base_checkpoint(self) -> Checkpoint:
        """Load the checkpoint that was adapted.

        Returns
        -------
        Checkpoint
            With the weights of `fit`.

        Raises
        ------
        CheckpointError
            If its weights have changed.
        """
        check_is_fitted(self)
        checkpoint = sharing.shared_checkpoint(self.checkpoint)
        fitted = self.checkpoint_fingerprint_
        sharing.check_fingerprint(self.checkpoint, fitted, checkpoint.fingerprint)
        return checkpoint

    def build_predictor(self) -> Predictor:
        """Load the adapted encoder with its head.

        Returns
        -------
        Predictor
            For streams of subjects.

        Raises
        ------
        CheckpointError
            If the weights of the checkpoint have changed since `fit`.
        ConfigError
            If the preprocessing has.
        """
        base = self.base_checkpoint()
        state = merge_updates(base.state, self.updates_)
        reader = SubjectReader(base, self.preprocessor)
        if known_fingerprint(reader.preprocessor) != self.preprocessing_fingerprint_:
            raise ConfigError("preprocessor: changed since fit; fit again.")
        adapted = Checkpoint(base.config, state) if self.updates_ else base
        return Predictor(adapted, reader, self.head_, resolve_device(self.device))

    def __sklearn_tags__(self) -> Tags:
        tags = tag_images(super().__sklearn_tags__())
        tags.target_tags.required = True
        # Always float32, whatever the images hold.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _read(self, X: Any) -> tuple[Checkpoint, SubjectTable, FinetuningPlan]:
        """Check the parameters, then ``X``."""
        checkpoint = sharing.shared_checkpoint(self.checkpoint)
        plan = FinetuningPlan.from_parameters(
            self.get_params(deep=False), checkpoint.config.encoder
        )
        resolve_n_jobs(self.n_jobs)
        return checkpoint, read_subjects(X, checkpoint, self.modality), plan

    def _fit(
        self,
        checkpoint: Checkpoint,
        table: SubjectTable,
        plan: FinetuningPlan,
        targets: Targets,
        groups: NDArray[np.intp],
    ) -> Fitted:
        """Preprocess subjects, train, and set what prediction needs."""
        device = resolve_device(self.device)
        reader = SubjectReader(checkpoint, self.preprocessor)
        encoder = checkpoint.build_encoder().requires_grad_(False).to(device)
        trunk = FrozenTrunk(encoder, plan.first_block(encoder.config.depth), device)
        views = encode_subjects(
            table.rows,
            reader,
            trunk,
            n_views=plan.n_views,
            seed=plan.seed,
            n_jobs=resolve_n_jobs(self.n_jobs),
            verbose=self.verbose,
        )
        features = pool_features(encoder, views, trunk)
        data = TrainingData(views, targets, groups, features)
        fitted = finetune(encoder, data, plan, device, verbose=self.verbose)
        self.modalities_ = table.modalities
        self.checkpoint_fingerprint_ = checkpoint.fingerprint
        self.preprocessing_fingerprint_ = known_fingerprint(reader.preprocessor)
        self.updates_, self.head_ = fitted.updates, fitted.head
        self.n_steps_, self.loss_curve_ = fitted.n_steps, fitted.loss_curve
        return fitted

    def _predict(self, X: Any) -> list[Prediction]:
        """Predict all subjects, or raise the first error."""
        check_is_fitted(self)
        predictor = self.build_predictor()
        table = read_subjects(X, predictor.reader.checkpoint, self.modality)
        check_fitted_modalities(self, self.modalities_, table.modalities)
        n = len(table.rows)
        stream = predictor.stream(table.rows, n_jobs=resolve_n_jobs(self.n_jobs))
        with closing(stream):
            shown = track(
                report_doubts(stream),
                total=n,
                description="predicting",
                show=self.verbose > 0,
            )
            return [outcome.unwrap() for outcome in shown]
