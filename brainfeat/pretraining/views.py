"""The views of a batch of subjects: drawn first, then applied on the device."""

__all__ = ["DrawnGroup", "DrawnViews", "ViewConfig", "ViewGroup", "Views"]

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.masking import draw_block_masks
from brainfeat.pretraining.subjects import SubjectBatch
from brainfeat.slabs.crops import (
    CropBoxes,
    CropConfig,
    pool_patches,
    stack_to_slabs,
)
from brainfeat.slabs.grid import Plane
from brainfeat.slabs.intensity import IntensityChanges, IntensityConfig

ViewKind = Literal["large", "small"]
_LOCAL_CROPS = CropConfig(size=(48, 48), n_slabs=2, area=(0.15, 0.35), jitter=2.0)


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """What the student and the teacher are shown.

    Parameters
    ----------
    global_crops : CropConfig
        The large crops, seen by both.
    local_crops : CropConfig
        The small crops, seen by the student alone.
    n_global, n_local : int
        Crops of each kind a subject.
    planes : tuple of {"axial", "coronal", "sagittal"}
        Planes of the slabs; each step takes the next one. The first is that of the
        checkpoint and of a probe.
    intensity : IntensityConfig
        Changes of intensity, drawn for each crop.
    hidden_modalities : float
        Probability that a modality is hidden from the student's crop. One stays.
    mask_ratio : tuple of float
        Smallest and largest share of the patches of a masked crop that is masked.
    mask_probability : float
        Share of the global crops that is masked.

    Raises
    ------
    ConfigError
        If a number is out of range or a plane unknown.
    """

    global_crops: CropConfig = field(default_factory=CropConfig)
    local_crops: CropConfig = _LOCAL_CROPS
    n_global: int = 2
    n_local: int = 4
    planes: tuple[Plane, ...] = ("axial",)
    intensity: IntensityConfig = field(default_factory=IntensityConfig)
    hidden_modalities: float = 0.3
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    mask_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.n_global < 1 or self.n_local < 0:
            raise ConfigError(
                "n_global must be at least 1 and n_local at least 0, got "
                f"{self.n_global} and {self.n_local}."
            )
        if not self.planes or set(self.planes) - {"axial", "coronal", "sagittal"}:
            raise ConfigError(f"planes: not all known, got {self.planes}.")
        low, high = self.mask_ratio
        for name, value in (
            ("hidden_modalities", self.hidden_modalities),
            ("mask_probability", self.mask_probability),
        ):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected 0 to 1, got {value}.")
        if not 0 < low <= high < 1:
            raise ConfigError(
                f"mask_ratio: expected 0 < low <= high < 1, got {self.mask_ratio}."
            )


@dataclass(frozen=True, eq=False)
class ViewGroup:
    """V views of equal size of each of B subjects, ready for the encoder.

    Parameters
    ----------
    slabs : Tensor of shape (V, B, S, C, H, W)
        Pixels.
    present : bool Tensor of shape (V, B, M)
        Modalities that the subject has.
    visible : bool Tensor of shape (V, B, M)
        Modalities that the student sees.
    fractions : Tensor of shape (V, B, S, h, w)
        Share of each patch that is foreground.
    positions : Tensor of shape (V, B, S)
        Place of each slab along the slab axis of the volume, from 0 to 1.
    masks : bool Tensor of shape (V, B, S, h, w), optional
        Patches that the student does not see.
    truth : Tensor of shape (V, B, S, h, w, R), optional
        Known quantities of each patch.
    """

    slabs: Tensor
    present: Tensor
    visible: Tensor
    fractions: Tensor
    positions: Tensor
    masks: Tensor | None = None
    truth: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Views:
    """All views of a batch.

    Parameters
    ----------
    large : ViewGroup
        The global views.
    small : ViewGroup, optional
        The local views.
    """

    large: ViewGroup
    small: ViewGroup | None = None


