"""One stored scan of one subject, and its label map."""

__all__ = ["LABELS", "Scan", "draw_scan", "label_map"]

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.artifacts import Artifacts
from brainfeat.simulation.contrast import Contrast
from brainfeat.simulation.foci import PATHOLOGIES
from brainfeat.simulation.lattice import Lattice, sample_maps
from brainfeat.simulation.population import Anatomies
from brainfeat.simulation.random_fields import normal
from brainfeat.simulation.scanner import Pose, Scanner

# Names of the values of a label map, from 1.
LABELS = (*BRAIN_CLASSES, *PATHOLOGIES)


class Scan(NamedTuple):
    """A stored volume: ``data`` int16 of shape (I, J, K), and its voxels in mm."""

    data: Tensor
    lattice: Lattice


def draw_scan(
    subject: Anatomies,
    scanner: Scanner,
    modality: str,
    pose: Pose,
    *,
    generator: Generator,
) -> Scan:
    """Scan a batch of one; `pose` is the same in all scans of a subject."""
    contrast = Contrast.draw(scanner.contrast, [modality], 1, generator=generator)
    artifacts = Artifacts.draw(scanner.artifacts, 1, 1, generator=generator)
    x, y, z = subject.head_center(pose)[0].tolist()
    lattice = scanner.lattice(modality, (x, y, z), jitter=normal(generator, 4))
    base = subject.base
    # A thick slice is a mean over its thickness, at the resolution of the base.
    i, j, k = (
        max(1, int(edge / fine))
        for edge, fine in zip(lattice.spacing, base.lattice.spacing, strict=True)
    )
    stripped = torch.zeros(1, dtype=torch.bool, device=base.device)
    image = contrast.to(base.device).apply(base, subject.pathology, stripped=stripped)
    grid = subject.locate(lattice.subdivided((i, j, k)), pose).grid
    clean = sample_maps(image, grid)
    if (i, j, k) != (1, 1, 1):
        clean = F.avg_pool3d(clean, (i, j, k))
    degraded = artifacts.apply(clean, lattice.spacing)[0, 0]
    stored = (degraded * scanner.scale).round_().clamp_(max=32767)
    return Scan(stored.to(torch.int16).cpu(), lattice)


def label_map(subject: Anatomies, lattice: Lattice, pose: Pose) -> Tensor:
    """Return a uint8 label map: 0 outside the brain, else 1 + index in `LABELS`."""
    labels = subject.base.labels
    if subject.pathology is not None:
        fraction, index = subject.pathology[0].max(dim=0)
        label = (index + len(BRAIN_CLASSES) + 1).to(labels.dtype)
        labels = torch.where((fraction > 0.5) & (labels > 0), label, labels)
    grid = subject.locate(lattice, pose).grid
    nearest = sample_maps(labels.float()[None, None], grid, mode="nearest")
    return nearest[0, 0].to(torch.uint8).cpu()
