"""From subjects to their patch tokens, each with its place in the brain."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.embedding.subject_encoder import NOT_FINITE, SubjectEncoder
from brainfeat.exceptions import VolumeError
from brainfeat.models.threads import map_in_threads
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.subjects.failures import add_context
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry
from brainfeat.workers import Prefetch

__all__ = ["SubjectTokens", "TokenOutcome", "stream_tokens"]


@dataclass(frozen=True, eq=False)
class SubjectTokens:
    """The patch tokens of one subject, in the array order of its volumes.

    Parameters
    ----------
    tokens : ndarray of float32 of shape (size_i, size_j, size_k, D)
        One vector a block of voxels.
    fractions : ndarray of float32 of shape (size_i, size_j, size_k)
        Share of each block that is foreground.
    geometry : Geometry
        Grid of the tokens, in millimetres of the template.
    processed : PreprocessedSubject
        What the encoder was given.
    native : Geometry
        Grid of the subject's first image.
    """

    tokens: NDArray[np.float32]
    fractions: NDArray[np.float32]
    geometry: Geometry
    processed: PreprocessedSubject
    native: Geometry

    @property
    def scanner_geometry(self) -> Geometry:
        """The same grid, in millimetres of the subject's scanner."""
        affine = self.processed.grid_to_scanner @ self.geometry.affine
        return Geometry(self.geometry.shape, affine)

    def without_voxels(self) -> Self:
        """Leave out the voxels, which need several times the memory of the tokens.

        Returns
        -------
        SubjectTokens
            To be kept while other subjects are encoded.
        """
        placed = self.processed.on_grid(self.processed.geometry)
        return replace(self, processed=placed)


@dataclass(frozen=True, eq=False)
class TokenOutcome:
    """What became of one subject: tokens or an error.

    Parameters
    ----------
    index : int
        Place of the subject in the stream.
    result : SubjectTokens or None
        The tokens.
    error : Exception or None
        Why there are none.
    """

    index: int
    result: SubjectTokens | None
    error: Exception | None

    def unwrap(self) -> SubjectTokens:
        """Return the tokens, or raise the error.

        Returns
        -------
        SubjectTokens
            The tokens.

        Raises
        ------
        Exception
            If there are none.
        """
        if self.result is None:
            raise self.error or RuntimeError("no tokens.")
        return self.result


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A subject as the encoder takes it, or why there is none."""

    index: int
    subject: Subject
    content: tuple[PreprocessedSubject, Geometry] | Exception


def stream_tokens(
    encoder: SubjectEncoder, subjects: Iterable[Subject], *, n_jobs: int = 1
) -> Generator[TokenOutcome]:
    """Encode subjects one by one, and keep all their patch tokens.

    On a CPU several threads encode, each a subject.

    Parameters
    ----------
    encoder : SubjectEncoder
        Checkpoint and preprocessing.
    subjects : iterable of Subject
        Read as they are needed.
    n_jobs : int
        Threads that read and preprocess ahead of the encoder.

    Yields
    ------
    TokenOutcome
        One a subject, in order; one that fails does not stop the others.
    """

    def prepare(place: tuple[int, Subject]) -> _Prepared:
        index, subject = place
        try:
            return _Prepared(index, subject, encoder.preprocess(subject))
        except Exception as error:  # whatever a damaged file makes a library raise
            return _Prepared(index, subject, add_context(error, subject))

    def encode(item: _Prepared) -> TokenOutcome:
        if isinstance(item.content, Exception):
            return TokenOutcome(item.index, None, item.content)
        try:
            return TokenOutcome(item.index, _encode(encoder, *item.content), None)
        except Exception as error:  # of a device that fails, or is too small for one
            return TokenOutcome(item.index, None, add_context(error, item.subject))

    with (
        Prefetch(
            prepare, enumerate(subjects), n_threads=n_jobs, n_ahead=n_jobs + 1
        ) as prepared,
        map_in_threads(
            encode, prepared, device=encoder.device, readers=prepared
        ) as encoded,
    ):
        yield from encoded


def _encode(
    encoder: SubjectEncoder, processed: PreprocessedSubject, native: Geometry
) -> SubjectTokens:
    grid, patch_size = encoder.grid, encoder.checkpoint.config.encoder.patch_size
    slabs = torch.from_numpy(grid.extract(processed.data))[None]  # 1 S C H W
    fractions = encoder.fractions(processed.foreground)  # S h w
    output = encoder.forward(
        slabs,
        torch.from_numpy(processed.present)[None],
        torch.from_numpy(fractions)[None],
    )
    tokens = output.patch_tokens[0].float().cpu().numpy()  # S h w D
    if not np.isfinite(tokens).all():
        raise VolumeError(NOT_FINITE)
    return SubjectTokens(
        grid.arrange_tokens(tokens),
        grid.arrange_tokens(fractions),
        grid.token_geometry(processed.geometry, patch_size),
        processed,
        native,
    )
