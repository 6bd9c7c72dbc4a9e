"""A checkpoint with its preprocessing and pooling: images in, one vector out."""

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.embedding.cache import EmbeddingCache, embedding_key
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.embedding.stream import NOTHING_KNOWN, Embedding, stream_embeddings
from brainfeat.exceptions import ConfigError, GeometryError
from brainfeat.io.hashing import known_hash
from brainfeat.io.volumes import MEMORY_LIMIT
from brainfeat.models.device import (
    is_out_of_memory,
    resolve_batch_size,
    resolve_device,
    resolve_dtype,
)
from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.pooling import pool_regions, pool_tissues, pool_tokens
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.subjects.table import check_subject
from brainfeat.volume import Geometry

__all__ = ["NOT_FINITE", "EncoderInput", "Pooling", "SubjectEncoder"]

Pooling = Literal["mean", "cls", "cls+mean", "anatomy", "regions"]

NOT_FINITE = "the encoder gives values that are not finite."

_MASK = "brain_mask"  # beside the modalities

_LOGGER = logging.getLogger(__name__)


class EncoderInput(NamedTuple):
    """A preprocessed subject as the encoder takes it."""

    slabs: NDArray[np.float32]  # S C H W
    present: NDArray[np.bool_]  # M
    fractions: NDArray[np.float32]  # S h w, foreground of each patch


