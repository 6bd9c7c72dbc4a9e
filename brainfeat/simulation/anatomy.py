"""The base anatomy, from which all subjects of a cohort are deformed."""

__all__ = ["BRAIN_CLASSES", "CLASSES", "BaseAnatomy"]

from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from brainfeat.exceptions import InputError
from brainfeat.simulation.head import HEAD_CLASSES, build_head, classify_head
from brainfeat.simulation.lattice import Lattice, conform_volumes, sample_maps
from brainfeat.simulation.structures import (
    TissueFractions,
    cluster_tissue,
    sharpen_fractions,
    split_structures,
    structure_modes,
)

if TYPE_CHECKING:
    from brainfeat.volume import Volume


BRAIN_CLASSES = (
    "csf",
    "gray_matter",
    "white_matter",
    "ventricle",
    "medial_temporal",
    "deep_gray",
)
CLASSES = BRAIN_CLASSES + HEAD_CLASSES

# Box in MNI152 mm that holds a head to the upper neck, with room to move.
_ORIGIN = (-96.0, -132.0, -126.0)
_SIZE = (192.0, 248.0, 236.0)
# Group-average tissue maps, to this power, are about as sharp as one subject's.
_TEMPLATE_SHARPNESS = 2.0
# Deep grey matter is brighter than cortex, so part of it is classified as white: in
# the template's probabilities, and more so by intensity.
_TEMPLATE_DEEP_GAIN = 2.0
_CLUSTER_DEEP_GAIN = 4.0
# Corners of the MNI152 2009a brain, in mm.
_TEMPLATE_BOX = ((-70.0, -105.0, -70.0), (70.0, 71.0, 80.0))
_KEYS = ("maps", "detail", "affine")  # of a file
_FIELD_SPACING = 4.0  # mm, of the lattice that deformations are computed on


