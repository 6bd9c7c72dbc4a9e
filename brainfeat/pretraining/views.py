"""Views of a batch of subjects: drawn on the CPU, applied on the training device.

References
----------
.. [1] Bao et al., "BEiT: BERT pre-training of image transformers",
   arXiv 2106.08254.
"""

__all__ = [
    "DrawnGroup",
    "DrawnViews",
    "ViewConfig",
    "ViewGroup",
    "Views",
    "draw_block_masks",
    "mask_weights",
]

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from brainfeat.configs import (
    Fraction,
    NonNegativeInt,
    PositiveInt,
    Relation,
    check_fields,
)
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.patch_maps import crop_acquisitions, crop_maps
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.slabs.crops import CropBoxes, CropConfig, stack_to_slabs
from brainfeat.slabs.grid import Plane, SlabGrid
from brainfeat.slabs.intensity import IntensityChanges, IntensityConfig

Boxes = Literal["own", "shared", "whole"]
ViewKind = Literal["global", "local"]
_LOCAL_CROPS = CropConfig(size=(48, 48), n_slabs=2, area=(0.15, 0.35), jitter=2.0)


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How the views of student and teacher are cropped, augmented and masked.

    Raises ConfigError if a number is out of range or a plane unknown.
    """

    # Large crops are encoded by student and teacher, small ones by the student only.
    global_crops: CropConfig = field(default_factory=CropConfig)
    local_crops: CropConfig = _LOCAL_CROPS
    n_global: PositiveInt = 2  # crops per subject
    # Each large crop has its own box, all of a subject share one, so that their patches
    # correspond, or all are the whole volume as it is.
    global_boxes: Boxes = "own"
    n_local: NonNegativeInt = 4
    # Of the slabs; each step takes the next one. Checkpoint and probe use the first.
    planes: tuple[Plane, ...] = ("axial",)
    intensity: IntensityConfig = field(default_factory=IntensityConfig)  # of each crop
    # Probability for each modality of the student's crop; at least one stays visible.
    hidden_modalities: Fraction = 0.3
    mask_ratio: tuple[Fraction, Fraction] = (0.1, 0.5)  # of patches, in a masked crop
    mask_probability: Fraction = 0.5  # fraction of the global crops that are masked

    def __post_init__(self) -> None:
        check_fields(self, _relations, allow_lists=True)


def _relations(config: ViewConfig) -> Iterator[Relation]:
    low, high = config.mask_ratio
    yield bool(config.planes), "planes", "at least one plane"
    yield 0 < low <= high < 1, "mask_ratio", "0 < low <= high < 1"


@dataclass(frozen=True, eq=False)
class ViewGroup:
    """V views of equal size of each of B subjects, ready for the encoder."""

    slabs: Tensor  # V B S C H W
    present: Tensor  # bool V B M: modalities that the subject has
    visible: Tensor  # bool V B M: modalities that are shown to the student
    fractions: Tensor  # V B S h w: foreground fraction of each patch
    positions: Tensor  # V B S: of each slab along the slab axis, from 0 to 1
    masks: Tensor | None = None  # bool V B S h w: patches hidden from the student
    targets: Tensor | None = None  # V B S h w R: anatomy targets of each patch
    known: Tensor | None = None  # bool B R: targets that are known; None for all


@dataclass(frozen=True, eq=False)
class Views:
    """The global views of a batch and, unless None, the local ones.

    `reference` is the clean acquisition in the crop that the global views share.
    """

    global_views: ViewGroup
    local_views: ViewGroup | None = None
    reference: ViewGroup | None = None


@dataclass(frozen=True, eq=False)
class DrawnGroup:
    """Random parameters of one group of views, and its modalities."""

    boxes: CropBoxes
    # Crop b * V + v is view v of subject b; None for no change.
    changes: IntensityChanges | None
    present: Tensor  # bool V B M
    visible: Tensor  # bool V B M
    plane: Plane
    masks: Tensor | None = None  # bool V B S h w

    @classmethod
    def draw(
        cls,
        config: ViewConfig,
        kind: ViewKind,
        encoder: EncoderConfig,
        subjects: SubjectBatch,
        *,
        plane: Plane,
        centers: Tensor,
        generator: Generator,
    ) -> "DrawnGroup":
        """Draw the views of one kind; global ones are masked.

        `centers` of shape (B,) are fractions of the slab axis that the crops of a
        subject share.
        """
        is_global = kind == "global"
        n_views = config.n_global if is_global else config.n_local
        boxes_kind = config.global_boxes if is_global else "own"
        if boxes_kind == "whole":
            n = (len(centers), n_views)
            boxes = CropBoxes.whole(subjects.shape, n, plane=plane)
        else:
            boxes = CropBoxes.draw(
                config.global_crops if is_global else config.local_crops,
                subjects.shape,
                centers,
                n_views=n_views if boxes_kind == "own" else 1,
                thickness=encoder.thickness,
                plane=plane,
                generator=generator,
            )
            boxes = boxes if boxes_kind == "own" else boxes.repeat(n_views)
        n_crops = n_views * len(centers)
        present = _present_in_views(subjects.present.cpu(), n_views)
        visible = _hide_modalities(present, config.hidden_modalities, generator)
        changes = IntensityChanges.draw(
            config.intensity, n_crops, present.shape[2], generator
        )
        masks = None
        if is_global:
            masks = _draw_masks(config, encoder, boxes, generator)
        return cls(boxes, changes, present, visible, plane, masks)

    def unchanged(self, present: Tensor) -> "DrawnGroup":
        """Return one view in the first box, of modalities (B, A, M), as it is."""
        shown = present[:, 0].cpu()[None]
        return DrawnGroup(self.boxes.repeat(1), None, shown, shown, self.plane)

    def apply(self, subjects: SubjectBatch, encoder: EncoderConfig) -> ViewGroup:
        """Cut the views out of the volumes, on the device of the volumes."""
        device, thickness = subjects.volumes.device, encoder.thickness
        stacks = crop_acquisitions(self.boxes, subjects.volumes)  # B V M n H W
        n_subjects, n_views = stacks.shape[:2]
        stacks = stacks.flatten(0, 1)
        if self.changes is not None:
            stacks = self.changes.apply(stacks)
        slabs = stack_to_slabs(stacks, thickness)  # BV S C H W
        fractions, targets = crop_maps(self.boxes, subjects, encoder)
        masks = None if self.masks is None else self.masks.to(device)
        if masks is not None and encoder.background == "skipped":
            masks = masks & (fractions > 0)  # skipped patches have no tokens
        positions = self.boxes.slab_positions(subjects.shape, thickness, self.plane)
        return ViewGroup(
            slabs=slabs.unflatten(0, (n_subjects, n_views)).transpose(0, 1),
            present=self.present.to(device),
            visible=self.visible.to(device),
            fractions=fractions,
            positions=positions.transpose(0, 1).to(device),
            masks=masks,
            targets=targets,
            known=subjects.known,
        )


@dataclass(frozen=True, eq=False)
class DrawnViews:
    """Random parameters of all views of a batch; all but the first may be None."""

    global_views: DrawnGroup
    local_views: DrawnGroup | None = None
    reference: DrawnGroup | None = None

    @classmethod
    def draw(
        cls,
        config: ViewConfig,
        encoder: EncoderConfig,
        subjects: SubjectBatch,
        *,
        step: int,
        generator: Generator,
    ) -> "DrawnViews":
        """Draw the views of one step, whose number chooses the plane."""
        plane = config.planes[step % len(config.planes)]
        centers = _draw_centers(subjects.foreground[:, 0], plane, generator)
        kinds: tuple[ViewKind, ...] = (
            ("global", "local") if config.n_local else ("global",)
        )
        groups = [
            DrawnGroup.draw(
                config,
                kind,
                encoder,
                subjects,
                plane=plane,
                centers=centers,
                generator=generator,
            )
            for kind in kinds
        ]
        drawn = cls(*groups)
        if subjects.reference is None or config.global_boxes == "own":
            return drawn
        present = subjects.reference.present
        return replace(drawn, reference=drawn.global_views.unchanged(present))

    def apply(self, subjects: SubjectBatch, encoder: EncoderConfig) -> Views:
        """Cut all views out of the volumes, on the device of the volumes."""
        views = Views(self.global_views.apply(subjects, encoder))
        if self.local_views is not None:
            views = replace(
                views, local_views=self.local_views.apply(subjects, encoder)
            )
        if self.reference is None or subjects.reference is None:
            return views
        reference = self.reference.apply(subjects.reference, encoder)
        return replace(views, reference=reference)


def _draw_centers(foreground: Tensor, plane: Plane, generator: Generator) -> Tensor:
    """Draw a slice of each subject, as a fraction of the slab axis: (B,).

    Slices are drawn in proportion to their foreground area, so that few crops show
    only the edge of the head. Every fourth row tells the area.
    """
    axis = SlabGrid(thickness=1, plane=plane).axes[0] + 1
    others = [other for other in (1, 2, 3) if other != axis]
    sample = foreground.unfold(others[0], 1, 4)[..., 0]  # a view of these rows
    areas = sample.sum(dim=others, dtype=torch.float32).cpu() + 1e-6  # B n
    slices = torch.multinomial(areas, 1, generator=generator)[:, 0]
    return (slices + 0.5) / areas.shape[1]


def _present_in_views(present: Tensor, n_views: int) -> Tensor:
    """Distribute acquisitions over views: (B, A, M) to (V, B, M)."""
    acquisitions = torch.arange(n_views) % present.shape[1]
    return present[:, acquisitions].transpose(0, 1)


def _hide_modalities(
    present: Tensor, probability: float, generator: Generator
) -> Tensor:
    """Return which modalities (V, B, M) stay visible; each view keeps at least one."""
    draws = torch.rand(present.shape, generator=generator)
    draws = draws.masked_fill(~present, -1.0)
    largest = draws.argmax(dim=-1, keepdim=True)  # always kept
    kept = (draws >= probability).scatter(-1, largest, True)
    return kept & present


def _draw_masks(
    config: ViewConfig, encoder: EncoderConfig, boxes: CropBoxes, generator: Generator
) -> Tensor:
    n_slices, height, width = boxes.size
    patch_size = encoder.patch_size
    masks: Tensor = draw_block_masks(
        boxes.matrices.shape[:2].numel(),
        (n_slices // encoder.thickness, height // patch_size, width // patch_size),
        ratio=config.mask_ratio,
        probability=config.mask_probability,
        generator=generator,
    ).unflatten(0, (config.n_global, -1))
    return masks


def draw_block_masks(
    n_views: int,
    grid: tuple[int, int, int],
    *,
    ratio: tuple[float, float],
    probability: float,
    generator: Generator,
) -> Tensor:
    """Draw masks (B, S, h, w) made of boxes of neighbouring patches [1]_.

    A fraction `probability` of the B views, rounded to whole views, is masked; their
    masked fractions are spread evenly over the range `ratio`, in random order.
    """
    masks = torch.zeros(n_views, *grid, dtype=torch.bool)
    n_masked_views = round(n_views * probability)
    order = torch.randperm(n_views, generator=generator)
    n_patches = math.prod(grid)
    for position, view in enumerate(order[:n_masked_views].tolist()):
        low, high = (
            ratio[0] + (ratio[1] - ratio[0]) * (position + end) / n_masked_views
            for end in (0, 1)
        )
        fraction = low + (high - low) * _uniform(generator)
        n_masked = min(max(1, round(fraction * n_patches)), n_patches - 1)
        _fill_with_boxes(masks[view], n_masked, generator)
    return masks


def mask_weights(masks: Tensor) -> Tensor:
    """Weight the patches of ``tokens[masks]`` so that all masked views count the same.

    One over the number of masked patches of the view, over B, as in DINOv2: shape (M,).
    """
    n_masked = masks.flatten(1).sum(dim=1).clamp(min=1)  # B
    weights = 1.0 / (n_masked * len(masks)).float()
    return weights.view(-1, 1, 1, 1).expand(masks.shape)[masks]


def _fill_with_boxes(mask: Tensor, n_masked: int, generator: Generator) -> None:
    """Add boxes to one mask of shape (S, h, w) until `n_masked` patches are hidden."""
    missing = n_masked
    while missing > 0:
        box = mask[_draw_box(mask.shape, missing, generator)]
        hidden = box.clone()
        free = (~box).flatten().nonzero().flatten()
        # The last box is cut to the exact number.
        hidden.view(-1)[free[:missing]] = True
        missing -= min(len(free), missing)
        box.copy_(hidden)


def _draw_box(
    grid: torch.Size, n_patches: int, generator: Generator
) -> tuple[slice, slice, slice]:
    """Draw a box of at most about `n_patches` patches, of random shape and position."""
    depth = 1 + int(_uniform(generator) * grid[0])
    area = max(1.0, (0.3 + 0.7 * _uniform(generator)) * n_patches / depth)
    aspect = math.exp(math.log(3.0) * (2 * _uniform(generator) - 1))
    sizes = (depth, round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect)))
    slices = []
    for size, extent in zip(sizes, grid, strict=True):
        length = min(max(1, size), extent)
        start = int(_uniform(generator) * (extent - length + 1))
        slices.append(slice(start, start + length))
    return slices[0], slices[1], slices[2]


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))