class SubjectEncoder:
    """A checkpoint with all that turns a subject's images into one vector.

    Parameters are those of `BrainFoundEmbedder`; they are checked, and device, dtype
    and batch size chosen, once, here.
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
        if pooling == "anatomy" and not config.slab_encoder.tissues:
            raise ConfigError(
                "pooling='anatomy': expected a checkpoint that learnt to read anatomy, "
                "got one that names no tissues."
            )
        self.pooling = pooling
        self.grid = SlabGrid(
            thickness=config.slab_encoder.thickness, plane=config.plane
        )
        self.token_grid = self._find_token_grid()  # (n_slabs, height, width)
        n_slabs, height, width = self.token_grid
        self.device = resolve_device(device)
        self._dtype = resolve_dtype(dtype, self.device)
        n_tokens = n_slabs * (1 + height * width)
        self.batch_size = resolve_batch_size(batch_size, self.device, n_tokens)
        self.atlas = None if pooling != "regions" else RegionAtlas.load(labels_img)
        self._region_weights = self._weigh_regions()
        self._memory_limit = memory_limit
        self._falling_back = Lock()

    @property
    def region_names(self) -> tuple[str, ...]:
        """Regions in the order of their features; none without an atlas."""
        return self.atlas.names if self.atlas else ()

    @property
    def atlas_fingerprint(self) -> str | None:
        """SHA-256 of the atlas' label image; None without an atlas."""
        return self.atlas.fingerprint if self.atlas else None

    @property
    def precision(self) -> str:
        """Precision of the products: ``"float32"`` or ``"bfloat16"``."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def n_features(self) -> int:
        """Length of an embedding."""
        encoder = self.checkpoint.config.slab_encoder
        if self.pooling == "anatomy":
            return len(encoder.tissues)
        parts = {"cls+mean": 2, "regions": len(self.region_names)}
        return encoder.embed_dim * parts.get(self.pooling, 1)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each number of an embedding."""
        encoder = self.checkpoint.config.slab_encoder
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
        known_sha256: Mapping[str, str | None] = NOTHING_KNOWN,
    ) -> Generator[Outcome[Embedding]]:
        """Embed subjects in order; `stream_embeddings` has the details."""
        return stream_embeddings(
            self, subjects, n_jobs=n_jobs, cache=cache, known_sha256=known_sha256
        )

    def check(self, subject: Subject) -> None:
        """Check that the subject has the modalities that the checkpoint needs."""
        check_subject(
            subject,
            modalities=self.modalities,
            allow_missing=self.checkpoint.config.missing_modalities,
        )

    def hash_inputs(self, subject: Subject) -> dict[str, str]:
        """Hash each image by modality, and the brain mask where it is a file."""
        hashes = {
            name: known_hash(source)
            for name in self.modalities
            if (source := subject.images.get(name)) is not None
        }
        # A mask that is a file changes the row as the image does.
        mask = self.preprocessor.mask_path(subject.paths.get(next(iter(hashes))))
        return hashes if mask is None else {**hashes, _MASK: known_hash(mask)}

    def cache_key(self, hashes: Mapping[str, str]) -> str:
        """Name an embedding by all that it depends on."""
        images = {name: value for name, value in hashes.items() if name != _MASK}
        return embedding_key(
            {
                "images": images,
                _MASK: hashes.get(_MASK),
                "checkpoint": self.checkpoint.fingerprint,
                "preprocessing": self.preprocessor.fingerprint,
                "pooling": self.pooling,
                "atlas": self.atlas_fingerprint,
                "dtype": str(self._dtype),
            }
        )

    def preprocess(self, subject: Subject) -> tuple[PreprocessedSubject, Geometry]:
        """Take a subject to the grid; also return the geometry of its first image."""
        volumes, processed = read_and_preprocess(
            subject, self.preprocessor, self.modalities, memory_limit=self._memory_limit
        )
        return processed, next(iter(volumes.values())).geometry

    def make_input(self, processed: PreprocessedSubject) -> EncoderInput:
        """Cut a preprocessed subject into slabs."""
        return EncoderInput(
            self.grid.extract(processed.data),
            processed.present,
            self.fractions(processed.foreground),
        )

    def fractions(self, foreground: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the foreground of patches (S, h, w); 0 if the encoder skips them."""
        config = self.checkpoint.config.slab_encoder
        fractions = self.grid.token_fractions(foreground, config.patch_size)
        return config.count_foreground(fractions)

    @torch.inference_mode()
    def forward(
        self, slabs: Tensor, present: Tensor, fractions: Tensor
    ) -> EncoderOutput:
        """Run the encoder on (B, S, C, H, W), (B, M) and (B, S, h, w)."""
        # Weights and tokens are all of one precision: autocast would convert each of
        # them at each product.
        encoder = shared_encoder(self.checkpoint, self.device, self._dtype)
        slabs = slabs.to(self.device, self._dtype)
        present, foreground = present.to(self.device), fractions.to(self.device) > 0
        output: EncoderOutput = encoder(slabs, present=present, foreground=foreground)
        return output

    @torch.inference_mode()
    def pool(self, output: EncoderOutput, fractions: Tensor) -> Tensor:
        """Pool tokens to embeddings of shape (B, n_features)."""
        if self.pooling == "anatomy":
            state = self.checkpoint.state
            weight, bias = state["anatomy.weight"], state["anatomy.bias"]
            return pool_tissues(output, fractions, weight, bias)
        if self.pooling != "regions":
            return pool_tokens(output, fractions, self.pooling)
        return pool_regions(output, self._region_weights, fractions > 0)

    def pool_weights(self, fractions: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return weights of the patch tokens: (1, S, h, w), or one set per region."""
        if self.pooling == "mean":
            weights = fractions[None].astype(np.float64)
        elif self.pooling == "regions":
            foreground = (fractions > 0).astype(np.float64)
            weights = self._region_weights.cpu().numpy() * foreground
        else:
            raise ConfigError(
                "expected an embedder that pools patch tokens, by 'mean' or "
                f"'regions', got pooling={self.pooling!r}: only these have a position."
            )
        totals = weights.sum(axis=(1, 2, 3), keepdims=True)
        return np.asarray(weights / np.where(totals > 0, totals, 1.0))

    def encode(self, inputs: Sequence[EncoderInput]) -> NDArray[np.float32]:
        """Return embeddings of shape (n_inputs, n_features)."""
        # If memory is short, batches shrink, and the CPU takes over in the end.
        while True:
            size = self.batch_size
            batches = [inputs[i : i + size] for i in range(0, len(inputs), size)]
            try:
                return np.concatenate([self._encode_batch(batch) for batch in batches])
            except Exception as error:
                can_fall_back = size > 1 or self.device.type != "cpu"
                if not is_out_of_memory(error) or not can_fall_back:
                    raise
            # Not above: the error would keep its tensors.
            with self._falling_back:
                # Threads that run short together fall back once.
                if self.batch_size == size:
                    self._fall_back()

    def explain_not_finite(self, fractions: NDArray[np.float32]) -> str:
        """Say why an embedding is not finite: a region may hold no brain."""
        if self.atlas:
            weights = self._region_weights.cpu().numpy()[:, fractions > 0]  # R, patches
            totals = weights.sum(axis=1)
            empty = [n for n, t in zip(self.region_names, totals, strict=True) if not t]
            if empty:
                return (
                    "expected some of the brain in each region of labels_img, got none "
                    f"in {', '.join(empty)}."
                )
        return NOT_FINITE

    def _fall_back(self) -> None:
        if self.batch_size > 1:
            self.batch_size //= 2
            what = f"batches of {self.batch_size}"
        else:
            self.device = torch.device("cpu")
            self._dtype = resolve_dtype("auto", self.device)
            self._region_weights = self._weigh_regions()
            what = "the CPU"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _LOGGER.warning("out of memory: continuing with %s", what)

    def _encode_batch(self, inputs: Sequence[EncoderInput]) -> NDArray[np.float32]:
        # Filled up to one batch shape: kernels that depend on the shape would let
        # a row depend on how many others are with it.
        rows = [*inputs, *[inputs[-1]] * (self.batch_size - len(inputs))]
        slabs = self._to_device([row.slabs for row in rows])  # B S C H W
        present = self._to_device([row.present for row in rows])  # B M
        fractions = self._to_device([row.fractions for row in rows])  # B S h w
        output = self.forward(slabs, present, fractions)
        vectors = self.pool(output, fractions)
        return vectors[: len(inputs)].cpu().numpy()

    def _to_device(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        batch = torch.from_numpy(np.stack(arrays))
        if self.device.type == "cuda":
            # Copied from pinned memory while the processor continues.
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

    def _weigh_regions(self) -> Tensor:
        if self.atlas is None:
            return torch.empty(0)
        if self.preprocessor.alignment == "none":
            raise ConfigError(
                "pooling='regions': expected a preprocessor that aligns to the "
                "template, whose space the atlas is in, got alignment='none'."
            )
        patch_size = self.checkpoint.config.slab_encoder.patch_size
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
