"""From subjects to label maps and probabilities in their own voxels."""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from nibabel import Nifti1Image
from numpy.typing import NDArray

from brainfeat.io.image_files import ImageSource
from brainfeat.io.volumes import to_image_like
from brainfeat.models.threads import (
    MOST_SEGMENTED_AT_ONCE,
    map_in_threads,
)
from brainfeat.segmentation.inputs import (
    SegmentationInput,
    SegmentationSpace,
)
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.subjects.subject import Subject
from brainfeat.workers import Prefetch

__all__ = ["SegmentedSubject", "segment_subjects"]

T = TypeVar("T")
AnyInteger = TypeVar("AnyInteger", bound=np.integer[Any])


class SegmentedSubject(NamedTuple):
    """One subject with the probabilities of its classes on the fine grid.

    Attributes
    ----------
    source : path-like or nibabel image
        Its first image, on whose grid label maps come back.
    placed : SegmentationInput
        The subject on both grids.
    probabilities : ndarray of float16 of shape (n_classes, size_i, size_j, size_k)
        Background first.
    space : SegmentationSpace
        The way back.
    """

    source: ImageSource
    placed: SegmentationInput
    probabilities: NDArray[np.float16]
    space: SegmentationSpace

    def to_label_map(self, classes: NDArray[np.int64]) -> Nifti1Image:
        """Give the most probable labels as an image like the subject's first.

        Parameters
        ----------
        classes : ndarray of int of shape (n_classes,)
            Labels; background first.

        Returns
        -------
        nibabel.Nifti1Image
            Of the smallest type that holds all classes.
        """
        # Small from the start: as int64, a large head is another gigabyte.
        small = classes.astype(_label_dtype(classes.tolist()))
        return to_image_like(self.choose(small), self.source)

    def to_probability_map(self) -> Nifti1Image:
        """Give the probabilities as an image like the subject's first.

        Returns
        -------
        nibabel.Nifti1Image
            Float32 of shape (size_i, size_j, size_k, n_classes).
        """
        shape = (*self.placed.native.shape, len(self.probabilities))
        chances = np.zeros(shape, dtype=np.float32)
        for index, chance in self._chances():
            chances[..., index] = chance
        # The grid may not reach everywhere: there is background.
        chances[..., 0] = np.clip(1 - chances[..., 1:].sum(axis=-1), 0, 1)
        return to_image_like(chances, self.source)

    def choose(self, classes: NDArray[AnyInteger]) -> NDArray[AnyInteger]:
        """Choose the most probable label of each native voxel.

        Parameters
        ----------
        classes : ndarray of int of shape (n_classes,)
            Labels; background first.

        Returns
        -------
        ndarray of shape (size_i, size_j, size_k)
            Labels, of the type of ``classes``.
        """
        # In Fortran order, as chances are: else each voxel is a jump in memory.
        best = np.zeros(self.placed.native.shape, np.float32, order="F")
        total, place = np.zeros_like(best), np.zeros_like(best, np.uint16)
        for index, chance in self._chances():
            total += chance
            np.copyto(place, index, where=chance > best)
            np.maximum(best, chance, out=best)
        # The rest is background, also where the grid does not reach.
        place[best <= 1 - total] = 0
        labels: NDArray[AnyInteger] = classes[place]
        return labels

    def _chances(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Give place and probability, in native voxels, of each foreground class."""
        for index in range(1, len(self.probabilities)):
            yield index, self.space.to_native(self.probabilities[index], self.placed)


def segment_subjects(
    network: SegmentationNetwork,
    subjects: Sequence[Subject],
    finish: Callable[[SegmentedSubject], T],
    *,
    n_jobs: int,
) -> Generator[T]:
    """Segment subjects, and give in order what ``finish`` makes of each.

    On a CPU several threads do all of it, each for subjects of its own.

    Parameters
    ----------
    network : SegmentationNetwork
        Trained.
    subjects : sequence of Subject
        Images.
    finish : callable
        Called with a SegmentedSubject, in any thread.
    n_jobs : int
        Threads that read and preprocess.

    Yields
    ------
    object
        What ``finish`` returned.
    """
    space = network.space

    def segment(place: tuple[Subject, SegmentationInput]) -> T:
        subject, placed = place
        chances = network.probabilities(placed)
        source = _first_image(subject, space.modalities)
        return finish(SegmentedSubject(source, placed, chances, space))

    with (
        Prefetch(
            lambda subject: (subject, space.read(subject)),
            subjects,
            n_threads=n_jobs,
            n_ahead=n_jobs,
        ) as placed,
        map_in_threads(
            segment,
            placed,
            device=network.device,
            max_threads=MOST_SEGMENTED_AT_ONCE,
            readers=placed,
        ) as segmented,
    ):
        yield from segmented


def _label_dtype(classes: Sequence[int]) -> type[np.integer[Any]]:
    """Choose the smallest type of label maps that holds all classes."""
    for dtype in (np.uint8, np.uint16):
        if min(classes) >= 0 and max(classes) <= np.iinfo(dtype).max:
            return dtype
    return np.int32


def _first_image(subject: Subject, modalities: Sequence[str]) -> ImageSource:
    images = (subject.images.get(name) for name in modalities)
    return next(image for image in images if image is not None)
