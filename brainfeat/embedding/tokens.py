"""Patch tokens of subjects, each with its position in the brain."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.embedding.subject_encoder import NOT_FINITE, SubjectEncoder
from brainfeat.exceptions import VolumeError
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.quality import Quality
from brainfeat.subjects.streaming import stream_outcomes
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.volume import Geometry

__all__ = ["SubjectTokens", "stream_tokens"]


@dataclass(frozen=True, eq=False)
class SubjectTokens:
    """The patch tokens of one subject, in the array order of its volumes."""

    tokens: NDArray[np.float32]  # I J K D, one vector per block of voxels
    fractions: NDArray[np.float32]  # I J K, foreground of each block
    geometry: Geometry  # of the tokens, in template mm
    processed: PreprocessedSubject  # what the encoder was given
    native: Geometry  # of the subject's first image

    @property
    def quality(self) -> Quality:
        """Whether the brain was found."""
        return self.processed.quality

    @property
    def scanner_geometry(self) -> Geometry:
        """The grid of the tokens, in mm of the subject's scanner."""
        affine = self.processed.grid_to_scanner @ self.geometry.affine
        return Geometry(self.geometry.shape, affine)

    def without_voxels(self) -> Self:
        """Drop the voxels, which need several times the memory of the tokens."""
        placed = self.processed.on_grid(self.processed.geometry)
        return replace(self, processed=placed)


def stream_tokens(
    encoder: SubjectEncoder, subjects: Iterable[Subject], *, n_jobs: int = 1
) -> Generator[Outcome[SubjectTokens]]:
    """Encode subjects one by one, in order, and keep all their patch tokens."""
    return stream_outcomes(
        subjects,
        encoder.preprocess,
        lambda prepared: [_encode(encoder, *one) for one in prepared],
        device=encoder.device,
        n_jobs=n_jobs,
        batch_size=lambda: 1,
    )


def _encode(
    encoder: SubjectEncoder, processed: PreprocessedSubject, native: Geometry
) -> SubjectTokens:
    one = encoder.make_input(processed)
    parts = (one.voxels, one.present, one.fractions)
    output = encoder.forward(*(torch.from_numpy(array)[None] for array in parts))
    tokens = output.patch_tokens[0].float().cpu().numpy()  # S h w D
    if not np.isfinite(tokens).all():
        raise VolumeError(NOT_FINITE)
    return SubjectTokens(
        encoder.grid.arrange_tokens(tokens),
        encoder.grid.arrange_tokens(one.fractions),
        encoder.grid.token_geometry(processed.geometry),
        processed,
        native,
    )