@dataclass(frozen=True, eq=False)
class DrawnGroup:
    """The random part of one group of views.

    Parameters
    ----------
    boxes : CropBoxes
        Where the crops lie.
    changes : IntensityChanges
        What happens to their intensities; crop ``b * V + v`` is view v of
        subject b.
    present, visible : bool Tensor of shape (V, B, M)
        Modalities that the subject has, and that the student sees.
    plane : {"axial", "coronal", "sagittal"}
        Plane of the slabs.
    masks : bool Tensor of shape (V, B, S, h, w), optional
        Patches that the student does not see.
    """

    boxes: CropBoxes
    changes: IntensityChanges
    present: Tensor
    visible: Tensor
    plane: Plane
    masks: Tensor | None = None

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
        generator: torch.Generator,
    ) -> "DrawnGroup":
        """Draw the views of one kind.

        Parameters
        ----------
        config : ViewConfig
            Ranges to draw from.
        kind : {"large", "small"}
            Global views, which are masked, or local ones, which are not.
        encoder : EncoderConfig
            Thickness and patch size.
        subjects : SubjectBatch
            Says how many subjects there are and which modalities they have.
        plane : {"axial", "coronal", "sagittal"}
            Plane of the slabs.
        centers : Tensor of shape (B,)
            Centre that the crops of a subject share, as a share of the slab axis.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        DrawnGroup
            Applied with `apply`.
        """
        is_large = kind == "large"
        crops = config.global_crops if is_large else config.local_crops
        n_views = config.n_global if is_large else config.n_local
        boxes = CropBoxes.draw(
            crops,
            subjects.shape,
            centers,
            n_views=n_views,
            thickness=encoder.thickness,
            plane=plane,
            generator=generator,
        )
        n_crops = n_views * len(centers)
        present = _present_in_views(subjects.present.cpu(), n_views)
        visible = _hide_modalities(present, config.hidden_modalities, generator)
        changes = IntensityChanges.draw(
            config.intensity, n_crops, present.shape[2], generator
        )
        masks = _draw_masks(config, encoder, n_crops, generator) if is_large else None
        return cls(boxes, changes, present, visible, plane, masks)

    def apply(self, subjects: SubjectBatch, encoder: EncoderConfig) -> ViewGroup:
        """Cut the views out of the volumes, on the device of the volumes.

        Parameters
        ----------
        subjects : SubjectBatch
            The batch that they were drawn for.
        encoder : EncoderConfig
            Thickness and patch size.

        Returns
        -------
        ViewGroup
            Ready for the encoder.
        """
        device = subjects.volumes.device
        thickness, patch_size = encoder.thickness, encoder.patch_size
        stacks = _crop_acquisitions(self.boxes, subjects.volumes)  # B V M n H W
        n_subjects, n_views = stacks.shape[:2]
        stacks = self.changes.apply(stacks.flatten(0, 1))
        slabs = stack_to_slabs(stacks, thickness)  # BV S C H W
        maps = _crop_maps(self.boxes, subjects, thickness, patch_size)  # B V S h w 1+R
        maps = maps.transpose(0, 1)
        fractions = encoder.count_foreground(maps[..., 0])
        masks = None if self.masks is None else self.masks.to(device)
        if masks is not None and encoder.background == "skipped":
            masks = masks & (fractions > 0)  # what is left out cannot be guessed
        positions = self.boxes.slab_positions(subjects.shape, thickness, self.plane)
        return ViewGroup(
            slabs=slabs.unflatten(0, (n_subjects, n_views)).transpose(0, 1),
            present=self.present.to(device),
            visible=self.visible.to(device),
            fractions=fractions,
            positions=positions.transpose(0, 1).to(device),
            masks=masks,
            truth=None if subjects.truth is None else maps[..., 1:],
        )