@dataclass(frozen=True, eq=False)
class BaseAnatomy:
    """Tissue and structure maps of one head in MNI152 space.

    `maps` (n_classes, I, J, K) holds the fraction of each voxel that each of `CLASSES`
    fills, the rest being air; `detail` (I, J, K) the T1w intensity that the classes do
    not explain, in units of white matter.
    """

    maps: Tensor
    detail: Tensor
    lattice: Lattice

    @classmethod
    def from_t1(
        cls,
        volume: "Volume",
        mask: "Volume",
        *,
        spacing: float = 1.0,
        template_to_scanner: NDArray[np.float64] | None = None,
    ) -> "BaseAnatomy":
        """Derive a base from a T1w volume and its brain mask.

        A missing head is built. Without `template_to_scanner`, an affine from MNI152
        to scanner mm, the bounding boxes of the two brains are matched.
        """
        if not mask.data.any():
            raise InputError("expected a brain mask with voxels above zero, got none.")
        if template_to_scanner is None:
            template_to_scanner = _match_boxes(mask)
        lattice = Lattice.spanning(_ORIGIN, _SIZE, spacing)
        binary = replace(mask, data=mask.data > 0)
        t1, brain = conform_volumes([volume, binary], lattice, template_to_scanner)
        t1 = t1.clamp(min=0)
        fractions, corrected = cluster_tissue(t1, brain, spacing=spacing)
        structures = split_structures(fractions, lattice, deep_gain=_CLUSTER_DEEP_GAIN)
        return _assemble(corrected, brain, structures, lattice)

    @classmethod
    def from_template(
        cls,
        t1: "Volume",
        gray_matter: "Volume",
        white_matter: "Volume",
        mask: "Volume",
        *,
        spacing: float = 1.0,
    ) -> "BaseAnatomy":
        """Derive a base from the T1w average and tissue probabilities of MNI152."""
        lattice = Lattice.spanning(_ORIGIN, _SIZE, spacing)
        intensity, gray, white, brain = conform_volumes(
            [t1, gray_matter, white_matter, mask], lattice
        )
        gray, white = gray * brain, white * brain
        csf = (brain - gray - white).clamp(min=0)
        fractions = sharpen_fractions(
            TissueFractions(csf, gray, white), _TEMPLATE_SHARPNESS
        )
        structures = split_structures(fractions, lattice, deep_gain=_TEMPLATE_DEEP_GAIN)
        intensity = intensity / intensity[white > 0.9].mean()
        return _assemble(intensity, brain, structures, lattice)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "BaseAnatomy":
        """Read a base that `save` wrote, to the CPU."""
        with safe_open(path, framework="pt") as file:
            if set(file.keys()) != {*_KEYS}:
                raise InputError(
                    f"{path}: expected a base anatomy with maps, detail and affine, "
                    f"got {sorted(file.keys())}."
                )
            maps, detail, affine = (file.get_tensor(key) for key in _KEYS)
        i, j, k = detail.shape
        lattice = Lattice((i, j, k), affine.numpy())
        return cls(maps.float() / 255, detail.float(), lattice)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write a safetensors file, the maps as 8-bit integers."""
        tensors = {
            "maps": (self.maps * 255).round().to(torch.uint8).cpu().contiguous(),
            "detail": self.detail.half().cpu().contiguous(),
            "affine": torch.as_tensor(self.lattice.affine.copy()),
        }
        save_file(tensors, path)
        return Path(path)

    def to(self, device: torch.device | str) -> "BaseAnatomy":
        """Move the maps to a device."""
        return replace(self, maps=self.maps.to(device), detail=self.detail.to(device))

    @property
    def device(self) -> torch.device:
        """Device of the maps."""
        return self.maps.device

    @cached_property
    def labels(self) -> Tensor:
        """Label map, uint8 of shape (I, J, K): 0, or 1 + index in `BRAIN_CLASSES`."""
        brain = self.maps[: len(BRAIN_CLASSES)]
        largest, index = brain.max(dim=0)
        return torch.where(largest > self.maps.sum(0) / 3, index + 1, 0).to(torch.uint8)

    @cached_property
    def brain(self) -> Tensor:
        """Fraction of each voxel that is brain, of shape (I, J, K)."""
        return self.maps[: len(BRAIN_CLASSES)].sum(0)

    @cached_property
    def brain_detail(self) -> Tensor:
        """Unexplained T1w intensity in the brain only, of shape (I, J, K)."""
        return self.detail * self.brain

    @cached_property
    def field_lattice(self) -> Lattice:
        """Coarse lattice on which deformations are computed."""
        return self.lattice.coarsened(_FIELD_SPACING)

    @cached_property
    def field_maps(self) -> Tensor:
        """Fractions of `BRAIN_CLASSES` on the coarse lattice: (n_classes, I, J, K)."""
        factor = max(1, round(_FIELD_SPACING / max(self.lattice.spacing)))
        pooled = F.avg_pool3d(self.maps[: len(BRAIN_CLASSES)], factor)
        affine = self.lattice.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.full(3, (factor - 1) / 2)
        affine[:3, :3] *= factor
        i, j, k = pooled.shape[1:]
        points = self.field_lattice.points(device=self.device)
        grid = Lattice((i, j, k), affine).normalize(points)
        return sample_maps(pooled[None], grid[None])[0]

    @cached_property
    def modes(self) -> Tensor:
        """Velocities of the modes of `structures.MODES` on the coarse lattice."""
        structures = dict(zip(BRAIN_CLASSES, self.field_maps, strict=True))
        return structure_modes(structures, self.field_lattice)

    def named(self, name: str) -> Tensor:
        """Return the map of one class, of shape (I, J, K)."""
        return self.maps[CLASSES.index(name)]


def _assemble(
    t1: Tensor, brain: Tensor, structures: dict[str, Tensor], lattice: Lattice
) -> BaseAnatomy:
    """Add the head and the intensity that the classes do not explain."""
    own_head = _has_head(t1, brain)
    head = classify_head(t1, brain) if own_head else build_head(brain, lattice)
    fractions = structures | head
    maps = torch.stack([fractions[name] for name in CLASSES])
    maps = maps.clamp(min=0)
    maps = maps / maps.sum(0).clamp(min=1)
    known = (maps > 0).any(0) if own_head else brain > 0
    detail = (t1 - _fit_intensity(t1, maps)) * known
    return BaseAnatomy(_close_box(maps), detail.clamp(-0.4, 0.4), lattice)


def _has_head(t1: Tensor, brain: Tensor) -> bool:
    outside = (t1 > 0.2) & (brain == 0)
    return bool(outside.sum() > 0.2 * (brain > 0.5).sum())


def _fit_intensity(t1: Tensor, maps: Tensor) -> Tensor:
    flat = maps.flatten(1)  # C V
    gram = flat @ flat.T
    ridge = 1e-3 * gram.diagonal().max() * torch.eye(len(gram))
    means: Tensor = torch.linalg.solve(gram + ridge, flat @ t1.flatten())
    return (means @ flat).reshape(t1.shape)


def _close_box(maps: Tensor) -> Tensor:
    """Set the outer voxels to air, except below, at the neck."""
    maps = maps.clone()
    maps[:, [0, -1]] = 0
    maps[:, :, [0, -1]] = 0
    maps[:, :, :, -1] = 0
    return maps


def _match_boxes(mask: "Volume") -> NDArray[np.float64]:
    """Return the affine from MNI152 to scanner mm that matches two brains' boxes."""
    inside = np.argwhere(mask.data > 0)
    corners = np.array([inside.min(0), inside.max(0)])
    affine = mask.geometry.affine
    ends = corners @ affine[:3, :3].T + affine[:3, 3]
    low, high = ends.min(0), ends.max(0)
    template_low, template_high = np.array(_TEMPLATE_BOX)
    scale = (high - low) / (template_high - template_low)
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = low - scale * template_low
    return matrix
