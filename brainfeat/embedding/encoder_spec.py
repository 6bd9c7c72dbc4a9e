"""Arguments of an encoder: sent to other processes in place of weights."""

import os
from dataclasses import dataclass, replace
from typing import Any, Self

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.locate import absolute_source
from brainfeat.checkpoint.sharing import shared_checkpoint
from brainfeat.embedding.subject_encoder import Pooling, SubjectEncoder
from brainfeat.exceptions import CheckpointError, ConfigError
from brainfeat.io.volumes import MEMORY_LIMIT
from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.settings import preprocessing_from_dict

__all__ = ["EncoderSpec"]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """The arguments of a `SubjectEncoder`, small enough to be sent anywhere."""

    checkpoint: str | os.PathLike[str]
    preprocessor: SubjectPreprocessing | None = None
    coregister: bool = False  # in addition to the checkpoint's own preprocessing
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
            preprocessor=self._find_preprocessor(checkpoint),
            pooling=self.pooling,
            labels_img=self.labels_img,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            memory_limit=self.memory_limit,
        )

    def _find_preprocessor(self, checkpoint: Checkpoint) -> SubjectPreprocessing | None:
        if not self.coregister:
            return self.preprocessor
        own = preprocessing_from_dict(checkpoint.config.preprocessing)
        if not isinstance(own, Preprocessor):
            raise ConfigError(
                f"coregister: {os.fspath(self.checkpoint)} has the recipe of its "
                "authors, which knows no such step; leave the option out."
            )
        return replace(own, coregister=True)

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
