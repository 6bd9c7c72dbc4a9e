"""From a stream of subjects to native label maps and probabilities."""

__all__ = ["Labelled", "PredictionSettings", "Segmentation", "segment_subjects"]

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from nibabel import Nifti1Image
from numpy.typing import NDArray

from brainfeat.exceptions import ModalityError
from brainfeat.io.image_files import ImageSource
from brainfeat.io.volumes import to_image_like
from brainfeat.models.threads import map_in_threads
from brainfeat.preprocessing.resampling import find_sigmas
from brainfeat.segmentation.boxes import Box, crop_geometry
from brainfeat.segmentation.inputs import (
    NativeGrid,
    SegmentationInput,
    SegmentationSpace,
)
from brainfeat.segmentation.modalities import FewerModalities
from brainfeat.segmentation.native import NativeView
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.sampling import choose_classes
from brainfeat.subjects.doubts import Doubts
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.volume import Geometry
from brainfeat.workers import Prefetch

T = TypeVar("T")
S = TypeVar("S")

# Probability of any structure, below which none is more probable than the background,
# but for rounding.
_MAY_BE_CHOSEN = 0.49
# Probability of any structure, above which the uncertainty of a voxel counts.
_MAY_BE_STRUCTURE = 0.1
_MAX_THREADS = 4  # each needs memory for the probabilities of all classes


class Labelled(NamedTuple):
    """The most probable class of each native voxel."""

    labels: NDArray[np.integer[Any]]
    uncertainty: NDArray[np.float32]  # one minus the probability of the label
    mean_uncertainty: float  # over voxels that may be of a structure; NaN without any


class Segmentation(NamedTuple):
    """The probabilities of one subject's classes on the fine grid."""

    source: ImageSource  # the image whose grid label maps have
    inputs: SegmentationInput
    probabilities: NDArray[np.float16]  # (n_classes, i, j, k)
    space: SegmentationSpace
    classes: NDArray[np.integer[Any]]  # labels, background first
    grid: NativeGrid  # of the source
    in_brain: bool = False  # whether all outside the found brain is background
    box: Box | None = None  # of the fine grid, that has probabilities; all if None

    def to_label_map(self) -> Nifti1Image:
        """Return the labels as an image on the grid of the source."""
        return to_image_like(self.labels(), self.source)

    def to_probability_map(self) -> Nifti1Image:
        """Return the probabilities as a 4D float32 image, classes last."""
        shape = (*self.grid.geometry.shape, len(self.probabilities))
        values = np.zeros(shape, dtype=np.float32)
        for index in range(1, len(self.probabilities)):
            values[..., index] = self._interpolate(self.probabilities[index], self.grid)
        if self.in_brain:
            values[~self.space.brain_on(self.inputs, self.grid)] = 0.0
        # The grid may not cover the image: the rest is background.
        values[..., 0] = np.clip(1 - values[..., 1:].sum(axis=-1), 0, 1)
        return to_image_like(values, self.source)

    def to_uncertainty_map(self) -> Nifti1Image:
        """Return one minus the probability of each voxel's label, float32."""
        return to_image_like(self.label().uncertainty, self.source)

    def labels(self) -> NDArray[np.integer[Any]]:
        """Choose the most probable label of each native voxel."""
        return self.label().labels

    def label(self) -> Labelled:
        """Choose the most probable label of each native voxel.

        Of the smallest of uint8, uint16 and int32 that holds all classes.
        """
        view = NativeView.of(self.grid)
        # Cast before indexing: as int64, a large head is another gigabyte.
        small = self.classes.astype(_label_dtype(self.classes))
        labels = np.full_like(view.empty(small.dtype), small[0])
        uncertainty = view.empty(np.float32)
        fine = self._fine_geometry()
        native = view.box_of(fine, self.grid.to_scanner)
        if native is None:
            return Labelled(view.back(labels), view.back(uncertainty), float("nan"))
        near = view.cut(native)
        total = self._interpolate(1 - self.probabilities[0], near)
        if self.in_brain:
            total *= self.space.brain_on(self.inputs, near)
        # The rest is background, also where the grid does not cover the image.
        places = np.nonzero(total > _MAY_BE_CHOSEN)
        to_fine = np.linalg.inv(near.to_scanner @ fine.affine) @ near.geometry.affine
        points = (to_fine[:3, :3] @ places + to_fine[:3, 3:]).T
        indices, probabilities = choose_classes(
            self.probabilities, points, self._find_sigma(near)
        )
        labels[native][places] = small[indices]
        unsure = uncertainty[native]
        unsure[...] = total
        unsure[places] = np.where(indices > 0, 1 - probabilities, total[places])
        unsure.clip(0, 1, out=unsure)
        may_be = unsure[total > _MAY_BE_STRUCTURE]
        mean = float(may_be.mean()) if may_be.size else float("nan")
        return Labelled(view.back(labels), view.back(uncertainty), mean)

    def _interpolate(
        self, values: NDArray[Any], grid: NativeGrid
    ) -> NDArray[np.float32]:
        return self.space.to_native(values, self.inputs, grid, self.box)

    def _fine_geometry(self) -> Geometry:
        """Return the grid of the probabilities, in the space of the template."""
        whole = self.inputs.fine.geometry
        return crop_geometry(whole, self.box) if self.box else whole

    def _find_sigma(self, grid: NativeGrid) -> float:
        """Return the smoothing, in fine voxels, that a coarser native grid needs."""
        to_template = np.linalg.inv(grid.to_scanner) @ grid.geometry.affine
        steps = np.linalg.norm(to_template[:3, :3], axis=0)
        spacing = np.array(self.inputs.fine.geometry.spacing)
        return float(find_sigmas(steps.min() / spacing).max())


