"""Predictions of subjects by an adapted encoder with its head."""

__all__ = ["Prediction", "Predictor"]

import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.exceptions import VolumeError
from brainfeat.finetuning.head import TaskHead
from brainfeat.finetuning.reading import EncoderInput, SubjectReader
from brainfeat.io.hashing import join_hashes, known_hash
from brainfeat.models.device import resolve_dtype
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.streaming import stream_outcomes
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.volume import format_spacing


class Prediction(NamedTuple):
    """What is predicted of one subject."""

    scores: NDArray[np.float64]  # K
    embedding: NDArray[np.float32]  # n_features
    voxel_mm: str  # of the first modality
    quality: Quality | None
    input_sha256: str | None  # None if an image is in memory


class _Prepared(NamedTuple):
    """A subject before the encoder."""

    encoder_input: EncoderInput
    voxel_mm: str
    quality: Quality
    input_sha256: str | None


class Predictor:
    """An adapted encoder with its head, on a device."""

    def __init__(
        self,
        adapted: Checkpoint,
        reader: SubjectReader,
        head: TaskHead,
        device: torch.device,
    ) -> None:
        self.adapted, self.reader, self.device = adapted, reader, device
        # Copied, so that the fitted one stays on the CPU and can be pickled.
        self.head = copy.deepcopy(head).to(device)

    def stream(
        self,
        subjects: Iterable[Subject],
        *,
        n_jobs: int,
        known_sha256: Callable[[Subject], str | None] = lambda _: None,
    ) -> Generator[Outcome[Prediction]]:
        """Predict subjects in order; an error is the outcome of its subject.

        Those whose images have the hash of an earlier prediction are skipped.
        """

        def prepare(subject: Subject) -> _Prepared | Outcome[Prediction]:
            sha256 = _hash_images(subject)
            if sha256 is not None and known_sha256(subject) == sha256:
                return Outcome(subject)
            processed, native = self.reader.read(subject)
            return _Prepared(
                self.reader.input_of(processed),
                format_spacing(native.spacing),
                processed.quality,
                sha256,
            )

        return stream_outcomes(
            subjects,
            prepare,
            self._predict,
            device=self.device,
            n_jobs=n_jobs,
            batch_size=lambda: 1,
        )

    @torch.inference_mode()
    def _predict(
        self, prepared: Sequence[_Prepared]
    ) -> Iterator[Prediction | Exception]:
        dtype = resolve_dtype("auto", self.device)
        encoder = shared_encoder(self.adapted, self.device, dtype)
        for item in prepared:
            inputs, present, fractions = (
                tensor.to(self.device) for tensor in item.encoder_input
            )
            output = encoder(
                inputs.to(dtype), present=present, foreground=fractions > 0
            )
            pooled = self.head.pool(output, fractions)
            scores = self.head.score(pooled)[0].double().cpu().numpy()
            if not np.isfinite(scores).all():
                yield VolumeError("the encoder gives values that are not finite.")
                continue
            embedding = pooled[0].float().cpu().numpy()
            known = item.voxel_mm, item.quality, item.input_sha256
            yield Prediction(scores, embedding, *known)


def _hash_images(subject: Subject) -> str | None:
    """Hash the files of a subject; None if an image is in memory."""
    images = {name: i for name, i in subject.images.items() if i is not None}
    if any(isinstance(image, SpatialImage) for image in images.values()):
        return None
    return join_hashes({name: known_hash(image) for name, image in images.items()})
