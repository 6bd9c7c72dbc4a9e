"""Intensities of the labels of a head, drawn a label at a time."""

__all__ = ["HeadContrast"]

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from brainfeat.simulation.contrast import TISSUE_MEANS
from brainfeat.simulation.head_labels import HeadLabels
from brainfeat.simulation.smoothing import smooth

# The tissue whose typical intensity labels have, its deviation between scans, and that
# between structures of a scan.
_LOOKS = {
    "white": ("white_matter", 0.04, 0.02),
    "cortex": ("gray_matter", 0.05, 0.02),
    "nucleus": ("gray_matter", 0.05, 0.05),
    "deep": ("deep_gray", 0.05, 0.03),
    "fluid": ("csf", 0.07, 0.05),
}
_TISSUES = ("white_matter", "gray_matter", "deep_gray", "csf")
_OUTSIDE = (0.03, 0.3, 0.6, 1.1)  # bone, muscle, other tissue and fat, in any order
_OUTSIDE_SD = 0.1
_RANDOM = (0.05, 1.2)  # range of means in a random contrast
_TEXTURE = 0.06  # largest standard deviation of the texture of a label
_TEXTURE_WIDTH = (0.3, 1.2)  # voxels
_BLUR = (0.35, 0.8)  # voxels
_SCALE = (420.0, 840.0)  # of white matter in T1w


@dataclass(frozen=True, eq=False)
class HeadContrast:
    """A drawn contrast."""

    means: NDArray[np.float32]  # by label; air is zero
    textures: NDArray[np.float32]  # standard deviation by label
    texture_width: float
    blur: float
    scale: float
    seed: int  # of the texture

    @classmethod
    def draw(
        cls,
        modality: str,
        labels: NDArray[np.int16],
        table: HeadLabels,
        generator: Generator,
        *,
        is_random: bool = False,
    ) -> "HeadContrast":
        """Draw the contrast of a scan of the present labels (in order)."""
        typical = {name: TISSUE_MEANS[modality][name] for name in _TISSUES}
        shifts = {name: generator.normal() for name in _TISSUES}
        if is_random:
            drawn = generator.uniform(*_RANDOM, size=3)
            white, gray, fluid = (float(value) for value in drawn)
            values = (white, gray, (white + gray) / 2, fluid)
            typical = dict(zip(_TISSUES, values, strict=True))
        means = np.zeros(int(labels.max()) + 1, np.float32)
        textures = np.zeros_like(means)
        looks: dict[object, tuple[float, float]] = {}
        for label in labels[labels > 0].tolist():
            tissue = table.tissues.get(label)
            if (key := tissue or label) not in looks:
                if tissue is None:
                    mean = generator.choice(_OUTSIDE) + generator.normal(0, _OUTSIDE_SD)
                else:
                    name, deviation, own = _LOOKS[tissue[0]]
                    mean = typical[name] + deviation * shifts[name]
                    mean += generator.normal(0, own)
                looks[key] = max(mean, 0.01), generator.uniform(0, _TEXTURE)
            means[label], textures[label] = looks[key]
        return cls(
            means,
            textures,
            texture_width=generator.uniform(*_TEXTURE_WIDTH),
            blur=generator.uniform(*_BLUR),
            scale=generator.uniform(*_SCALE),
            seed=int(generator.integers(2**31)),
        )

    def apply(self, labels: NDArray[np.int16]) -> NDArray[np.int16]:
        """Paint the intensities of a label map."""
        image = smooth(torch.from_numpy(self.means[labels]), self.blur)
        noise = np.random.default_rng(self.seed).standard_normal(
            labels.shape, dtype=np.float32
        )
        texture = smooth(torch.from_numpy(noise), self.texture_width)
        texture *= torch.from_numpy(self.textures[labels]) / texture.std()
        painted = ((image + texture) * self.scale).clamp(min=0)
        return painted.numpy().astype(np.int16)
