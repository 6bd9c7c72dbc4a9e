"""Random intensity changes of a scanner: drawn first, then applied."""

__all__ = ["IntensityChanges", "IntensityConfig"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.configs import Fraction, NonNegativeFloat, check_fields

_KERNEL_RADIUS = 2  # pixels; covers two standard deviations of the widest blur


@dataclass(frozen=True, kw_only=True)
class IntensityConfig:
    """Strength of each intensity change; 0 switches it off."""

    gamma: NonNegativeFloat = 0.3  # largest log of the exponent
    contrast: NonNegativeFloat = 0.2  # largest log gain, and shift in deviations
    bias: NonNegativeFloat = 0.2  # standard deviation of the log bias field
    noise: NonNegativeFloat = 0.1  # largest standard deviation
    blur: Fraction = 0.8  # largest standard deviation in the plane, pixels
    coarse: Fraction = 0.2  # probability of merging pairs of slices, rows or columns

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class IntensityChanges:
    """One set of changes for each of M modalities of each of N crops."""

    gamma: Tensor  # N M, exponent between the crop's extremes
    gain: Tensor  # N M
    shift: Tensor  # N M, in standard deviations
    bias: Tensor  # N M 3 3 3, control points of the log bias field
    noise: Tensor  # N M, standard deviation
    blur: Tensor  # N M, standard deviation in pixels
    coarse: Tensor  # N, axis whose pairs are merged: 0 slices, 1 rows, 2 columns, or -1
    seed: int  # of the noise

    @classmethod
    def draw(
        cls,
        config: IntensityConfig,
        n_crops: int,
        n_modalities: int,
        generator: torch.Generator,
    ) -> "IntensityChanges":
        """Draw changes for each crop and modality; `generator` is on the CPU."""
        shape = (n_crops, n_modalities)
        signed = 2 * torch.rand(3, *shape, generator=generator) - 1
        positive = torch.rand(2, *shape, generator=generator)
        bias = torch.randn(*shape, 3, 3, 3, generator=generator)
        axis = torch.randint(3, (n_crops,), generator=generator)
        is_coarse = torch.rand(n_crops, generator=generator) < config.coarse
        return cls(
            gamma=(config.gamma * signed[0]).exp(),
            gain=(config.contrast * signed[1]).exp(),
            shift=config.contrast * signed[2],
            bias=config.bias * bias,
            noise=config.noise * positive[0],
            blur=config.blur * positive[1],
            coarse=torch.where(is_coarse, axis, -1),
            seed=int(torch.randint(2**62, (), generator=generator)),
        )

    def select(self, modalities: Sequence[int]) -> "IntensityChanges":
        """Return the changes of the modalities with these indices."""
        names = ("gamma", "gain", "shift", "bias", "noise", "blur")
        selected = {name: getattr(self, name)[:, list(modalities)] for name in names}
        return replace(self, **selected)

    def apply(self, stacks: Tensor) -> Tensor:
        """Change the intensities of normalised crops (N, M, n_slices, H, W)."""
        stacks = _change_contrast(stacks, self)
        stacks = _blur_planes(stacks, self.blur)
        stacks = _merge_pairs(stacks, self.coarse)
        generator = torch.Generator(stacks.device).manual_seed(self.seed)
        noise = torch.randn(
            stacks.shape, generator=generator, device=stacks.device, dtype=stacks.dtype
        )
        return noise.mul_(_per_stack(self.noise, stacks)).add_(stacks)


def _per_stack(values: Tensor, stacks: Tensor) -> Tensor:
    """Reshape values (N, M) to the axes, device and dtype of `stacks`."""
    return values.to(stacks)[:, :, None, None, None]


def _change_contrast(stacks: Tensor, changes: IntensityChanges) -> Tensor:
    low = stacks.amin(dim=(2, 3, 4), keepdim=True)
    span = (stacks.amax(dim=(2, 3, 4), keepdim=True) - low).clamp(min=1e-6)
    unit = (stacks - low).div_(span)  # 0 to 1
    unit = unit.pow_(_per_stack(changes.gamma, stacks))
    field = _interpolate_field(changes.bias.to(stacks), stacks.shape[2:])
    gain = _per_stack(changes.gain, stacks) * span
    # The field multiplies the signal, which is 0 in the background.
    unit = unit.mul_(field.exp_()).mul_(gain)
    return unit.add_(low + _per_stack(changes.shift, stacks))


def _interpolate_field(control: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate control points (N, M, 3, 3, 3) trilinearly."""
    # One product along each axis, the longest last: `F.interpolate` reads eight points
    # for each voxel.
    eye = torch.eye(control.shape[-1]).to(control)[None]
    slices, rows, columns = (
        F.interpolate(eye, size=size, mode="linear", align_corners=True)[0]  # 3 size
        for size in shape
    )
    field = torch.einsum("nmijk,iS,jH->nmSHk", control, slices, rows)
    return field @ columns


def _blur_planes(stacks: Tensor, sigma: Tensor) -> Tensor:
    """Blur along height and width, with a kernel for each crop and modality."""
    if not bool(sigma.any()):
        return stacks
    height, width = stacks.shape[-2:]
    down = _blur_matrices(sigma, height).to(stacks)
    across = _blur_matrices(sigma, width).to(stacks)
    # Matrix products: grouped convolutions are slower for large crops.
    blurred = (stacks.flatten(2, 3) @ across).view(stacks.shape)
    return down.mT[:, :, None] @ blurred


def _blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """Return matrices (N, M, size, size) that blur a line."""
    offsets = torch.arange(-_KERNEL_RADIUS, _KERNEL_RADIUS + 1.0)
    kernels = (-0.5 * (offsets / sigma.clamp(min=0.05)[..., None]).square()).exp()
    kernels = (kernels / kernels.sum(dim=-1, keepdim=True)).flatten(0, 1)  # NM 5
    margin = (_KERNEL_RADIUS, _KERNEL_RADIUS)
    impulses = F.pad(torch.eye(size)[:, None], margin, mode="replicate")
    spread = F.conv1d(impulses, kernels[:, None])  # from, NM, to
    matrices: Tensor = spread.transpose(0, 1).unflatten(0, sigma.shape)
    return matrices


def _merge_pairs(stacks: Tensor, axes: Tensor) -> Tensor:
    """Average pairs of neighbours along the axis of each crop, if it has one."""
    for axis in range(3):
        rows = (axes == axis).nonzero().flatten().to(stacks.device)
        if len(rows) == 0:
            continue
        coarse = stacks[rows]
        window = [1, 1, 1]
        window[axis] = 2
        # The last of an odd number is kept.
        merged = F.avg_pool3d(coarse, window, ceil_mode=True)
        merged = merged.repeat_interleave(2, dim=2 + axis)
        merged = merged.narrow(2 + axis, 0, coarse.shape[2 + axis])
        stacks = stacks.index_copy(0, rows, merged)
    return stacks
