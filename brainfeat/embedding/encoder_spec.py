"""Arguments of an encoder: sent to other processes in place of weights."""

import os
from dataclasses import dataclass, replace
from typing import Any, Self

from brainfeat.checkpoint.locate import absolute_source
from brainfeat.checkpoint.sharing import shared_checkpoint
from brainfeat.embedding.subject_encoder import Pooling, SubjectEncoder
from brainfeat.exceptions import CheckpointError
from brainfeat.io.volumes import MEMORY_LIMIT
from brainfeat.preprocessing.interface import SubjectPreprocessing

__all__ = ["EncoderSpec"]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """The arguments of a `SubjectEncoder`, small enough to be sent anywhere."""

    checkpoint: str | os.PathLike[str]
    preprocessor: SubjectPreprocessing | None = None
    pooling: Pooling = "mean"
    labels_img: Any = None
    batch_size: Any = "auto"
    device: Any = "auto"
    dtype: Any = "auto"
    memory_limit: int = MEMORY_LIMIT
    fingerprint: str | None = None  # checked where the checkpoint is loaded

    def build(self) -> SubjectEncoder:
        """Load the checkpoint, once per process, and make the encoder."""
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
        """Pin all that a worker could resolve otherwise than ``encoder`` here did."""
        return replace(
            self,
            checkpoint=absolute_source(self.checkpoint),
            labels_img=encoder.atlas,
            # "auto" may differ on the worker.
            dtype=encoder.precision,
            fingerprint=encoder.checkpoint.fingerprint,
        )
