"""Random numbers from an explicit generator, on its device."""

__all__ = ["normal", "uniform"]

import torch
from torch import Tensor


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw standard normal numbers.

    Parameters
    ----------
    generator : torch.Generator
        Source of randomness.
    *shape : int
        Sizes of the result.

    Returns
    -------
    Tensor of shape ``shape``
        On the generator's device.
    """
    return torch.randn(*shape, generator=generator, device=generator.device)


def uniform(
    generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Draw uniform numbers.

    Parameters
    ----------
    generator : torch.Generator
        Source of randomness.
    *shape : int
        Sizes of the result.
    low, high : float
        Ends of the range.

    Returns
    -------
    Tensor of shape ``shape``
        On the generator's device.
    """
    drawn = torch.rand(*shape, generator=generator, device=generator.device)
    return low + (high - low) * drawn
