"""The training loss: soft Dice and cross-entropy, as functions of tensors."""

__all__ = ["dice_ce_loss", "dice_loss"]

import torch
from torch import Tensor
from torch.nn import functional as F

# Keeps the ratio defined for a class that neither labels nor prediction have.
_SMOOTHING = 1e-5


def dice_ce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Add Dice loss and cross-entropy; logits (B, K, ...), labels (B, 1, ...)."""
    return dice_loss(logits, labels) + F.cross_entropy(logits, labels[:, 0].long())


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Average one minus the soft Dice over foreground classes, pooled over the batch.

    The V-Net loss (Milletari et al., 2016, doi:10.1109/3DV.2016.79) without squares.
    """
    probabilities = logits.softmax(1)[:, 1:]  # background is class 0
    spatial = [1] * (logits.ndim - 2)
    classes = torch.arange(1, logits.shape[1], device=logits.device)
    truth = (labels == classes.view(1, -1, *spatial)).to(logits.dtype)
    pooled = (0, *range(2, logits.ndim))
    overlap = (probabilities * truth).sum(pooled)
    total = probabilities.sum(pooled) + truth.sum(pooled)
    return (1 - (2 * overlap + _SMOOTHING) / (total + _SMOOTHING)).mean()
