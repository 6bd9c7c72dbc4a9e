"""From subjects to embeddings: a stream in constant memory."""

import logging
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.embedding.cache import EmbeddingCache, embedding_key
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.exceptions import ConfigError, GeometryError, VolumeError
from brainfeat.io.hashing import hash_images, known_hash
from brainfeat.io.image_files import ImageSource
from brainfeat.io.volumes import MEMORY_LIMIT
from brainfeat.models.device import (
    is_out_of_memory,
    resolve_batch_size,
    resolve_device,
    resolve_dtype,
)
from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.pooling import pool_regions, pool_tissues, pool_tokens
from brainfeat.models.threads import map_in_threads
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.failures import add_context
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import check_subject
from brainfeat.volume import Geometry
from brainfeat.workers import Prefetch

__all__ = ["NOT_FINITE", "Outcome", "Pooling", "SubjectEncoder"]

Pooling = Literal["mean", "cls", "cls+mean", "anatomy", "regions"]

NOT_FINITE = "the encoder gives values that are not finite."

_LOGGER = logging.getLogger(__name__)

# Outcomes that may wait for a batch to fill.
_LONGEST_QUEUE = 256


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one subject: an embedding or an error.

    Parameters
    ----------
    index : int
        Place of the subject in the stream.
    vector : ndarray of float32 of shape (n_features,) or None
        The embedding.
    error : Exception or None
        Why there is none.
    """

    index: int
    vector: NDArray[np.float32] | None
    error: Exception | None


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A subject as the encoder takes it."""

    index: int
    subject: Subject
    key: str | None
    slabs: NDArray[np.float32]  # S C H W
    present: NDArray[np.bool_]  # M
    fractions: NDArray[np.float32]  # S h w


