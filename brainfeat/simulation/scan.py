"""One scan of one subject: the voxels that a scanner would store."""

__all__ = ["LABELS", "Scan", "draw_scan", "label_map"]

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.artifacts import Artifacts
from brainfeat.simulation.contrast import Contrast
from brainfeat.simulation.draws import normal
from brainfeat.simulation.foci import PATHOLOGIES
from brainfeat.simulation.lattice import Lattice, sample_maps
from brainfeat.simulation.scanner import Pose, Scanner
from brainfeat.simulation.subjects import Subjects

# Names of a label map's values, from 1 on.
LABELS = (*BRAIN_CLASSES, *PATHOLOGIES)


class Scan(NamedTuple):
    """A stored volume: ``data`` int16 of shape (I, J, K), and its voxels in mm."""

    data: Tensor
    lattice: Lattice


def draw_scan(
    subject: Subjects,
    scanner: Scanner,
    modality: str,
    pose: Pose,
    *,
    generator: torch.Generator,
) -> Scan:
    """Scan one subject.

    Parameters
    ----------
    subject : Subjects
        A batch of one.
    scanner : Scanner
        Machine and protocol.
    modality : {"T1w", "T2w", "FLAIR"}
        What is scanned.
    pose : Pose
        How the head lies in the scanner; the same in all of a subject's scans.
    generator : torch.Generator
        Source of the scan's own randomness.

    Returns
    -------
    Scan
        Intensities as they are stored.
    """
    contrast = Contrast.draw(scanner.contrast, [modality], 1, generator=generator)
    artifacts = Artifacts.draw(scanner.artifacts, 1, 1, generator=generator)
    x, y, z = subject.head_center(pose)[0].tolist()
    lattice = scanner.lattice(modality, (x, y, z), jitter=normal(generator, 4))
    base = subject.base
    # A thick slice is the mean of what lies in it, as far as the base resolves it.
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


def label_map(subject: Subjects, lattice: Lattice, pose: Pose) -> Tensor:
    """Label the voxels of a scan.

    Parameters
    ----------
    subject : Subjects
        A batch of one.
    lattice : Lattice
        Voxels of the scan.
    pose : Pose
        How the head lay in the scanner.

    Returns
    -------
    Tensor of uint8, shape (I, J, K)
        0 outside the brain, else 1 plus the index in `LABELS`.
    """
    labels = subject.base.labels
    if subject.pathology is not None:
        share, index = subject.pathology[0].max(dim=0)
        found = (index + len(BRAIN_CLASSES) + 1).to(labels.dtype)
        labels = torch.where((share > 0.5) & (labels > 0), found, labels)
    grid = subject.locate(lattice, pose).grid
    nearest = sample_maps(labels.float()[None, None], grid, mode="nearest")
    return nearest[0, 0].to(torch.uint8).cpu()
