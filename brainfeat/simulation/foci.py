"""White-matter lesions and masses, as unions of ellipsoids."""

__all__ = ["PATHOLOGIES", "Foci"]

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from brainfeat.simulation.anatomy import BRAIN_CLASSES, BaseAnatomy
from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.random_fields import normal, uniform
from brainfeat.simulation.smoothing import smooth

PATHOLOGIES = ("lesion", "edema", "mass", "necrosis")

_MAX_LESIONS = 48
# Distance from a ventricle, in mm, beyond which lesions are rare.
_LESION_REACH = 9.0
# A mass is a union of balls, so that its outline is not a sphere.
_N_LOBES = 5
_MASS_GROWTH = math.log(1.45)  # displacement of the surroundings by a mass


@dataclass(frozen=True, eq=False)
class Foci:
    """Drawn ellipsoids of a batch, in mm of the base."""

    centers: Tensor  # B N 3
    radii: Tensor  # B N 3: semi-axes; absent if zero
    kinds: tuple[str, ...]  # N of `PATHOLOGIES`; a later one covers an earlier one
    push: Tensor  # B: log of the growth about the first centre (mass effect)

    @classmethod
    def draw_lesions(
        cls,
        base: BaseAnatomy,
        load: Tensor,
        *,
        counts: tuple[float, float],
        radii: tuple[float, float],
        generator: Generator,
    ) -> "Foci":
        """Draw lesions around the ventricles: `counts` at a load (B,) of 0 and 1."""
        n = len(load)
        expected = (counts[0] + (counts[1] - counts[0]) * load).clamp(min=0.5)
        number = (expected * uniform(generator, n, low=0.7, high=1.3)).round()
        shown = torch.arange(_MAX_LESIONS, device=generator.device) < number[:, None]
        # Small lesions are many and large ones few.
        low, high = radii
        mean = low + (high - low) * uniform(generator, n, _MAX_LESIONS) ** 2
        shape = torch.exp(0.3 * normal(generator, n, _MAX_LESIONS, 3))
        centers = _draw_sites(_lesion_sites(base), base, (n, _MAX_LESIONS), generator)
        return cls(
            centers,
            mean[..., None] * shape * shown[..., None],
            ("lesion",) * _MAX_LESIONS,
            torch.zeros(n, device=generator.device),
        )

    @classmethod
    def draw_mass(
        cls,
        base: BaseAnatomy,
        severity: Tensor,
        *,
        radii: tuple[float, float],
        generator: Generator,
    ) -> "Foci":
        """Draw a mass with core and oedema; no mass at a severity (B,) of 0."""
        n = len(severity)
        center = _draw_sites(_mass_sites(base), base, (n, 1), generator)
        radius = (radii[0] + (radii[1] - radii[0]) * severity) * (severity > 0)
        radius = radius[:, None, None]
        # Relative to the radius: lobes of oedema, lobes of the mass, necrosis.
        n_others = _N_LOBES - 1
        scales = torch.tensor([2.0, *[1.5] * n_others, 1.0, *[0.75] * n_others, 0.5])
        spread = torch.tensor([0.0, *[0.7] * n_others, 0.0, *[0.4] * n_others])
        scales, spread = scales.to(radius), spread[:, None].to(radius)
        offsets = normal(generator, n, 2 * _N_LOBES, 3) * radius
        offsets = torch.cat([offsets * spread, offsets[:, :1] * 0.15], 1)
        shape = torch.exp(0.15 * normal(generator, n, len(scales), 3))
        kinds = ("edema",) * _N_LOBES + ("mass",) * _N_LOBES + ("necrosis",)
        growth = _MASS_GROWTH * (severity > 0).to(radius)
        return cls(center + offsets, radius * scales[:, None] * shape, kinds, growth)

    def velocity(self, lattice: Lattice, device: torch.device) -> Tensor:
        """Return the velocity (B, 3, I, J, K), in mm, of the mass effect."""
        center = self.centers[:, 0].to(device)
        # The lobes, not the oedema, displace tissue; half as wide as the first lobe.
        width = self.radii[:, 0].mean(-1).to(device).clamp(min=1.0)
        offset = lattice.points(device=device) - center[:, None, None, None]
        reach = offset.square().sum(-1) / (2 * width.square()[:, None, None, None])
        pull = -self.push.to(device)[:, None, None, None] * torch.exp(-reach)
        return (pull[..., None] * offset).movedim(-1, 1)

    def render(self, base: BaseAnatomy) -> Tensor:
        """Render fractions (B, n_pathologies, I, J, K) on the base; their sum <= 1."""
        shape = (len(self.centers), len(PATHOLOGIES), *base.lattice.shape)
        fractions = torch.zeros(shape, device=base.device)
        # One transfer to the host, where slices need plain numbers.
        centers, radii = self.centers.tolist(), self.radii.tolist()
        for subject, (positions, sizes) in enumerate(zip(centers, radii, strict=True)):
            for kind, center, radius in zip(self.kinds, positions, sizes, strict=True):
                if min(radius) > 0:
                    _add_ellipsoid(fractions[subject], kind, center, radius, base)
        return fractions


