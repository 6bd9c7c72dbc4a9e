"""How to make an encoder: what travels to another process in place of weights."""

import os
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.checkpoint.hub import absolute_source
from brainfeat.checkpoint.sharing import shared_checkpoint
from brainfeat.embedding.cache import EmbeddingCache
from brainfeat.embedding.clusters import claimed_device
from brainfeat.embedding.subject_encoder import Pooling, SubjectEncoder
from brainfeat.exceptions import (
    BrainfeatError,
    CheckpointError,
    UntrainedCheckpointWarning,
)
from brainfeat.io.volumes import MEMORY_LIMIT
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.subjects.subject import Subject

__all__ = ["EncoderRecipe", "RemoteFailure", "RemoteOutcome", "encode_remotely"]


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """The arguments of a `SubjectEncoder`, small enough to be sent anywhere.

    Parameters
    ----------
    checkpoint : str or path-like
        As for `Checkpoint.load`.
    preprocessor, pooling, labels_img, batch_size, device, dtype, memory_limit
        As for `SubjectEncoder`.
    fingerprint : str, optional
        What the checkpoint must be, where it is loaded.
    """

    checkpoint: str | os.PathLike[str]
    preprocessor: Preprocessor | None = None
    pooling: Pooling = "mean"
    labels_img: Any = None
    batch_size: Any = "auto"
    device: Any = "auto"
    dtype: Any = "auto"
    memory_limit: int = MEMORY_LIMIT
    fingerprint: str | None = None

    def build(self) -> SubjectEncoder:
        """Load the checkpoint, once a process, and make the encoder.

        Returns
        -------
        SubjectEncoder
            The encoder.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, or it is another one here.
        """
        checkpoint = shared_checkpoint(self.checkpoint)
        if self.fingerprint not in {None, checkpoint.fingerprint}:
            raise CheckpointError(
                f"{os.fspath(self.checkpoint)}: another checkpoint in this worker "
                f"({checkpoint.fingerprint[:12]}) than where the run was started "
                f"({str(self.fingerprint)[:12]})."
            )
        return SubjectEncoder(
            checkpoint,
            preprocessor=self.preprocessor,
            pooling=self.pooling,
            labels_img=self.labels_img,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            memory_limit=self.memory_limit,
        )

    def for_workers(self, encoder: SubjectEncoder) -> Self:
        """Say the same in words that hold in other folders too.

        Parameters
        ----------
        encoder : SubjectEncoder
            What this recipe made here.

        Returns
        -------
        EncoderRecipe
            With absolute paths, the regions in place of where they were read, the
            precision that is taken here, and the fingerprint of the checkpoint.
        """
        return replace(
            self,
            checkpoint=absolute_source(self.checkpoint),
            labels_img=encoder.atlas,
            # A worker's own would be another than caches and tables are told of.
            dtype=encoder.precision,
            fingerprint=encoder.checkpoint.fingerprint,
        )


class RemoteFailure(NamedTuple):
    """An error in parts that can be sent, which an exception often cannot.

    Attributes
    ----------
    kind : type
        One of ours, or RuntimeError in place of what a library raised.
    message : str
        What it says.
    traceback : str
        Where it was raised.
    """

    kind: type[Exception]
    message: str
    traceback: str

    @classmethod
    def from_error(cls, error: Exception) -> Self:
        """Take an error apart.

        Parameters
        ----------
        error : Exception
            What was raised.

        Returns
        -------
        RemoteFailure
            Its parts.
        """
        text = "".join(traceback.format_exception(error))
        if isinstance(error, BrainfeatError):
            return cls(type(error), str(error), text)
        return cls(RuntimeError, f"{type(error).__name__}: {error}", text)


class RemoteOutcome(NamedTuple):
    """What became of one subject in a worker.

    Attributes
    ----------
    input_sha256 : str or None
        Fingerprint of its images, if it was asked for.
    vector : ndarray of float32 of shape (n_features,) or None
        The embedding.
    failure : RemoteFailure or None
        Why there is none.
    """

    input_sha256: str | None
    vector: NDArray[np.float32] | None
    failure: RemoteFailure | None

    @property
    def error(self) -> Exception | None:
        """The error as it would be in this process, with the traceback as a note."""
        if self.failure is None:
            return None
        error = self.failure.kind(self.failure.message)
        error.add_note(f"In the worker:\n{self.failure.traceback}")
        return error


def encode_remotely(
    recipe: EncoderRecipe,
    subjects: Sequence[Subject],
    cache: EmbeddingCache | None,
    with_hashes: bool,
    n_jobs: int = 1,
) -> list[RemoteOutcome]:
    """Embed some subjects in this process, whose encoder stays loaded.

    Parameters
    ----------
    recipe : EncoderRecipe
        What embeds.
    subjects : sequence of Subject
        With paths that this process can read.
    cache : EmbeddingCache, optional
        Where embeddings are looked up first and kept.
    with_hashes : bool
        Whether to fingerprint the images, which must be paths then.
    n_jobs : int
        Threads that read and preprocess ahead.

    Returns
    -------
    list of RemoteOutcome
        In the order of the subjects.
    """
    device = claimed_device()
    encoder = _kept_encoder(replace(recipe, device=device) if device else recipe)
    hashes = [_hash(encoder, subject) if with_hashes else None for subject in subjects]
    readable = [
        s for s, h in zip(subjects, hashes, strict=True) if not isinstance(h, Exception)
    ]
    outcomes = iter(list(encoder.stream(readable, n_jobs=n_jobs, cache=cache)))
    results = []
    for found in hashes:
        if isinstance(found, Exception):
            failure = RemoteFailure.from_error(found)
            results.append(RemoteOutcome(None, None, failure))
            continue
        outcome = next(outcomes)
        if outcome.error is not None:
            failure = RemoteFailure.from_error(outcome.error)
            results.append(RemoteOutcome(found, None, failure))
        else:
            results.append(RemoteOutcome(found, outcome.vector, None))
    return results


@lru_cache(maxsize=2)
def _kept_encoder(recipe: EncoderRecipe) -> SubjectEncoder:
    with warnings.catch_warnings():
        # The one who sent it has been warned.
        warnings.simplefilter("ignore", UntrainedCheckpointWarning)
        return recipe.build()


def _hash(encoder: SubjectEncoder, subject: Subject) -> str | BrainfeatError:
    images = subject.images.items()
    try:
        return encoder.hash_inputs({m: p for m, p in images if isinstance(p, str)})
    except BrainfeatError as error:
        return error