class SubjectEncoder:
    """A checkpoint with all that turns a subject's images into one vector.

    Parameters
    ----------
    checkpoint : Checkpoint
        Weights and their configuration.
    preprocessor : Preprocessor, optional
        Replaces the checkpoint's own.
    pooling : {"mean", "cls", "cls+mean", "anatomy", "regions"}
        How tokens become one vector.
    labels_img : path-like, nibabel image, mapping or RegionAtlas, optional
        Atlas in MNI152 space for ``pooling="regions"``.
    batch_size, device, dtype : "auto" or a value
        As for `BrainFoundEmbedder`; they change speed, not results beyond rounding.
    memory_limit : int
        As for `read_volume`.

    Attributes
    ----------
    modalities : tuple of str
        Those of the checkpoint.
    grid : SlabGrid
        How the grid is cut into slabs.
    token_grid : tuple of int (n_slabs, height, width)
        Patch tokens of a subject.
    device : torch.device
        Where the encoder runs.
    atlas : RegionAtlas or None
        Regions that are pooled, if any are.

    Raises
    ------
    ConfigError
        If a parameter has an impossible value, regions are asked for without atlas or
        without alignment to the template, or anatomy of an encoder that reads none.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        preprocessor: Preprocessor | None = None,
        pooling: Pooling = "mean",
        labels_img: Any = None,
        batch_size: Any = "auto",
        device: Any = "auto",
        dtype: Any = "auto",
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        config = checkpoint.config
        self.checkpoint = checkpoint
        self.modalities = config.encoder.modalities
        self.preprocessor = _resolve_preprocessor(preprocessor, checkpoint)
        if pooling not in get_args(Pooling):
            raise ConfigError(
                f"pooling: expected one of {get_args(Pooling)}, got {pooling!r}."
            )
        if pooling == "anatomy" and not config.encoder.tissues:
            raise ConfigError(
                "pooling='anatomy': expected a checkpoint that learnt to read anatomy, "
                "got one that names no tissues."
            )
        self.pooling = pooling
        self.grid = SlabGrid(thickness=config.encoder.thickness, plane=config.plane)
        self.token_grid = self._find_token_grid()
        n_slabs, height, width = self.token_grid
        self.device = resolve_device(device)
        self._dtype = resolve_dtype(dtype, self.device)
        n_tokens = n_slabs * (1 + height * width)
        self._batch_size = resolve_batch_size(batch_size, self.device, n_tokens)
        self.atlas = None if pooling != "regions" else RegionAtlas.load(labels_img)
        self._weights = self._weigh_regions()
        self._memory_limit = memory_limit
        self._retreating = Lock()

    @property
    def region_names(self) -> tuple[str, ...]:
        """Regions in the order of their features; none without an atlas."""
        return self.atlas.names if self.atlas else ()

    @property
    def precision(self) -> str:
        """Precision of the products: ``"float32"`` or ``"bfloat16"``."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def n_features(self) -> int:
        """Length of an embedding."""
        encoder = self.checkpoint.config.encoder
        if self.pooling == "anatomy":
            return len(encoder.tissues)
        parts = {"cls+mean": 2, "regions": len(self.region_names)}
        return encoder.embed_dim * parts.get(self.pooling, 1)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each number of an embedding."""
        encoder = self.checkpoint.config.encoder
        if self.pooling == "anatomy":
            return tuple(f"emb_{name}" for name in encoder.tissues)
        prefixes = [f"{name}_" for name in self.region_names] or [""]
        n_each = self.n_features // len(prefixes)
        return tuple(f"{p}emb_{index:03d}" for p in prefixes for index in range(n_each))

    def stream(
        self,
        subjects: Iterable[Subject],
        *,
        n_jobs: int = 1,
        cache: EmbeddingCache | None = None,
    ) -> Generator[Outcome]:
        """Embed subjects one after the other.

        ``n_jobs`` threads read and preprocess a few subjects ahead of the encoder,
        so that memory does not grow with their number. On a CPU several threads
        encode, each a batch by itself. A subject that fails is an outcome as well, and
        does not stop the others.

        Parameters
        ----------
        subjects : iterable of Subject
            Read as they are needed.
        n_jobs : int
            Number of threads that read and preprocess.
        cache : EmbeddingCache, optional
            Where embeddings are looked up first and kept.

        Yields
        ------
        Outcome
            One a subject, in order.
        """
        with (
            Prefetch(
                lambda place: self._prepare(*place, cache),
                enumerate(subjects),
                n_threads=n_jobs,
                n_ahead=n_jobs + self._batch_size,
            ) as prepared,
            map_in_threads(
                lambda items: [*self._finish(items, cache)],
                self._batches(prepared),
                device=self.device,
                readers=prepared,
            ) as encoded,
        ):
            for outcomes in encoded:
                yield from outcomes

    def preprocess(self, subject: Subject) -> tuple[PreprocessedSubject, Geometry]:
        """Read a subject's images and take them to the encoder's grid.

        Parameters
        ----------
        subject : Subject
            Images by modality.

        Returns
        -------
        processed : PreprocessedSubject
            All modalities on the grid.
        native : Geometry
            Grid of the first image that is there.
        """
        volumes, processed = read_and_preprocess(
            subject,
            self.preprocessor,
            self.modalities,
            memory_limit=self._memory_limit,
        )
        return processed, next(iter(volumes.values())).geometry

    def fractions(self, foreground: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Compute the share of each patch that is foreground.

        Parameters
        ----------
        foreground : ndarray of bool of shape (size_i, size_j, size_k)
            Of a preprocessed subject.

        Returns
        -------
        ndarray of float32 of shape (S, h, w)
            From 0 to 1; 0 where it is too little for the encoder.
        """
        config = self.checkpoint.config.encoder
        fractions = self.grid.token_fractions(foreground, config.patch_size)
        return config.count_foreground(fractions)

    def hash_inputs(self, images: Mapping[str, str]) -> str:
        """Fingerprint the files that an embedding is made from.

        Parameters
        ----------
        images : mapping of str to str
            Path of the image of each modality.

        Returns
        -------
        str
            As of `hash_images`, with the brain mask where that is a file of its own.

        Raises
        ------
        VolumeError
            If a file is missing or cannot be read.
        """
        return hash_images(self.preprocessor.input_files(images, self.modalities))

    @torch.inference_mode()
    def forward(
        self, slabs: Tensor, present: Tensor, fractions: Tensor
    ) -> EncoderOutput:
        """Run the encoder, without gradients.

        Parameters
        ----------
        slabs : Tensor of shape (B, S, C, H, W)
            Preprocessed subjects.
        present : bool Tensor of shape (B, M)
            Which modalities each has.
        fractions : Tensor of shape (B, S, h, w)
            Share of each patch that is foreground.

        Returns
        -------
        EncoderOutput
            Their tokens.
        """
        # Weights and tokens are all of one precision: autocast would convert each of
        # them at each product.
        encoder = shared_encoder(self.checkpoint, self.device, self._dtype)
        output: EncoderOutput = encoder(
            slabs.to(self.device, self._dtype),
            present=present.to(self.device),
            foreground=fractions.to(self.device) > 0,
        )
        return output

    @torch.inference_mode()
    def pool(self, output: EncoderOutput, fractions: Tensor) -> Tensor:
        """Pool tokens as the embeddings are pooled.

        Parameters
        ----------
        output : EncoderOutput
            Tokens of B subjects.
        fractions : Tensor of shape (B, S, h, w)
            Share of each patch that is foreground.

        Returns
        -------
        Tensor of shape (B, n_features)
            Embeddings.
        """
        if self.pooling == "anatomy":
            state = self.checkpoint.state
            weight, bias = state["anatomy.weight"], state["anatomy.bias"]
            return pool_tissues(output, fractions, weight, bias)
        if self.pooling != "regions":
            return pool_tokens(output, fractions, self.pooling)
        return pool_regions(output, self._weights, fractions > 0)

    def pool_weights(self, fractions: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weigh patch tokens so that their sums are the embedding.

        Parameters
        ----------
        fractions : ndarray of shape (S, h, w)
            Share of each patch that is foreground.

        Returns
        -------
        ndarray of shape (n_sums, S, h, w)
            One set of weights for the mean, and one a region for regions.

        Raises
        ------
        ConfigError
            If class tokens are pooled, which have no place, or anatomy, which is not
            made of tokens.
        """
        if self.pooling == "mean":
            weights = fractions[None].astype(np.float64)
        elif self.pooling == "regions":
            weights = self._weights.cpu().numpy() * (fractions > 0).astype(np.float64)
        else:
            raise ConfigError(
                "expected an embedder that pools patch tokens, by 'mean' or "
                f"'regions', got pooling={self.pooling!r}: only these have a place."
            )
        totals = weights.sum(axis=(1, 2, 3), keepdims=True)
        return np.asarray(weights / np.where(totals > 0, totals, 1.0))

    def _prepare(
        self, index: int, subject: Subject, cache: EmbeddingCache | None
    ) -> _Prepared | Outcome:
        try:
            check_subject(
                subject,
                modalities=self.modalities,
                allow_missing=self.checkpoint.config.missing_modalities,
            )
            key = self._key(subject) if cache else None
            vector = cache.load(key, self.n_features) if cache and key else None
            if vector is not None:
                return Outcome(index, vector, None)
            return self._preprocess(index, subject, key)
        except Exception as error:  # whatever a damaged file makes a library raise
            return Outcome(index, None, add_context(error, subject))

    def _preprocess(self, index: int, subject: Subject, key: str | None) -> _Prepared:
        processed, _ = self.preprocess(subject)
        return _Prepared(
            index,
            subject,
            key,
            self.grid.extract(processed.data),
            processed.present,
            self.fractions(processed.foreground),
        )

    def _batches(
        self, items: Iterable[_Prepared | Outcome]
    ) -> Iterator[list[_Prepared | Outcome]]:
        """Part a stream where a batch is full, or none has begun."""
        waiting: list[_Prepared | Outcome] = []
        n_prepared = 0
        for item in items:
            waiting.append(item)
            n_prepared += isinstance(item, _Prepared)
            is_long = len(waiting) >= _LONGEST_QUEUE
            # More than a batch, where batches have become smaller meanwhile.
            if not 0 < n_prepared < self._batch_size or is_long:
                yield waiting
                waiting, n_prepared = [], 0
        if waiting:
            yield waiting

    def _finish(
        self, items: Sequence[_Prepared | Outcome], cache: EmbeddingCache | None
    ) -> Iterator[Outcome]:
        prepared = [item for item in items if isinstance(item, _Prepared)]
        failed: Exception | None = None
        vectors: Iterator[NDArray[np.float32]] = iter(())
        try:
            vectors = iter(self._encode_in_memory(prepared))
        except Exception as raised:  # of a device that fails, or is too small for one
            failed = raised
        for item in items:
            if isinstance(item, Outcome):
                yield item
                continue
            if failed is not None:
                yield Outcome(item.index, None, add_context(failed, item.subject))
                continue
            vector = next(vectors)
            if not np.isfinite(vector).all():
                error = VolumeError(self._why_not_finite(item.fractions))
                yield Outcome(item.index, None, add_context(error, item.subject))
                continue
            if cache and item.key:
                cache.store(item.key, vector)
            yield Outcome(item.index, vector, None)

    def _why_not_finite(self, fractions: NDArray[np.float32]) -> str:
        if self.atlas:
            counted = self._weights.cpu().numpy()[:, fractions > 0]  # R, patches
            totals = counted.sum(axis=1)
            empty = [n for n, t in zip(self.region_names, totals, strict=True) if not t]
            if empty:
                return (
                    "expected some of the brain in each region of labels_img, got none "
                    f"in {', '.join(empty)}."
                )
        return NOT_FINITE

    def _encode_in_memory(self, items: Sequence[_Prepared]) -> NDArray[np.float32]:
        """Encode with smaller batches, and then on the CPU, if memory is short."""
        while True:
            size = self._batch_size
            batches = [items[i : i + size] for i in range(0, len(items), size)]
            try:
                return np.concatenate(
                    [self._encode(batch) for batch in batches or [()]]
                )
            except Exception as error:
                can_retreat = size > 1 or self.device.type != "cpu"
                if not is_out_of_memory(error) or not can_retreat:
                    raise
            # Not above: the error would keep its tensors.
            with self._retreating:
                # Threads that run short together retreat once.
                if self._batch_size == size:
                    self._retreat()

    def _retreat(self) -> None:
        if self._batch_size > 1:
            self._batch_size //= 2
            what = f"batches of {self._batch_size}"
        else:
            self.device = torch.device("cpu")
            self._dtype = resolve_dtype("auto", self.device)
            self._weights = self._weigh_regions()
            what = "the CPU"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _LOGGER.warning("out of memory: going on with %s", what)

    def _encode(self, items: Sequence[_Prepared]) -> NDArray[np.float32]:
        """Return embeddings of shape (n_items, n_features)."""
        if not items:
            return np.empty((0, self.n_features), dtype=np.float32)
        # Filled up to one batch shape: kernels that depend on the shape would let
        # a row depend on how many others are with it.
        rows = [*items, *[items[-1]] * (self._batch_size - len(items))]
        slabs = self._to_device([row.slabs for row in rows])  # B S C H W
        present = self._to_device([row.present for row in rows])  # B M
        fractions = self._to_device([row.fractions for row in rows])  # B S h w
        output = self.forward(slabs, present, fractions)
        vectors = self.pool(output, fractions)
        return vectors[: len(items)].cpu().numpy()

    def _to_device(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        batch = torch.from_numpy(np.stack(arrays))
        if self.device.type == "cuda":
            # Copied from locked memory while the processor goes on.
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)

    def _find_token_grid(self) -> tuple[int, ...]:
        try:
            return self.fractions(np.zeros(self.preprocessor.shape, np.bool_)).shape
        except GeometryError as error:
            raise ConfigError(
                f"preprocessor: its shape {self.preprocessor.shape} does not fit the "
                f"encoder ({error})"
            ) from error

    def _key(self, subject: Subject) -> str:
        hashes = {
            name: known_hash(source)
            for name in self.modalities
            if (source := subject.images.get(name)) is not None
        }
        # A mask that is a file changes the row as the image does.
        first = subject.images[next(iter(hashes))]
        mask = self.preprocessor.mask_path(_file_of(first))
        return embedding_key(
            {
                "images": hashes,
                "brain_mask": None if mask is None else known_hash(mask),
                "checkpoint": self.checkpoint.fingerprint,
                "preprocessing": self.preprocessor.fingerprint,
                "pooling": self.pooling,
                "atlas": self.atlas.fingerprint if self.atlas else None,
                "dtype": str(self._dtype),
            }
        )

    def _weigh_regions(self) -> Tensor:
        if self.atlas is None:
            return torch.empty(0)
        if self.preprocessor.alignment == "none":
            raise ConfigError(
                "pooling='regions': expected a preprocessor that aligns to the "
                "template, whose space the atlas is in, got alignment='none'."
            )
        patch_size = self.checkpoint.config.encoder.patch_size
        geometry = self.preprocessor.geometry
        weights = self.atlas.weights(geometry, self.grid, patch_size)
        return torch.from_numpy(weights).to(self.device)


def _resolve_preprocessor(
    preprocessor: Preprocessor | None, checkpoint: Checkpoint
) -> Preprocessor:
    if preprocessor is None:
        return Preprocessor.from_dict(checkpoint.config.preprocessing)
    if not isinstance(preprocessor, Preprocessor):
        raise ConfigError(
            "preprocessor: expected None or a Preprocessor, "
            f"got {type(preprocessor).__name__}."
        )
    return preprocessor


def _file_of(source: ImageSource | None) -> str | os.PathLike[str] | None:
    if isinstance(source, SpatialImage):
        name: str | None = source.get_filename()
        return name
    return source