def _add_ellipsoid(
    fractions: Tensor,
    kind: str,
    center: list[float],
    radius: list[float],
    base: BaseAnatomy,
) -> None:
    """Add one ellipsoid to fractions (n_pathologies, I, J, K), in place."""
    origin, step = base.lattice.affine[:3, 3], base.lattice.spacing
    axes, box = [], []
    for axis in range(3):
        middle = (center[axis] - origin[axis]) / step[axis]
        reach = radius[axis] / step[axis] + 1
        low = max(0, math.floor(middle - reach))
        high = min(base.lattice.shape[axis], math.ceil(middle + reach) + 1)
        if low >= high:
            return
        box.append(slice(low, high))
        positions = torch.arange(low, high, device=fractions.device)
        axes.append((positions - middle) * (step[axis] / radius[axis]))
    i, j, k = axes
    distance = torch.sqrt(i[:, None, None] ** 2 + j[:, None] ** 2 + k**2)
    # Falls over about one voxel at the surface; oedema fades out.
    softness = 0.35 if kind == "edema" else step[0] / min(radius)
    fraction = ((1 - distance) / softness + 0.5).clamp(0, 1)
    in_white = kind in {"lesion", "edema"}
    host = base.named("white_matter") if in_white else base.brain
    fraction = fraction * host[box[0], box[1], box[2]]
    inside = fractions[:, box[0], box[1], box[2]]
    index = PATHOLOGIES.index(kind)
    added = torch.maximum(fraction - inside[index], torch.zeros_like(fraction))
    # The new ellipsoid replaces what it covers.
    inside *= 1 - added
    inside[index] += added


def _lesion_sites(base: BaseAnatomy) -> Tensor:
    white = base.field_maps[BRAIN_CLASSES.index("white_matter")]
    ventricle = base.field_maps[BRAIN_CLASSES.index("ventricle")]
    near = smooth(ventricle, _LESION_REACH / max(base.field_lattice.spacing))
    # The brain stem, below the ventricles, is spared.
    upper = base.field_lattice.points(device=white.device)[..., 2] > 0
    return near * (white > 0.8) * upper


def _mass_sites(base: BaseAnatomy) -> Tensor:
    white = base.field_maps[BRAIN_CLASSES.index("white_matter")]
    points = base.field_lattice.points(device=white.device)
    lateral = (points[..., 0].abs() > 18) & (points[..., 2] > -5)
    return (white > 0.7) * lateral.to(white)


def _draw_sites(
    density: Tensor, base: BaseAnatomy, shape: tuple[int, int], generator: Generator
) -> Tensor:
    """Draw positions (*shape, 3) in mm from a density."""
    weights = density.flatten().to(generator.device).double()
    drawn = torch.multinomial(
        weights, shape[0] * shape[1], replacement=True, generator=generator
    )
    lattice = base.field_lattice
    positions = lattice.points(device=generator.device).reshape(-1, 3)[drawn]
    jitter = uniform(generator, *positions.shape, low=-0.5, high=0.5)
    step = torch.tensor(lattice.spacing).to(positions)
    return (positions + jitter * step).reshape(*shape, 3)
