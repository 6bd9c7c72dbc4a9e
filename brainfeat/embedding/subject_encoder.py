"""A checkpoint with its preprocessing and pooling: images in, one vector out."""

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.encoder_grid import foreground_fractions
from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.embedding.cache import EmbeddingCache, embedding_key
from brainfeat.embedding.pooler import NOT_FINITE, Pooler, Pooling
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.embedding.stream import NOTHING_KNOWN, Embedding, stream_embeddings
from brainfeat.exceptions import ConfigError, GeometryError
from brainfeat.io.hashing import known_hash
from brainfeat.io.volumes import MEMORY_LIMIT
from brainfeat.models.config import EncoderConfig
from brainfeat.models.device import (
    is_out_of_memory,
    resolve_batch_size,
    resolve_device,
    resolve_dtype,
)
from brainfeat.models.encoder import EncoderOutput
from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.settings import preprocessing_from_dict
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.subjects.table import check_subject
from brainfeat.volume import Geometry

__all__ = ["NOT_FINITE", "EncoderInput", "Pooling", "SubjectEncoder"]

_MASK = "brain_mask"  # beside the modalities

_LOGGER = logging.getLogger(__name__)


class EncoderInput(NamedTuple):
    """A preprocessed subject as the encoder takes it."""

    voxels: NDArray[np.float32]  # slabs (S, C, H, W), or volumes (M, I, J, K)
    present: NDArray[np.bool_]  # M
    fractions: NDArray[np.float32]  # of each token (S, h, w) or (i, j, k), foreground
    regions: NDArray[np.float32] | None = None  # R and tokens, the part in each region


