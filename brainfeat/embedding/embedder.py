"""Brain MRI to features: a transformer for scikit-learn pipelines."""

import os
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Literal, Self

import numpy as np
from nibabel import Nifti1Image
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from brainfeat.checkpoint.sharing import check_fingerprint
from brainfeat.display.documented import Documented
from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.clusters import active_workers
from brainfeat.embedding.dense import DenseSpace, check_dense_options, to_dense_images
from brainfeat.embedding.distribution import Distribution
from brainfeat.embedding.encoder_spec import EncoderSpec
from brainfeat.embedding.stream import Embedding
from brainfeat.embedding.subject_encoder import Pooling, SubjectEncoder
from brainfeat.embedding.tokens import stream_tokens
from brainfeat.exceptions import ConfigError
from brainfeat.models.threads import resolve_n_jobs
from brainfeat.preprocessing.interface import SubjectPreprocessing, known_fingerprint
from brainfeat.progress import track
from brainfeat.subjects.doubts import Assessed, report_doubts
from brainfeat.subjects.failures import describe_failures, release_frames
from brainfeat.subjects.subject import Outcome
from brainfeat.subjects.table import (
    SubjectTable,
    check_fitted_modalities,
    check_modality,
    read_subjects,
    tag_images,
)

__all__ = ["BrainFoundEmbedder"]


