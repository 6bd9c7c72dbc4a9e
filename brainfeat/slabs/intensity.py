"""Changes of intensity that a scanner might cause: drawn first, then applied."""

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
    """Strength of each change; 0 switches one off.

    Parameters
    ----------
    gamma : float
        Largest absolute logarithm of the exponent of the intensity.
    contrast : float
        Largest absolute logarithm of the gain, and largest shift, in standard
        deviations of the foreground.
    bias : float
        Standard deviation of the logarithm of the bias field.
    noise : float
        Largest standard deviation of the noise.
    blur : float
        Largest standard deviation of the blur in the plane, pixels; at most 1.
    coarse : float
        Probability that pairs of slices, rows or columns are merged, as in a scan
        of lower resolution.

    Raises
    ------
    ConfigError
        If a strength is negative, `blur` exceeds 1 or `coarse` is no probability.
    """

    gamma: NonNegativeFloat = 0.3
    contrast: NonNegativeFloat = 0.2
    bias: NonNegativeFloat = 0.2
    noise: NonNegativeFloat = 0.1
    blur: Fraction = 0.8
    coarse: Fraction = 0.2

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class IntensityChanges:
    """One set of changes for each modality of each of N crops.

    Parameters
    ----------
    gamma : Tensor of shape (N, M)
        Exponent of the intensity between the crop's extremes.
    gain, shift : Tensor of shape (N, M)
        Applied to intensities in standard deviations.
    bias : Tensor of shape (N, M, 3, 3, 3)
        Control points of the logarithm of the bias field.
    noise : Tensor of shape (N, M)
        Standard deviation of the noise.
    blur : Tensor of shape (N, M)
        Standard deviation of the blur, pixels.
    coarse : Tensor of shape (N,)
        Axis whose pairs are merged: 0 slices, 1 rows, 2 columns, -1 none.
    seed : int
        Seed of the noise.
    """

    gamma: Tensor
    gain: Tensor
    shift: Tensor
    bias: Tensor
    noise: Tensor
    blur: Tensor
    coarse: Tensor
    seed: int

    @classmethod
    def draw(
        cls,
        config: IntensityConfig,
        n_crops: int,
        n_modalities: int,
        generator: torch.Generator,
    ) -> "IntensityChanges":
        """Draw changes.

        Parameters
        ----------
        config : IntensityConfig
            Strength of each change.
        n_crops, n_modalities : int
            Number of crops N and modalities M.
        generator : torch.Generator
            Source of randomness, on the CPU.

        Returns
        -------
        IntensityChanges
            Independent for each crop and modality.
        """
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
        """Take the changes of some modalities.

        Parameters
        ----------
        modalities : sequence of int
            Their places.

        Returns
        -------
        IntensityChanges
            For crops that have these modalities only.
        """
        chosen = {
            name: getattr(self, name)[:, list(modalities)]
            for name in ("gamma", "gain", "shift", "bias", "noise", "blur")
        }
        return replace(self, **chosen)

    def apply(self, stacks: Tensor) -> Tensor:
        """Change the intensities of crops.

        Parameters
        ----------
        stacks : Tensor of shape (N, M, n_slices, H, W)
            Crops of normalised volumes.

        Returns
        -------
        Tensor of shape (N, M, n_slices, H, W)
            Changed crops.
        """
        stacks = _change_contrast(stacks, self)
        stacks = _blur_planes(stacks, self.blur)
        stacks = _merge_pairs(stacks, self.coarse)
        generator = torch.Generator(stacks.device).manual_seed(self.seed)
        noise = torch.randn(
            stacks.shape, generator=generator, device=stacks.device, dtype=stacks.dtype
        )
        return noise.mul_(_per_stack(self.noise, stacks)).add_(stacks)


def _per_stack(values: Tensor, stacks: Tensor) -> Tensor:
    """Give values of shape (N, M) the axes, device and dtype of `stacks`."""
    return values.to(stacks)[:, :, None, None, None]


def _change_contrast(stacks: Tensor, changes: IntensityChanges) -> Tensor:
    low = stacks.amin(dim=(2, 3, 4), keepdim=True)
    span = (stacks.amax(dim=(2, 3, 4), keepdim=True) - low).clamp(min=1e-6)
    unit = (stacks - low).div_(span)  # 0 to 1
    unit = unit.pow_(_per_stack(changes.gamma, stacks))
    field = _interpolate_field(changes.bias.to(stacks), stacks.shape[2:])
    gain = _per_stack(changes.gain, stacks) * span
    # The field multiplies what the scanner measures, which is 0 in the background.
    unit = unit.mul_(field.exp_()).mul_(gain)
    return unit.add_(low + _per_stack(changes.shift, stacks))


def _interpolate_field(control: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate between control points of shape (N, M, 3, 3, 3), trilinearly.

    By a product along each axis, the last one longest: `F.interpolate` visits eight
    points for each voxel.
    """
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
    # By products of matrices: grouped convolutions are slower for large crops.
    blurred = (stacks.flatten(2, 3) @ across).view(stacks.shape)
    return down.mT[:, :, None] @ blurred


def _blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """Matrices of shape (N, M, size, size), from a place to where it spreads."""
    offsets = torch.arange(-_KERNEL_RADIUS, _KERNEL_RADIUS + 1.0)
    kernels = (-0.5 * (offsets / sigma.clamp(min=0.05)[..., None]).square()).exp()
    kernels = (kernels / kernels.sum(dim=-1, keepdim=True)).flatten(0, 1)  # NM 5
    places = F.pad(
        torch.eye(size)[:, None], (_KERNEL_RADIUS, _KERNEL_RADIUS), mode="replicate"
    )
    spread = F.conv1d(places, kernels[:, None])  # from, NM, to
    matrices: Tensor = spread.transpose(0, 1).unflatten(0, sigma.shape)
    return matrices


def _merge_pairs(stacks: Tensor, axes: Tensor) -> Tensor:
    """Replace neighbours along an axis by their mean, in the crops that have one."""
    for axis in range(3):
        rows = (axes == axis).nonzero().flatten().to(stacks.device)
        if len(rows) == 0:
            continue
        chosen = stacks[rows]
        window = [1, 1, 1]
        window[axis] = 2
        # The last of an odd number stays alone.
        merged = F.avg_pool3d(chosen, window, ceil_mode=True)
        merged = merged.repeat_interleave(2, dim=2 + axis)
        merged = merged.narrow(2 + axis, 0, chosen.shape[2 + axis])
        stacks = stacks.index_copy(0, rows, merged)
    return stacks