class SubjectEncoder:
    """A checkpoint with all that turns a subject's images into one vector.

    Parameters are those of `BrainFoundEmbedder`; they are checked, and device, dtype
    and batch size chosen, once, here.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        preprocessor: SubjectPreprocessing | None = None,
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
        self.pooling = pooling
        self.pooler = Pooler(checkpoint, self.preprocessor, pooling, labels_img)
        self.grid = self.pooler.grid
        self.token_grid = self._find_token_grid()  # tokens along each axis of the input
        self.device = resolve_device(device)
        self._dtype = resolve_dtype(dtype, self.device)
        n_slices, height, width = self.token_grid
        n_tokens = n_slices * (1 + height * width)
        self.batch_size = resolve_batch_size(batch_size, self.device, n_tokens)
        self._check_regions()
        self._memory_limit = memory_limit
        self._falling_back = Lock()

    @property
    def atlas(self) -> RegionAtlas | None:
        """The regions that tokens are averaged over; None for other poolings."""
        return self.pooler.atlas

    @property
    def region_names(self) -> tuple[str, ...]:
        """Regions in the order of their features; none without an atlas."""
        return self.pooler.region_names

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
        return self.pooler.n_features

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each number of an embedding."""
        return self.pooler.feature_names

    def stream(
        self,
        subjects: Iterable[Subject],
        *,
        n_jobs: int = 1,
        cache: EmbeddingCache | None = None,
        known_sha256: Mapping[str, str | None] = NOTHING_KNOWN,
        previews: bool = False,
    ) -> Generator[Outcome[Embedding]]:
        """Embed subjects in order; `stream_embeddings` has the details."""
        return stream_embeddings(
            self,
            subjects,
            n_jobs=n_jobs,
            cache=cache,
            known_sha256=known_sha256,
            previews=previews,
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
        """Cut a preprocessed subject into slabs, or take its volumes."""
        return EncoderInput(
            self.grid.extract(processed.data),
            processed.present,
            self.fractions(processed.foreground),
            self.pooler.weigh_regions(processed.geometry),
        )

    def fractions(self, foreground: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the foreground of each token; 0 if the encoder skips it."""
        return foreground_fractions(self.checkpoint.config, foreground)

    @torch.inference_mode()
    def forward(
        self, voxels: Tensor, present: Tensor, fractions: Tensor
    ) -> EncoderOutput:
        """Run the encoder on inputs, (B, M) and the foreground of tokens."""
        # Weights and tokens are all of one precision: autocast would convert each of
        # them at each product.
        encoder = shared_encoder(self.checkpoint, self.device, self._dtype)
        voxels = voxels.to(self.device, self._dtype)
        present, foreground = present.to(self.device), fractions.to(self.device) > 0
        output: EncoderOutput = encoder(voxels, present=present, foreground=foreground)
        return output

    def token_weights(self, processed: PreprocessedSubject) -> NDArray[np.float64]:
        """Return the weights of a subject's patch tokens in its embedding.

        Of shape (1, tokens), or one set per region.
        """
        regions = self.pooler.weigh_regions(processed.geometry)
        return self.pooler.token_weights(self.fractions(processed.foreground), regions)

    def encode(self, inputs: Sequence[EncoderInput]) -> NDArray[np.float32]:
        """Return embeddings of shape (n_inputs, n_features)."""
        rows = np.empty((len(inputs), self.n_features), np.float32)
        for members in _group_by_shape(inputs):
            rows[members] = self._encode_equal([inputs[index] for index in members])
        return rows

    def _encode_equal(self, inputs: Sequence[EncoderInput]) -> NDArray[np.float32]:
        """Encode inputs of one shape."""
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

    def explain_not_finite(self, one: EncoderInput) -> str:
        """Say why an embedding is not finite: a region may hold no brain."""
        return self.pooler.explain_not_finite(one.fractions, one.regions)

    def _fall_back(self) -> None:
        if self.batch_size > 1:
            self.batch_size //= 2
            what = f"batches of {self.batch_size}"
        else:
            self.device = torch.device("cpu")
            self._dtype = resolve_dtype("auto", self.device)
            what = "the CPU"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _LOGGER.warning("out of memory: continuing with %s", what)

    def _encode_batch(self, inputs: Sequence[EncoderInput]) -> NDArray[np.float32]:
        # Filled up to one batch shape: kernels that depend on the shape would let
        # a row depend on how many others are with it.
        rows = [*inputs, *[inputs[-1]] * (self.batch_size - len(inputs))]
        voxels = self._to_device([row.voxels for row in rows])
        present = self._to_device([row.present for row in rows])  # B M
        fractions = self._to_device([row.fractions for row in rows])
        given = [row.regions for row in rows if row.regions is not None]
        regions = self._to_device(given) if given else None  # B R tokens
        output = self.forward(voxels, present, fractions)
        with torch.inference_mode():
            vectors = self.pooler.pool(output, fractions, regions)
        return vectors[: len(inputs)].cpu().numpy()

    def _to_device(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        batch = torch.from_numpy(np.stack(arrays))
        if self.device.type == "cuda":
            # Copied from pinned memory while the processor continues.
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)

    def _find_token_grid(self) -> tuple[int, int, int]:
        shape = self.preprocessor.grid_shape
        config = self.checkpoint.config.encoder
        if shape is None and not isinstance(config, EncoderConfig):
            shape = config.volume_size  # for the batch size
        if shape is None:
            raise ConfigError(
                "preprocessor: expected one whose grid has the same shape for all "
                "subjects, which an encoder of slabs needs."
            )
        try:
            return self.grid.token_shape(shape)
        except GeometryError as error:
            raise ConfigError(
                f"preprocessor: its shape {shape} does not fit the encoder ({error})"
            ) from error

    def _check_regions(self) -> None:
        if self.atlas is None:
            return
        if not self.preprocessor.knows_template:
            raise ConfigError(
                "pooling='regions': expected a preprocessor that aligns to the "
                "template, whose space the atlas is in, got alignment='none'."
            )
        if isinstance(self.preprocessor, Preprocessor):
            # Once, and before images are read: the grid is that of all subjects.
            self.pooler.weigh_regions(self.preprocessor.geometry)


def _group_by_shape(inputs: Sequence[EncoderInput]) -> list[list[int]]:
    """Return the indices of inputs of each shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(inputs):
        groups.setdefault(one.voxels.shape, []).append(index)
    return [*groups.values()]


def _resolve_preprocessor(
    preprocessor: SubjectPreprocessing | None, checkpoint: Checkpoint
) -> SubjectPreprocessing:
    if preprocessor is None:
        return preprocessing_from_dict(checkpoint.config.preprocessing)
    if not isinstance(preprocessor, SubjectPreprocessing):
        raise ConfigError(
            "preprocessor: expected None, a Preprocessor or an InputRecipe, "
            f"got {type(preprocessor).__name__}."
        )
    return preprocessor
