"""From a stream of subjects to native label maps and probabilities."""

__all__ = ["Segmentation", "segment_subjects"]

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from nibabel import Nifti1Image
from numpy.typing import NDArray

from brainfeat.io.image_files import ImageSource
from brainfeat.io.volumes import to_image_like
from brainfeat.models.threads import map_in_threads
from brainfeat.segmentation.inputs import SegmentationInput, SegmentationSpace
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.subjects.doubts import Doubts
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.workers import Prefetch

T = TypeVar("T")
S = TypeVar("S")

_MAX_THREADS = 4  # each needs memory for the probabilities of all classes


class Segmentation(NamedTuple):
    """The probabilities of one subject's classes on the fine grid."""

    source: ImageSource  # the subject's first image, whose grid label maps have
    inputs: SegmentationInput
    probabilities: NDArray[np.float16]  # (n_classes, I * u, J * u, K * u)
    space: SegmentationSpace
    classes: NDArray[np.integer[Any]]  # labels, background first

    def to_label_map(self) -> Nifti1Image:
        """Return the labels as an image on the grid of the subject's first."""
        return to_image_like(self.labels(), self.source)

    def to_probability_map(self) -> Nifti1Image:
        """Return the probabilities as a 4D float32 image, classes last."""
        shape = (*self.inputs.native.shape, len(self.probabilities))
        values = np.zeros(shape, dtype=np.float32)
        for index, probability in self._native_probabilities():
            values[..., index] = probability
        # The grid may not cover the image: the rest is background.
        values[..., 0] = np.clip(1 - values[..., 1:].sum(axis=-1), 0, 1)
        return to_image_like(values, self.source)

    def labels(self) -> NDArray[np.integer[Any]]:
        """Choose the most probable label of each native voxel.

        Of the smallest of uint8, uint16 and int32 that holds all classes.
        """
        # In Fortran order, as the probabilities are, for access in sequence.
        best = np.zeros(self.inputs.native.shape, np.float32, order="F")
        total, indices = np.zeros_like(best), np.zeros_like(best, np.uint16)
        for index, probability in self._native_probabilities():
            total += probability
            np.copyto(indices, index, where=probability > best)
            np.maximum(best, probability, out=best)
        # The rest is background, also where the grid does not cover the image.
        indices[best <= 1 - total] = 0
        # Cast before indexing: as int64, a large head is another gigabyte.
        small = self.classes.astype(_label_dtype(self.classes))
        labels: NDArray[np.integer[Any]] = small[indices]
        return labels

    def _native_probabilities(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the index and the native probabilities of each foreground class."""
        for index in range(1, len(self.probabilities)):
            yield index, self.space.to_native(self.probabilities[index], self.inputs)


def segment_subjects(
    network: SegmentationNetwork,
    classes: NDArray[np.integer[Any]],
    subjects: Iterable[Subject],
    finish: Callable[[Segmentation], T],
    *,
    n_jobs: int,
    is_done: Callable[[Subject], bool] = lambda _: False,
    strict: bool = False,
) -> Generator[Outcome[T]]:
    """Segment subjects, and yield in order what ``finish`` makes of each, or the error.

    Subjects are read ahead by ``n_jobs`` threads, which also call ``is_done``: those
    for which it is true are skipped. On a CPU several threads segment a subject each;
    ``finish`` runs in them. If ``strict``, subjects in doubt fail.
    """
    space, doubts = network.space, Doubts(strict=strict)

    def try_to_read(subject: Subject) -> SegmentationInput | None:
        if is_done(subject):
            return None
        inputs = space.read(subject)
        if error := doubts.note(subject, inputs.coarse.quality):
            raise error
        return inputs

    def read(subject: Subject) -> Outcome[SegmentationInput]:
        return _attempt(subject, lambda: try_to_read(subject))

    def segment_input(subject: Subject, inputs: SegmentationInput) -> T:
        source = _first_image(subject, space)
        probabilities = network.probabilities(inputs)
        return finish(Segmentation(source, inputs, probabilities, space, classes))

    def segment(outcome: Outcome[SegmentationInput]) -> Outcome[T]:
        subject, inputs = outcome.subject, outcome.result
        if inputs is None:
            return Outcome(subject, error=outcome.error)
        return _attempt(subject, lambda: segment_input(subject, inputs))

    with (
        # Reading is one ahead, so that it overlaps with segmenting in any case.
        Prefetch(read, subjects, n_threads=n_jobs, n_ahead=n_jobs + 1) as inputs,
        map_in_threads(
            segment,
            inputs,
            device=network.device,
            max_threads=_MAX_THREADS,
            readers=inputs,
        ) as outcomes,
    ):
        yield from outcomes
    doubts.report()


def _attempt(subject: Subject, work: Callable[[], S | None]) -> Outcome[S]:
    try:
        return Outcome(subject, work())
    except Exception as error:  # whatever a damaged file makes a library raise
        return Outcome(subject, error=error)


def _label_dtype(classes: NDArray[np.integer[Any]]) -> type[np.integer[Any]]:
    for dtype in (np.uint8, np.uint16):
        if classes.min() >= 0 and classes.max() <= np.iinfo(dtype).max:
            return dtype
    return np.int32


def _first_image(subject: Subject, space: SegmentationSpace) -> ImageSource:
    images = (subject.images.get(name) for name in space.modalities)
    return next(image for image in images if image is not None)
