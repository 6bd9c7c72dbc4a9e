"""Bias field, noise, gamma and resolution of scans: draw, then apply."""

__all__ = ["ArtifactConfig", "Artifacts"]

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from brainfeat.simulation import random_fields

_N_BIAS_CONTROLS = 5


@dataclass(frozen=True, kw_only=True)
class ArtifactConfig:
    """Ranges from which the artifacts of a scan are drawn."""

    # Standard deviation of the log of the bias field.
    bias: tuple[float, float] = (0.05, 0.25)
    # Standard deviation of the noise, white matter in T1w being about 1.
    noise: tuple[float, float] = (0.01, 0.06)
    gamma: tuple[float, float] = (0.8, 1.25)
    # Voxel edge in mm along the axis of lowest resolution; no effect below the voxel
    # edge of the scan.
    resolution: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Artifacts:
    """Drawn artifacts of a batch of scans, on the device of the generator."""

    bias: Tensor  # B M n n n: spline coefficients of the log of the field
    noise: Tensor  # B M: standard deviation in each of the two quadratures
    gamma: Tensor  # B M
    resolution: Tensor  # B M 3: voxel edges in mm
    noise_seed: int  # the noise itself is as large as the volumes

    @classmethod
    def draw(
        cls, config: ArtifactConfig, n: int, n_modalities: int, *, generator: Generator
    ) -> "Artifacts":
        """Draw the artifacts of `n_modalities` scans of `n` subjects."""
        device, shape = generator.device, (n, n_modalities)
        fractions = random_fields.uniform(generator, 4, *shape)
        ranges = torch.tensor(
            [config.bias, config.noise, config.gamma, config.resolution], device=device
        )[:, :, None, None]
        low, high = ranges.unbind(1)
        bias, noise, gamma, edge = low + fractions * (high - low)
        controls = random_fields.normal(generator, *shape, *(3 * [_N_BIAS_CONTROLS]))
        worst = torch.randint(3, (*shape, 1), generator=generator, device=device)
        resolution = torch.where(
            torch.arange(3, device=device) == worst, edge[..., None], 0.0
        )
        seed = torch.randint(2**62, (), generator=generator, device=device)
        return cls(
            controls * (bias[..., None, None, None] / random_fields.SPLINE_SD),
            noise,
            gamma,
            resolution,
            int(seed),
        )

    def apply(self, image: Tensor, spacing: tuple[float, float, float]) -> Tensor:
        """Degrade non-negative scans (B, M, I, J, K) with voxel edges in mm."""
        i, j, k = image.shape[2:]
        for axis in range(3):
            edges = self.resolution[..., axis].to(image.device) / spacing[axis]
            image = _lower_resolution(image, edges, axis)
        # All intervals but the outer two lie inside the volume.
        n_intervals = _N_BIAS_CONTROLS - 3
        steps = (n_intervals / i, n_intervals / j, n_intervals / k)
        log_bias = random_fields.evaluate_spline(
            self.bias.to(image.device), (i, j, k), steps
        )
        gamma = self.gamma.to(image.device)[..., None, None, None]
        if not bool((self.gamma == 1).all()):
            image = image.pow(gamma)
        signal = image * log_bias.exp_()
        generator = Generator(image.device).manual_seed(self.noise_seed)
        real, imaginary = torch.randn(
            2, *image.shape, generator=generator, device=image.device
        ).mul_(self.noise.to(image.device)[..., None, None, None])
        return torch.hypot(signal.add_(real), imaginary)  # Rician


def _lower_resolution(image: Tensor, edges: Tensor, axis: int) -> Tensor:
    """Average over longer voxels, of `edges` (B, M) voxels, and interpolate back."""
    if bool((edges <= 1).all()):
        return image
    weights = _resolution_weights(image.shape[2 + axis], edges)  # B M to from
    moved = image.movedim(2 + axis, 2)
    result = weights @ moved.flatten(3)
    return result.reshape(moved.shape).movedim(2, 2 + axis)


def _resolution_weights(size: int, edges: Tensor) -> Tensor:
    """Return matrices (B, M, size, size) that average, then interpolate."""
    edges = edges.clamp(min=1)[..., None, None]
    fine = torch.arange(size, device=edges.device, dtype=torch.float32)
    coarse = (fine[:, None] + 0.5) * edges - 0.5  # centres of the long voxels
    overlap = (edges / 2 + 0.5 - (coarse - fine).abs()).clamp(min=0).clamp(max=1)
    average = overlap / overlap.sum(-1, keepdim=True).clamp(min=1e-6)
    # Long voxels beyond the end do not count.
    average = average * (coarse < size - 0.5)
    position = (fine[:, None] + 0.5) / edges - 0.5
    last = (size / edges - 0.5).ceil() - 1  # its centre is not beyond the end
    position = torch.minimum(position.clamp(min=0), last)
    spread = (1 - (position - fine).abs()).clamp(min=0)
    return spread @ average
