"""Random changes of a preprocessed subject: drawn first, then applied."""

__all__ = ["Augmentation"]

from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from brainfeat.slabs.crops import CropBoxes, CropConfig
from brainfeat.slabs.intensity import IntensityChanges, IntensityConfig

# Gentler than for pretraining: what tells classes apart may be small.
_INTENSITY = IntensityConfig(
    gamma=0.15, contrast=0.1, bias=0.1, noise=0.05, blur=0.4, coarse=0.0
)
_ROTATION, _AREA, _ASPECT = 4.0, (0.92, 1.0), 1.04
_IN_BRAIN = 0.5  # least fraction of brain of a voxel in it


@dataclass(frozen=True, eq=False)
class Augmentation:
    """A slight turn, stretch and shift, a mirror image, and another scanner."""

    boxes: CropBoxes
    changes: IntensityChanges

    @classmethod
    def draw(
        cls, shape: tuple[int, int, int], n_modalities: int, generator: Generator
    ) -> Self:
        """Draw the changes of volumes (M, I, J, K) of a shape; all axes are kept."""
        size_k, size_j, size_i = shape[2], shape[1], shape[0]
        config = CropConfig(
            size=(size_j, size_i),
            n_slabs=size_k,
            area=_AREA,
            aspect=_ASPECT,
            rotation=_ROTATION,
            tilt=_ROTATION,
            thickness_scale=_ASPECT,
        )
        boxes = CropBoxes.draw(
            config,
            shape,
            torch.tensor([0.5]),
            n_views=1,
            thickness=1,
            plane="axial",
            generator=generator,
        )
        return cls(boxes, IntensityChanges.draw(_INTENSITY, 1, n_modalities, generator))

    def apply(self, volumes: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
        """Change volumes (M, I, J, K) and their boolean foreground (I, J, K)."""
        stack = torch.cat([volumes, foreground[None].to(volumes)])[None]
        cut = self.boxes.apply(stack)[:, 0]  # 1 M+1 K J I
        brain = cut[0, -1] > _IN_BRAIN
        changed = self.changes.apply(cut[:, :-1])[0]  # M K J I
        return changed.permute(0, 3, 2, 1), brain.permute(2, 1, 0)
