"""Mean intensity of each tissue in each modality: draw, then apply."""

__all__ = ["MODALITIES", "TISSUE_MEANS", "Contrast", "ContrastConfig"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from brainfeat.exceptions import ModalityError
from brainfeat.simulation.anatomy import CLASSES, BaseAnatomy
from brainfeat.simulation.foci import PATHOLOGIES
from brainfeat.simulation.head import HEAD_CLASSES
from brainfeat.simulation.random_fields import normal, uniform

MODALITIES = ("T1w", "T2w", "FLAIR")

# Mean intensities, brightest brain tissue about 1: cortex is gray_matter.
TISSUE_MEANS: dict[str, dict[str, float]] = {
    "T1w": {
        "csf": 0.20, "gray_matter": 0.62, "white_matter": 0.96, "ventricle": 0.18,
        "medial_temporal": 0.62, "deep_gray": 0.76, "fluid": 0.20,
        "soft_tissue": 0.42, "bone": 0.06, "marrow": 0.55, "fat": 1.10,
        "lesion": 0.58, "edema": 0.55, "mass": 0.72, "necrosis": 0.25,
    },
    "T2w": {
        "csf": 1.10, "gray_matter": 0.56, "white_matter": 0.38, "ventricle": 1.15,
        "medial_temporal": 0.60, "deep_gray": 0.46, "fluid": 1.10,
        "soft_tissue": 0.28, "bone": 0.05, "marrow": 0.40, "fat": 0.72,
        "lesion": 0.80, "edema": 0.88, "mass": 0.72, "necrosis": 1.05,
    },
    "FLAIR": {
        "csf": 0.14, "gray_matter": 0.62, "white_matter": 0.47, "ventricle": 0.10,
        "medial_temporal": 0.67, "deep_gray": 0.54, "fluid": 0.14,
        "soft_tissue": 0.34, "bone": 0.05, "marrow": 0.42, "fat": 0.80,
        "lesion": 1.00, "edema": 0.95, "mass": 0.78, "necrosis": 0.35,
    },
}  # fmt: skip
# Factor on the unexplained T1w intensity; where T1w is brighter, T2w is darker.
_DETAIL_GAINS = {"T1w": 1.0, "T2w": -0.45, "FLAIR": -0.25}
_TIED = (("csf", "ventricle", "fluid"), ("gray_matter", "medial_temporal", "deep_gray"))


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Variation of the contrast between scans."""

    # Relative deviation of each tissue's mean from its modality's.
    jitter: float = 0.04
    # Fraction of scans with random intensities, whatever the modality.
    random_fraction: float = 0.0
    # Range of the factor on unexplained T1w intensity.
    detail: tuple[float, float] = (0.7, 1.0)


@dataclass(frozen=True, eq=False)
class Contrast:
    """Drawn contrasts of a batch, on the device of the generator."""

    means: Tensor  # B M n_tissues: of `anatomy.CLASSES`, then `foci.PATHOLOGIES`
    detail: Tensor  # B M: factor on the unexplained T1w intensity of the base

    @classmethod
    def draw(
        cls,
        config: ContrastConfig,
        modalities: Sequence[str],
        n: int,
        *,
        generator: Generator,
    ) -> "Contrast":
        """Draw the contrasts of `n` subjects, one volume per modality."""
        if unknown := sorted(set(modalities) - set(MODALITIES)):
            raise ModalityError(
                f"expected modalities among {MODALITIES}, got {unknown}."
            )
        shape = (n, len(modalities))
        names = (*CLASSES, *PATHOLOGIES)
        usual = torch.tensor([[TISSUE_MEANS[m][c] for c in names] for m in modalities])
        usual = usual.to(generator.device)
        noise = normal(generator, *shape, len(names))
        means = (usual * (1 + config.jitter * noise)).clamp(min=0.02)
        is_random = uniform(generator, *shape, 1) < config.random_fraction
        means = torch.where(is_random, _random_means(names, shape, generator), means)
        low, high = config.detail
        gains = torch.tensor([_DETAIL_GAINS[m] for m in modalities])
        detail = uniform(generator, *shape, low=low, high=high) * gains.to(means)
        either_sign = uniform(generator, *shape, low=-0.7, high=0.7)
        return cls(means, torch.where(is_random[..., 0], either_sign, detail))

    def to(self, device: torch.device) -> "Contrast":
        """Move the parameters to a device."""
        return Contrast(self.means.to(device), self.detail.to(device))

    def apply(
        self, base: BaseAnatomy, pathology: Tensor | None, *, stripped: Tensor
    ) -> Tensor:
        """Paint intensities (B, M, I, J, K) on the base, before deformation.

        They are linear in the tissue fractions, so painting before deforming equals
        painting after it, with one interpolation instead of one per tissue.
        `pathology` is (B, n_pathologies, I, J, K); `stripped` (B,) removes the head.
        """
        n_classes = len(CLASSES)
        head = torch.tensor(
            [c in HEAD_CLASSES for c in CLASSES], device=stripped.device
        )
        shown = ~(stripped[:, None] & head)  # B C
        means = self.means[..., :n_classes] * shown[:, None]
        image = means.flatten(0, 1) @ base.maps.flatten(1)  # B*M voxels
        image = image.reshape(*means.shape[:2], *base.lattice.shape)
        for subject, out in enumerate(image):
            detail = base.brain_detail if stripped[subject] else base.detail
            out.add_(self.detail[subject][:, None, None, None] * detail)
        image = image.clamp_(min=0)
        if pathology is None:
            return image
        pathology_means = self.means[..., n_classes:]
        painted: Tensor = torch.einsum("bmp,bpijk->bmijk", pathology_means, pathology)
        return image * (1 - pathology.sum(1, keepdim=True)) + painted


def _random_means(
    names: Sequence[str], shape: tuple[int, int], generator: Generator
) -> Tensor:
    """Draw random intensities; those of `_TIED` tissues stay similar."""
    means = uniform(generator, *shape, len(names), low=0.05)
    for group in _TIED:
        first, *rest = (names.index(name) for name in group)
        for other in rest:
            means[..., other] = 0.75 * means[..., first] + 0.25 * means[..., other]
    return means
