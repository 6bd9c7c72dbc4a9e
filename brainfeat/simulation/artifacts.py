"""What a scanner does to intensities: draw, then apply."""

__all__ = ["ArtifactConfig", "Artifacts"]

from dataclasses import dataclass

import torch
from torch import Tensor

from brainfeat.simulation.draws import normal, uniform
from brainfeat.simulation.splines import SPLINE_SD, evaluate_spline

N_BIAS_CONTROLS = 5


@dataclass(frozen=True, kw_only=True)
class ArtifactConfig:
    """Ranges that a scan's artifacts are drawn from."""

    # Standard deviation of the log of the bias field.
    bias: tuple[float, float] = (0.05, 0.25)
    # Standard deviation of the noise, white matter in T1w being about 1.
    noise: tuple[float, float] = (0.01, 0.06)
    gamma: tuple[float, float] = (0.8, 1.25)
    # Voxel edge in mm along the axis that was resolved worst; what is less than the
    # scan's own voxels is as sharp as they are.
    resolution: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Artifacts:
    """Drawn artifacts of a batch of scans.

    Parameters
    ----------
    bias : Tensor of shape (B, M, n, n, n)
        Spline coefficients of the log of the bias field.
    noise : Tensor of shape (B, M)
        Standard deviation of the noise in each of the two quadratures.
    gamma : Tensor of shape (B, M)
        Exponent of the intensities.
    resolution : Tensor of shape (B, M, 3)
        Voxel edges that the scans were resolved at, in mm.
    noise_seed : int
        Seeds the noise itself, which is as large as the volumes.
    """

    bias: Tensor
    noise: Tensor
    gamma: Tensor
    resolution: Tensor
    noise_seed: int

    @classmethod
    def draw(
        cls,
        config: ArtifactConfig,
        n: int,
        n_modalities: int,
        *,
        generator: torch.Generator,
    ) -> "Artifacts":
        """Draw artifacts.

        Parameters
        ----------
        config : ArtifactConfig
            Ranges.
        n : int
            Number of subjects.
        n_modalities : int
            Number of scans of each.
        generator : torch.Generator
            Source of randomness; the result is on its device.

        Returns
        -------
        Artifacts
            Parameters of ``n * n_modalities`` scans.
        """
        device, shape = generator.device, (n, n_modalities)
        shares = uniform(generator, 4, *shape)
        ranges = torch.tensor(
            [config.bias, config.noise, config.gamma, config.resolution], device=device
        )[:, :, None, None]
        bias, noise, gamma, edge = ranges[:, 0] + shares * (ranges[:, 1] - ranges[:, 0])
        controls = normal(generator, *shape, *(3 * [N_BIAS_CONTROLS]))
        worst = torch.randint(3, (*shape, 1), generator=generator, device=device)
        resolution = torch.where(
            torch.arange(3, device=device) == worst, edge[..., None], 0.0
        )
        seed = torch.randint(2**62, (), generator=generator, device=device)
        return cls(
            controls * (bias[..., None, None, None] / SPLINE_SD),
            noise,
            gamma,
            resolution,
            int(seed),
        )

    def apply(self, image: Tensor, spacing: tuple[float, float, float]) -> Tensor:
        """Degrade scans.

        Parameters
        ----------
        image : Tensor of shape (B, M, I, J, K)
            Intensities, not negative.
        spacing : tuple of float
            Voxel edges in mm.

        Returns
        -------
        Tensor of shape (B, M, I, J, K)
            Intensities, not negative.
        """
        i, j, k = image.shape[2:]
        for axis in range(3):
            edges = self.resolution[..., axis].to(image.device) / spacing[axis]
            image = _lower_resolution(image, edges, axis)
        # As many intervals between control points as fit inside the outer two.
        n_intervals = N_BIAS_CONTROLS - 3
        steps = (n_intervals / i, n_intervals / j, n_intervals / k)
        log_bias = evaluate_spline(self.bias.to(image.device), (i, j, k), steps)
        gamma = self.gamma.to(image.device)[..., None, None, None]
        if not bool((self.gamma == 1).all()):
            image = image.pow(gamma)
        signal = image * log_bias.exp_()
        generator = torch.Generator(image.device).manual_seed(self.noise_seed)
        real, imaginary = torch.randn(
            2, *image.shape, generator=generator, device=image.device
        ).mul_(self.noise.to(image.device)[..., None, None, None])
        return torch.hypot(signal.add_(real), imaginary)  # Rician


def _lower_resolution(image: Tensor, edges: Tensor, axis: int) -> Tensor:
    """Average over longer voxels and interpolate back, along one axis.

    ``edges`` of shape (B, M) are the lengths of the long voxels, in voxels.
    """
    if bool((edges <= 1).all()):
        return image
    weights = _resolution_weights(image.shape[2 + axis], edges)  # B M to from
    moved = image.movedim(2 + axis, 2)
    result = weights @ moved.flatten(3)
    return result.reshape(moved.shape).movedim(2, 2 + axis)


def _resolution_weights(size: int, edges: Tensor) -> Tensor:
    """Matrices of shape (B, M, size, size) that average, then interpolate."""
    edges = edges.clamp(min=1)[..., None, None]
    fine = torch.arange(size, device=edges.device, dtype=torch.float32)
    coarse = (fine[:, None] + 0.5) * edges - 0.5  # centres of the long voxels
    overlap = (edges / 2 + 0.5 - (coarse - fine).abs()).clamp(min=0).clamp(max=1)
    average = overlap / overlap.sum(-1, keepdim=True).clamp(min=1e-6)
    # A long voxel beyond the end has no share in anything.
    average = average * (coarse < size - 0.5)
    place = (fine[:, None] + 0.5) / edges - 0.5
    last = (size / edges - 0.5).ceil() - 1  # whose centre is not beyond the end
    place = torch.minimum(place.clamp(min=0), last)
    spread = (1 - (place - fine).abs()).clamp(min=0)
    return spread @ average