@dataclass(frozen=True, eq=False)
class DrawnViews:
    """The random part of all views of a batch.

    Parameters
    ----------
    large : DrawnGroup
        The global views.
    small : DrawnGroup, optional
        The local views.
    """

    large: DrawnGroup
    small: DrawnGroup | None = None

    @classmethod
    def draw(
        cls,
        config: ViewConfig,
        encoder: EncoderConfig,
        subjects: SubjectBatch,
        *,
        step: int,
        generator: torch.Generator,
    ) -> "DrawnViews":
        """Draw the views of one step.

        Parameters
        ----------
        config : ViewConfig
            Ranges to draw from.
        encoder : EncoderConfig
            Thickness and patch size.
        subjects : SubjectBatch
            Says how many subjects there are and which modalities they have.
        step : int
            Chooses the plane.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        DrawnViews
            Applied with `apply`.
        """
        plane = config.planes[step % len(config.planes)]
        centers = _draw_centers(subjects.foreground, plane, generator)
        kinds: tuple[ViewKind, ...] = (
            ("large", "small") if config.n_local else ("large",)
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
        return cls(*groups)

    def apply(self, subjects: SubjectBatch, encoder: EncoderConfig) -> Views:
        """Cut all views out of the volumes, on the device of the volumes.

        Parameters
        ----------
        subjects : SubjectBatch
            The batch that they were drawn for.
        encoder : EncoderConfig
            Thickness and patch size.

        Returns
        -------
        Views
            Ready for the encoder.
        """
        small = None if self.small is None else self.small.apply(subjects, encoder)
        return Views(self.large.apply(subjects, encoder), small)


def _draw_centers(
    foreground: Tensor, plane: Plane, generator: torch.Generator
) -> Tensor:
    """Draw slices of each subject, as shares of the slab axis: (B,).

    A slice is as likely as its foreground is large, so that no step is spent on
    the few voxels of a vertex.
    """
    axis = {"sagittal": 1, "coronal": 2, "axial": 3}[plane]
    others = [other for other in (1, 2, 3) if other != axis]
    areas = foreground.float().sum(dim=others).cpu() + 1e-6  # B n
    slices = torch.multinomial(areas, 1, generator=generator)[:, 0]
    return (slices + 0.5) / areas.shape[1]


def _present_in_views(present: Tensor, n_views: int) -> Tensor:
    """Spread acquisitions over views: (B, A, M) to (V, B, M)."""
    acquisitions = torch.arange(n_views) % present.shape[1]
    return present[:, acquisitions].transpose(0, 1)


def _hide_modalities(
    present: Tensor, probability: float, generator: torch.Generator
) -> Tensor:
    """Hide modalities of shape (V, B, M), but never all that a view has."""
    chance = torch.rand(present.shape, generator=generator)
    chance = chance.masked_fill(~present, -1.0)
    # The luckiest modality stays, so that the student sees something.
    luckiest = chance.argmax(dim=-1, keepdim=True)
    kept = (chance >= probability).scatter(-1, luckiest, True)
    return kept & present


def _draw_masks(
    config: ViewConfig,
    encoder: EncoderConfig,
    n_crops: int,
    generator: torch.Generator,
) -> Tensor:
    height, width = config.global_crops.size
    patch_size = encoder.patch_size
    masks: Tensor = draw_block_masks(
        n_crops,
        (config.global_crops.n_slabs, height // patch_size, width // patch_size),
        ratio=config.mask_ratio,
        probability=config.mask_probability,
        generator=generator,
    ).unflatten(0, (config.n_global, -1))
    return masks


def _crop_acquisitions(boxes: CropBoxes, volumes: Tensor) -> Tensor:
    """Cut view v out of acquisition v modulo A: (B, V, M, n_slices, H, W)."""
    n_acquisitions, n_views = volumes.shape[1], boxes.matrices.shape[1]
    parts = [
        CropBoxes(boxes.matrices[:, first::n_acquisitions], boxes.size).apply(
            volumes[:, first]
        )
        for first in range(min(n_acquisitions, n_views))
    ]
    if len(parts) == 1:
        return parts[0]
    out = parts[0].new_empty(len(volumes), n_views, *parts[0].shape[2:])
    for first, part in enumerate(parts):
        out[:, first::n_acquisitions] = part
    return out


def _crop_maps(
    boxes: CropBoxes, subjects: SubjectBatch, thickness: int, patch_size: int
) -> Tensor:
    """Average foreground and truth over patches: (B, V, S, h, w, 1 + R)."""
    # Means need no more than every second voxel, an eighth of the work.
    factor = 2 if thickness % 2 == patch_size % 2 == 0 else 1
    coarse = boxes.coarsen(factor)
    parts = [subjects.foreground[:, None]]
    if subjects.truth is not None:
        parts.append(subjects.truth)
    pooled = [
        pool_patches(
            coarse.apply(part.float()), thickness // factor, patch_size // factor
        )
        for part in parts
    ]
    return torch.cat(pooled, dim=-1)