@dataclass(frozen=True)
class PredictionSettings:
    """Where and on which grid classes are predicted, and with which modalities."""

    in_brain: bool = False
    grid: str | None = None  # modality on whose grid maps lie; the first if None
    # Held-out Dice with each choice of modalities in the training; any if empty.
    modality_scores: Mapping[str, float] = field(default_factory=dict)


def segment_subjects(
    network: SegmentationNetwork,
    classes: NDArray[np.integer[Any]],
    subjects: Iterable[Subject],
    finish: Callable[[Segmentation], T],
    *,
    settings: PredictionSettings = PredictionSettings(),
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
    fewer = FewerModalities(settings.modality_scores, space.modalities)

    def try_to_read(subject: Subject) -> SegmentationInput | None:
        if is_done(subject):
            return None
        fewer.note(subject)
        inputs = space.read(subject)
        if error := doubts.note(subject, inputs.coarse.quality):
            raise error
        return inputs

    def read(subject: Subject) -> Outcome[SegmentationInput]:
        return _attempt(subject, lambda: try_to_read(subject))

    def segment(outcome: Outcome[SegmentationInput]) -> Outcome[T]:
        subject, inputs = outcome.subject, outcome.result
        if inputs is None:
            return Outcome(subject, error=outcome.error)
        return _attempt(
            subject,
            lambda: finish(_segment(network, classes, settings, subject, inputs)),
        )

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
    fewer.report()


def _segment(
    network: SegmentationNetwork,
    classes: NDArray[np.integer[Any]],
    settings: PredictionSettings,
    subject: Subject,
    inputs: SegmentationInput,
) -> Segmentation:
    """Compute the probabilities of a subject that was read."""
    grid = inputs.grid_of(settings.grid)
    source = subject.images[grid.modality]
    if source is None:  # it was read
        raise ModalityError(f"{subject.source_name}: no {grid.modality} image.")
    near_brain = inputs.near_brain() if settings.in_brain else None
    probabilities, box = network.probabilities(inputs, near_brain)
    return Segmentation(
        source,
        inputs,
        probabilities,
        network.space,
        classes,
        grid,
        settings.in_brain,
        box,
    )


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