class BrainFoundEmbedder(Documented, TransformerMixin, BaseEstimator):
    """Embed each subject's brain MRI as one vector.

    Images are preprocessed as the checkpoint was trained, cut into slabs of
    neighbouring slices of all modalities, encoded, and pooled over the brain.
    Nothing is learnt from ``X``: a row depends on its own subject only.

    Parameters
    ----------
    checkpoint : str or path-like
        Name of the bundled checkpoint or of a known encoder (``brainfeat info`` lists
        them), a checkpoint folder, weights of others, or
        ``"hf-hub:org/name[:path][@revision]"``, as for `Checkpoint.load`.
    pooling : {"mean", "cls", "cls+mean", "anatomy", "anatomy_ml", "regions", "default"}
        ``"mean"`` averages the patch tokens over the brain, ``"cls"`` the class tokens
        of the slabs (which ``"brainfound-tiny"`` taught its mean), ``"cls+mean"``
        concatenates both. ``"anatomy"`` sums named quantities that the encoder was
        trained to predict from each patch token, such as ``emb_ventricle``, the
        ventricles' fraction of the volume within the skull; ``"anatomy_ml"`` gives them
        in ml. ``"regions"`` averages the patch tokens over
        each region of ``labels_img``. ``"default"`` is what the authors of a known
        encoder use: the class token, the mean over all tokens that are encoded, or, for
        BrainIAC, the token of the patch in one corner, which its authors call CLS.
    labels_img : path-like, nibabel image or mapping, optional
        Label image in MNI152 space, for ``pooling="regions"``, or a mapping like
        nilearn's atlases, with ``maps``, a label image, and ``lut``, a table with the
        columns ``index`` and ``name``. Without a table, names of regions are read from
        the BIDS table beside the image: ``atlas_dseg.tsv`` for ``atlas_dseg.nii.gz``.
    modality : str, optional
        Modality of images without one, such as paths. By default the name of a Series,
        else that in each file's name, else the checkpoint's first with a warning.
    preprocessor : Preprocessor or InputRecipe, optional
        Replaces the checkpoint's preprocessing, which for a known encoder is the recipe
        of its authors: ``input_recipe("brainiac").prepared`` is for images that were
        aligned and stripped as they did.
    batch_size : "auto" or int
        Subjects per batch. Changes speed only.
    device : "auto", str or torch.device
        Where the encoder runs; ``"auto"`` is CUDA if available. Changes speed only.
    dtype : {"auto", "float32", "bfloat16"}
        Precision of the encoder's products; ``"auto"`` is bfloat16 where the processor
        multiplies it natively. Its rounding can look like a difference between sites:
        set the dtype if a study uses several kinds of machines.
        Workers of a cluster use the dtype of this process.
    n_jobs : int
        Threads that read and preprocess ahead of the encoder, as in joblib: -1 is
        one per core. Changes speed only. Inside ``joblib.parallel_config("dask")`` or
        ``"ray"``, the cluster's workers embed, and each loads the encoder once.
    memory : None, path-like or joblib.Memory
        Folder that caches the embedding of each subject, so that cross-validation
        encodes it once. A changed image, checkpoint or option is encoded again.
    on_error : {"raise", "nan"}
        What `transform` does with an image that is absent or cannot be embedded:
        raise its error, or give a row of NaN and one warning for all.
    verbose : int
        Above 0, progress is shown: a bar on a terminal or in a notebook, else lines.

    Attributes
    ----------
    modalities_ : tuple of str
        Modalities of the ``X`` of `fit`; `transform` accepts no others.
    checkpoint_fingerprint_ : str
        SHA-256 of weights and configuration; `transform` accepts no others.
    preprocessing_fingerprint_ : str or None
        SHA-256 of the preprocessing; None if its brain mask is a function that
        cannot be imported by name.
    region_names_ : tuple of str
        Regions in the order of their features; empty for other poolings.
    n_features_out_ : int
        Length of an embedding.

    Examples
    --------
    A linear classifier on embeddings, with folds that keep subjects together::

        model = make_pipeline(
            BrainFoundEmbedder(memory="cache"), StandardScaler(), LogisticRegression()
        )
        cross_val_score(model, paths, diagnosis, groups=subjects, cv=GroupKFold())
    """

    def __init__(  # noqa: PLR0913  an estimator's options are one flat list
        self,
        checkpoint: str | os.PathLike[str] = "brainfound-tiny",
        *,
        pooling: Pooling = "mean",
        labels_img: Any = None,
        modality: str | None = None,
        preprocessor: SubjectPreprocessing | None = None,
        batch_size: int | Literal["auto"] = "auto",
        device: Any = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        n_jobs: int | None = 1,
        memory: Any = None,
        on_error: Literal["raise", "nan"] = "raise",
        verbose: int = 0,
    ) -> None:
        self.checkpoint = checkpoint
        self.pooling = pooling
        self.labels_img = labels_img
        self.modality = modality
        self.preprocessor = preprocessor
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.memory = memory
        self.on_error = on_error
        self.verbose = verbose

    def fit(self, X: Any = None, y: object = None) -> Self:
        """Load the checkpoint and check the parameters and the form of ``X``.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image, optional
            Paths (with ``~``), globs or images; dicts ``{modality: image}``, one per
            subject; a DataFrame with a column per modality; or one 4D image, whose
            volumes are the subjects. None, NaN or ``""`` is a missing modality.
            Without ``X``, `transform` accepts all modalities of the checkpoint.
        y : object
            Ignored.

        Returns
        -------
        self
            Ready to transform.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it is damaged.
        ConfigError
            If a parameter has an impossible value, or ``memory`` cannot be used with
            the brain mask of ``preprocessor``.
        InputError
            If ``X`` has another form.
        ModalityError
            If a modality is unknown to the checkpoint, or missing where it may not.
        VolumeNotFoundError
            If a path does not exist.
        """
        if self.on_error not in {"raise", "nan"}:
            raise ConfigError(
                f"on_error: expected 'raise' or 'nan', got {self.on_error!r}."
            )
        encoder = self._spec().build()
        resolve_n_jobs(self.n_jobs)
        if EmbeddingCache.from_memory(self.memory) is not None:
            encoder.preprocessor.to_dict()  # raises if cached rows cannot be named
        check_modality(self.modality, encoder.modalities)
        self.modalities_ = encoder.modalities
        if X is not None:
            usable = self.on_error == "raise"
            table = read_subjects(X, encoder.checkpoint, self.modality, usable=usable)
            self.modalities_ = table.modalities
        self.checkpoint_fingerprint_ = encoder.checkpoint.fingerprint
        self.preprocessing_fingerprint_ = known_fingerprint(encoder.preprocessor)
        self.region_names_ = encoder.region_names
        self._pooling = encoder.pooling
        self._atlas = encoder.atlas_fingerprint
        self.n_features_out_ = encoder.n_features
        self._feature_names = encoder.feature_names
        self._fitted_on = X  # for a report; not pickled
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embed each subject.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        ndarray of float32 of shape (n_subjects, n_features_out_)
            One row per subject, in the order of ``X``; a DataFrame with its index
            after ``set_output(transform="pandas")``.

        Raises
        ------
        CheckpointError, ConfigError
            If checkpoint, preprocessing, pooling or atlas changed since `fit`.
        InputError, ModalityError
            If ``X`` has another form, or a modality that `fit` did not see.
        VolumeError
            If a volume cannot be read, unless ``on_error="nan"``; subjects before it
            are in ``memory``.
        """
        encoder, table = self._load(X, usable=self.on_error == "raise")
        outcomes = self._stream(encoder, table)
        failures: list[Outcome[Embedding]] = []
        rows = np.empty((len(table.rows), encoder.n_features), dtype=np.float32)
        # Workers finish in any order.
        positions = {id(subject): index for index, subject in enumerate(table.rows)}
        # Closed at the first error, so that no thread continues reading.
        with closing(outcomes):
            for outcome in self._track(outcomes, len(rows)):
                row = rows[positions[id(outcome.subject)]]
                if outcome.error is not None and self.on_error == "nan":
                    release_frames(outcome.error)
                    failures.append(outcome)
                    row[:] = np.nan
                else:
                    row[:] = outcome.unwrap().vector
        if failures:
            message = f"{len(failures)} of {len(rows)} rows are NaN: "
            warnings.warn(message + describe_failures(failures), stacklevel=2)
        return rows

    def transform_dense(
        self, X: Any, *, space: DenseSpace = "native", n_components: int | None = None
    ) -> list[Nifti1Image]:
        """Return the patch tokens of each subject as a 4D image.

        A voxel of the image is a token, in the centre of the block of voxels that the
        encoder saw, aligned as the subject was. Nothing is interpolated;
        `nilearn.image.resample_to_img` resamples the image to another grid.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.
        space : {"native", "template"}
            Whether the affine maps to scanner mm of the subject, or to MNI152 mm,
            where all subjects share one grid, unless the recipe of the encoder has
            one for each subject.
        n_components : int, optional
            Return so many principal components of the tokens of all brains of ``X``,
            with 0 outside the brain; three make an RGB image.

        Returns
        -------
        list of Nifti1Image
            One per subject, float32 of shape (size_i, size_j, size_k, n), where n is
            the length of a token, or ``n_components``.

        Raises
        ------
        CheckpointError, ConfigError, InputError, ModalityError, VolumeError
            As for `transform`; ConfigError also if an option has an impossible value.
        """
        encoder, table = self.read_subjects(X)
        dim = encoder.checkpoint.config.encoder.embed_dim
        check_dense_options(space, n_components, dim)
        n_jobs = resolve_n_jobs(self.n_jobs)
        outcomes = stream_tokens(encoder, table.rows, n_jobs=n_jobs)
        with closing(outcomes):
            shown = self._track(outcomes, len(table.rows))
            subjects = [outcome.unwrap().without_voxels() for outcome in shown]
        return to_dense_images(subjects, space=space, n_components=n_components)

    def read_subjects(self, X: Any) -> tuple[SubjectEncoder, SubjectTable]:
        """Return the encoder and the subjects of `transform`, for further analyses.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `fit`.

        Returns
        -------
        encoder : SubjectEncoder
            The fitted checkpoint with its preprocessing.
        table : SubjectTable
            One row per subject; no image is read yet.

        Raises
        ------
        CheckpointError, ConfigError, InputError, ModalityError
            As for `transform`.
        """
        return self._load(X, usable=True)

    def _load(self, X: Any, *, usable: bool) -> tuple[SubjectEncoder, SubjectTable]:
        check_is_fitted(self)
        encoder = self._spec().build()
        self._check_unchanged(encoder)
        table = read_subjects(X, encoder.checkpoint, self.modality, usable=usable)
        check_fitted_modalities(self, self.modalities_, table.modalities)
        return encoder, table

    @property
    def fitted_on(self) -> Any:
        """The ``X`` of `fit`; None without one, or after unpickling."""
        return getattr(self, "_fitted_on", None)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_fitted_on"}

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : object
            Ignored.

        Returns
        -------
        ndarray of str of shape (n_features_out_,)
            ``emb_000`` and so on, after the name of the region for regions;
            ``emb_ventricle`` and such for anatomy.
        """
        check_is_fitted(self)
        return np.array(self._feature_names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = tag_images(super().__sklearn_tags__())
        # Always float32, whatever the images hold.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _spec(self) -> EncoderSpec:
        return EncoderSpec(
            checkpoint=self.checkpoint,
            preprocessor=self.preprocessor,
            pooling=self.pooling,
            labels_img=self.labels_img,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
        )

    def _stream(
        self, encoder: SubjectEncoder, table: SubjectTable
    ) -> Generator[Outcome[Embedding]]:
        cache = EmbeddingCache.from_memory(self.memory)
        n_jobs = resolve_n_jobs(self.n_jobs)
        workers = active_workers()
        if workers is None:
            return encoder.stream(table.rows, n_jobs=n_jobs, cache=cache)
        spec = self._spec().for_workers(encoder)
        distribution = Distribution(workers, spec, encoder.device.type)
        return distribution.stream(table.rows, cache=cache)

    def _track(
        self, outcomes: Iterable[Outcome[Assessed]], total: int
    ) -> Iterator[Outcome[Assessed]]:
        items, show = report_doubts(outcomes), self.verbose > 0
        return track(items, total=total, description="embedding", show=show)

    def _check_unchanged(self, encoder: SubjectEncoder) -> None:
        fingerprint = encoder.checkpoint.fingerprint
        check_fingerprint(self.checkpoint, self.checkpoint_fingerprint_, fingerprint)
        if known_fingerprint(encoder.preprocessor) != self.preprocessing_fingerprint_:
            raise ConfigError("preprocessor: changed since fit; fit again.")
        if encoder.pooling != self._pooling:
            raise ConfigError(
                f"pooling: expected {self._pooling!r} as in fit, got "
                f"{encoder.pooling!r}; fit again."
            )
        regions = encoder.region_names, encoder.atlas_fingerprint
        if regions != (self.region_names_, self._atlas):
            raise ConfigError("labels_img: its regions changed since fit; fit again.")
