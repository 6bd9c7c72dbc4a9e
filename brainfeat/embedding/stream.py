"""Subjects through reading threads and an encoder: in order, in constant memory."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.exceptions import VolumeError
from brainfeat.io.hashing import join_hashes
from brainfeat.preprocessing.preview import draw_picture
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.streaming import stream_outcomes
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.volume import format_spacing

if TYPE_CHECKING:
    from brainfeat.embedding.subject_encoder import EncoderInput, SubjectEncoder

__all__ = ["NOTHING_KNOWN", "Embedding", "stream_embeddings"]

NOTHING_KNOWN: Mapping[str, str | None] = MappingProxyType({})

_SEPARATOR = "\t"  # of the voxel size and the quality in a note


class Embedding(NamedTuple):
    """The embedding of one subject."""

    vector: NDArray[np.float32]  # n_features
    input_sha256: str | None  # None if an image is in memory and nothing is cached
    # Native voxel size of the first modality; None if an earlier version cached it.
    voxel_mm: str | None = None
    quality: Quality | None = None  # likewise
    preview: bytes | None = None  # PNG, if asked for; not of a cached embedding

    def to_note(self) -> str:
        """Write what is cached beside the vector."""
        quality = "" if self.quality is None else self.quality.to_text()
        return _SEPARATOR.join([self.voxel_mm or "", quality])

    @classmethod
    def from_note(
        cls, vector: NDArray[np.float32], input_sha256: str | None, note: str
    ) -> Self:
        """Restore a cached embedding."""
        voxel_mm, _, quality = note.partition(_SEPARATOR)
        return cls(vector, input_sha256, voxel_mm or None, Quality.from_text(quality))


def stream_embeddings(
    encoder: "SubjectEncoder",
    subjects: Iterable[Subject],
    *,
    n_jobs: int = 1,
    cache: EmbeddingCache | None = None,
    known_sha256: Mapping[str, str | None] = NOTHING_KNOWN,
    previews: bool = False,
) -> Generator[Outcome[Embedding]]:
    """Embed subjects; those with unchanged images are skipped.

    ``known_sha256`` maps the key of a subject to the hash of its images when it was
    embedded. Entries may be added until the subject is drawn. With ``previews``, a
    picture of each subject is drawn.
    """
    steps = _EmbeddingSteps(encoder, cache, known_sha256, previews)
    return stream_outcomes(
        subjects,
        steps.prepare,
        steps.encode,
        device=encoder.device,
        n_jobs=n_jobs,
        batch_size=lambda: encoder.batch_size,
    )


class _Prepared(NamedTuple):
    """A subject before the encoder, and the key that its embedding is cached under."""

    encoder_input: "EncoderInput"
    input_sha256: str | None
    key: str | None
    voxel_mm: str
    quality: Quality
    preview: bytes | None


class _EmbeddingSteps(NamedTuple):
    """What is done before and by the encoder, in threads."""

    encoder: "SubjectEncoder"
    cache: EmbeddingCache | None
    known_sha256: Mapping[str, str | None]
    previews: bool

    def prepare(self, subject: Subject) -> _Prepared | Outcome[Embedding]:
        self.encoder.check(subject)
        input_sha256, key = None, None
        images = subject.images.values()
        if self.cache or not any(isinstance(i, SpatialImage) for i in images):
            hashes = self.encoder.hash_inputs(subject)
            input_sha256 = join_hashes(hashes)
            if self.known_sha256.get(subject.key) == input_sha256:
                return Outcome(subject)
            if self.cache:
                key = self.encoder.cache_key(hashes)
                kept = self.cache.load(key, self.encoder.n_features)
                if kept is not None:
                    restored = kept.vector, input_sha256, kept.note
                    return Outcome(subject, Embedding.from_note(*restored))
        processed, native = self.encoder.preprocess(subject)
        encoder_input = self.encoder.make_input(processed)
        voxel_mm = format_spacing(native.spacing)
        preview = None
        if self.previews:
            preview = draw_picture(processed, self.encoder.modalities).png
        measured = voxel_mm, processed.quality, preview
        return _Prepared(encoder_input, input_sha256, key, *measured)

    def encode(self, prepared: Sequence[_Prepared]) -> Iterator[Embedding | Exception]:
        vectors = self.encoder.encode([item.encoder_input for item in prepared])
        for item, vector in zip(prepared, vectors, strict=True):
            if not np.isfinite(vector).all():
                reason = self.encoder.explain_not_finite(item.encoder_input)
                yield VolumeError(reason)
                continue
            known = item.input_sha256, item.voxel_mm, item.quality, item.preview
            embedding = Embedding(vector, *known)
            if self.cache and item.key:
                self.cache.store(item.key, vector, embedding.to_note())
            yield embedding
