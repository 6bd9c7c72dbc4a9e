"""Masks of patches that are hidden from the student.

References
----------
.. [1] Bao et al., "BEiT: BERT pre-training of image transformers",
   arXiv 2106.08254.
"""

__all__ = ["draw_block_masks", "mask_weights"]

import math

import torch
from torch import Generator, Tensor


def draw_block_masks(
    n_views: int,
    grid: tuple[int, int, int],
    *,
    ratio: tuple[float, float],
    probability: float,
    generator: Generator,
) -> Tensor:
    """Draw masks (B, S, h, w) made of boxes of neighbouring patches [1]_.

    A fraction `probability` of the B views, rounded to whole views, is masked; their
    masked fractions are spread evenly over the range `ratio`, in random order.
    """
    masks = torch.zeros(n_views, *grid, dtype=torch.bool)
    n_masked_views = round(n_views * probability)
    order = torch.randperm(n_views, generator=generator)
    n_patches = math.prod(grid)
    for position, view in enumerate(order[:n_masked_views].tolist()):
        low, high = (
            ratio[0] + (ratio[1] - ratio[0]) * (position + end) / n_masked_views
            for end in (0, 1)
        )
        fraction = low + (high - low) * _uniform(generator)
        n_masked = min(max(1, round(fraction * n_patches)), n_patches - 1)
        _fill_with_boxes(masks[view], n_masked, generator)
    return masks


def mask_weights(masks: Tensor) -> Tensor:
    """Weight the patches of ``tokens[masks]`` so that all masked views count the same.

    One over the number of masked patches of the view, over B, as in DINOv2: shape (M,).
    """
    n_masked = masks.flatten(1).sum(dim=1).clamp(min=1)  # B
    weights = 1.0 / (n_masked * len(masks)).float()
    return weights.view(-1, 1, 1, 1).expand(masks.shape)[masks]


def _fill_with_boxes(mask: Tensor, n_masked: int, generator: Generator) -> None:
    """Add boxes to one mask of shape (S, h, w) until `n_masked` patches are hidden."""
    missing = n_masked
    while missing > 0:
        box = mask[_draw_box(mask.shape, missing, generator)]
        hidden = box.clone()
        free = (~box).flatten().nonzero().flatten()
        # The last box is cut to the exact number.
        hidden.view(-1)[free[:missing]] = True
        missing -= min(len(free), missing)
        box.copy_(hidden)


def _draw_box(
    grid: torch.Size, n_patches: int, generator: Generator
) -> tuple[slice, slice, slice]:
    """Draw a box of at most about `n_patches` patches, of random shape and position."""
    depth = 1 + int(_uniform(generator) * grid[0])
    area = max(1.0, (0.3 + 0.7 * _uniform(generator)) * n_patches / depth)
    aspect = math.exp(math.log(3.0) * (2 * _uniform(generator) - 1))
    sizes = (depth, round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect)))
    slices = []
    for size, extent in zip(sizes, grid, strict=True):
        length = min(max(1, size), extent)
        start = int(_uniform(generator) * (extent - length + 1))
        slices.append(slice(start, start + length))
    return slices[0], slices[1], slices[2]


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))
