"""Subjects from their files to what an encoder takes."""

__all__ = ["EncoderInput", "SubjectReader"]

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.encoder_grid import encoder_grid, foreground_fractions
from brainfeat.exceptions import ConfigError, VolumeError
from brainfeat.finetuning.augmentation import Augmentation
from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.settings import preprocessing_from_dict
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import check_subject
from brainfeat.volume import Geometry


class EncoderInput(NamedTuple):
    """One subject as a batch of one."""

    inputs: Tensor  # slabs (1, S, C, H, W) or volumes (1, M, I, J, K)
    present: Tensor  # bool (1, M)
    fractions: Tensor  # 1 and tokens, foreground of each


@dataclass(frozen=True, eq=False)
class SubjectReader:
    """Reads subjects as a checkpoint was trained, or with another preprocessing."""

    checkpoint: Checkpoint
    given: Any = None  # replaces the checkpoint's preprocessing

    @cached_property
    def preprocessor(self) -> SubjectPreprocessing:
        """The preprocessing of all subjects."""
        if self.given is None:
            return preprocessing_from_dict(self.checkpoint.config.preprocessing)
        if not isinstance(self.given, SubjectPreprocessing):
            raise ConfigError(
                "preprocessor: expected None, a Preprocessor or an InputRecipe, "
                f"got {type(self.given).__name__}."
            )
        return self.given

    def read(self, subject: Subject) -> tuple[PreprocessedSubject, Geometry]:
        """Take a subject to the grid; also return the geometry of its first image."""
        config = self.checkpoint.config
        check_subject(
            subject,
            modalities=config.encoder.modalities,
            allow_missing=config.missing_modalities,
        )
        volumes, processed = read_and_preprocess(
            subject, self.preprocessor, config.encoder.modalities
        )
        return processed, next(iter(volumes.values())).geometry

    def to_input(
        self,
        data: NDArray[np.float32],
        foreground: NDArray[np.bool_],
        present: NDArray[np.bool_],
    ) -> EncoderInput:
        """Cut volumes (M, I, J, K) for the encoder."""
        config = self.checkpoint.config
        fractions = foreground_fractions(config, foreground)
        if not (fractions > 0).any():
            raise VolumeError("expected some brain, got none.")
        inputs = encoder_grid(config).extract(data)
        return EncoderInput(
            torch.from_numpy(inputs)[None],
            torch.from_numpy(present)[None],
            torch.from_numpy(fractions)[None],
        )

    def input_of(self, subject: PreprocessedSubject) -> EncoderInput:
        """Cut a subject as it is."""
        return self.to_input(subject.data, subject.foreground, subject.present)

    def augment(
        self, subject: PreprocessedSubject, generator: Generator
    ) -> EncoderInput:
        """Cut a randomly changed copy of a subject."""
        size_i, size_j, size_k = subject.foreground.shape
        shape, n_modalities = (size_i, size_j, size_k), len(subject.data)
        drawn = Augmentation.draw(shape, n_modalities, generator)
        data, foreground = drawn.apply(
            torch.from_numpy(subject.data), torch.from_numpy(subject.foreground)
        )
        return self.to_input(
            np.ascontiguousarray(data.numpy()), foreground.numpy(), subject.present
        )
