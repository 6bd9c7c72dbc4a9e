"""Scanners: voxel grid, contrast and artifacts of their scans."""

__all__ = ["HEAD_CENTER", "SCANNERS", "Pose", "PoseConfig", "Scanner"]

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from brainfeat.simulation.artifacts import ArtifactConfig
from brainfeat.simulation.contrast import ContrastConfig
from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.random_fields import normal

# Middle of a head without the neck, in MNI152 mm.
HEAD_CENTER = (0.0, -14.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Standard deviations of the position of heads in the scanner."""

    rotation: float = 5.0  # degrees, about each axis
    shift: float = 6.0  # mm


@dataclass(frozen=True, eq=False)
class Pose:
    """Drawn positions of heads, on the device of the generator."""

    matrix: Tensor  # B 4 4: rigid, scanner mm to subject mm

    @classmethod
    def draw(cls, config: PoseConfig, n: int, *, generator: Generator) -> "Pose":
        """Draw `n` poses."""
        angles = torch.deg2rad(config.rotation * normal(generator, n, 3))
        shift = config.shift * normal(generator, n, 3)
        center = torch.tensor(HEAD_CENTER).to(shift)
        matrix = torch.eye(4).to(shift).repeat(n, 1, 1)
        matrix[:, :3, :3] = _rotations(angles)
        rotated = (matrix[:, :3, :3] @ (center + shift)[..., None])[..., 0]
        matrix[:, :3, 3] = center - rotated
        return cls(matrix)


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """Machine and protocol of one site; lengths are in mm."""

    name: str
    orientation: str  # anatomical directions of the stored axes
    # Voxel edges per modality: left-right, posterior-anterior, inferior-superior.
    spacing: Mapping[str, tuple[float, float, float]]
    size: tuple[float, float, float]  # field of view, same order
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)  # relative to the head's
    tilt: float = 0.0  # degrees about the left-right axis
    scale: float = 1000.0  # stored intensity of a value of one
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    artifacts: ArtifactConfig = field(default_factory=ArtifactConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    manufacturer: str = "brainfeat"
    model: str = "simulated"
    field_strength: float = 3.0

    def lattice(
        self, modality: str, head: tuple[float, float, float], *, jitter: Tensor
    ) -> Lattice:
        """Return the voxel grid of a scan in scanner mm, for a head centred at `head`.

        `jitter` (4,) is standard normal: three shifts, and an angle added to the tilt.
        """
        spacing = np.array(self.spacing[modality])
        shape = np.maximum(1, np.round(np.array(self.size) / spacing)).astype(int)
        shift = 3.0 * jitter[:3].double().cpu().numpy()
        angle = np.deg2rad(self.tilt + 3.0 * float(jitter[3]))
        affine = np.eye(4)
        affine[:3, :3] = _about_left_right(angle) @ np.diag(spacing)
        middle = np.array(head) + np.array(self.center) + shift
        affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
        return _reoriented(shape, affine, self.orientation)


SCANNERS = (
    # A sagittal, isotropic 3 T protocol with a flat field and little noise.
    Scanner(
        name="north",
        orientation="PIR",
        spacing={"T1w": (1.0, 1.0, 1.0), "T2w": (1.0, 1.0, 1.0), "FLAIR": (1.2, 1, 1)},
        size=(176.0, 240.0, 228.0),
        center=(0.0, 0.0, -14.0),
        scale=900.0,
        artifacts=ArtifactConfig(
            bias=(0.05, 0.15), noise=(0.015, 0.03), gamma=(0.95, 1.05)
        ),
        manufacturer="Aurora",
        model="Sagitta",
    ),
    # An older 1.5 T machine: thick axial slices, tilted, noisy.
    Scanner(
        name="river",
        orientation="LPS",
        spacing={
            "T1w": (0.94, 0.94, 1.5),
            "T2w": (0.9, 0.9, 3.0),
            "FLAIR": (0.9, 0.9, 3),
        },
        size=(220.0, 238.0, 192.0),
        center=(0.0, 0.0, 2.0),
        tilt=12.0,
        scale=240.0,
        artifacts=ArtifactConfig(
            bias=(0.10, 0.22), noise=(0.04, 0.06), gamma=(0.8, 0.95)
        ),
        manufacturer="Borealis",
        model="Axis 15",
        field_strength=1.5,
    ),
    # A 3 T machine with a strong bias field and a narrow coronal slab.
    Scanner(
        name="summit",
        orientation="RSA",
        spacing={"T1w": (1.0, 1.2, 1.0), "T2w": (0.9, 2.0, 0.9), "FLAIR": (1, 2, 1)},
        size=(192.0, 240.0, 214.0),
        center=(0.0, 1.0, -9.0),
        tilt=-6.0,
        scale=2600.0,
        artifacts=ArtifactConfig(
            bias=(0.20, 0.35), noise=(0.025, 0.04), gamma=(1.1, 1.25)
        ),
        manufacturer="Cirrus",
        model="Corona",
    ),
)


def _rotations(angles: Tensor) -> Tensor:
    """Return rotation matrices (B, 3, 3) of vectors (B, 3), in radians."""
    x, y, z = angles.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    rotations: Tensor = torch.linalg.matrix_exp(skew.reshape(-1, 3, 3))
    return rotations


def _about_left_right(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _reoriented(
    shape: NDArray[np.int64], affine: NDArray[np.float64], orientation: str
) -> Lattice:
    """Permute and flip the axes of a RAS lattice."""
    change = np.zeros((4, 4))
    change[3, 3] = 1.0
    sizes = []
    for new, code in enumerate(orientation):
        pair = next(pair for pair in ("LR", "PA", "IS") if code in pair)
        old = ("LR", "PA", "IS").index(pair)
        sizes.append(int(shape[old]))
        change[old, new] = 1.0 if code == pair[1] else -1.0
        if code == pair[0]:
            change[old, 3] = shape[old] - 1
    i, j, k = sizes
    return Lattice((i, j, k), affine @ change)
