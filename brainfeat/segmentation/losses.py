"""Losses of segmentation: soft Dice and cross-entropy."""

__all__ = ["dice_ce_loss", "dice_loss"]

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Keeps the ratio defined for a class that neither labels nor prediction have.
_SMOOTHING = 1e-5


def dice_ce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Add Dice loss and cross-entropy; logits (B, K, ...), labels (B, 1, ...).

    Both share one softmax and one analytic gradient, which takes a quarter of the time.
    """
    voxels = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    loss: Tensor = _DiceCrossEntropy.apply(voxels, labels.reshape(-1).long())
    return loss


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


class _DiceCrossEntropy(torch.autograd.Function):
    """`dice_loss` plus cross-entropy of logits (V, K) and class indices (V,)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        n_classes = logits.shape[1]
        p = logits.float().log_softmax(1)
        entropy = -p.gather(1, labels[:, None]).mean()
        p = p.exp_()
        p_true = p.gather(1, labels[:, None])[:, 0]
        counts = torch.bincount(labels, minlength=n_classes).to(p.dtype)
        overlap = torch.zeros_like(counts).index_add_(0, labels, p_true)
        total = p.sum(0) + counts + _SMOOTHING
        dice = (2 * overlap + _SMOOTHING) / total
        # Derivatives by the overlap and the total of each class but the background.
        by_overlap, by_total = -2 / total, dice / total
        for derivative in (by_overlap, by_total):
            derivative[0] = 0.0
            derivative /= n_classes - 1
        ctx.save_for_backward(p, p_true, labels, by_overlap, by_total)
        return (1 - dice[1:]).mean() + entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        p, p_true, labels, by_overlap, by_total = ctx.saved_tensors
        each = 1 / len(labels)
        at_true = p_true * by_overlap[labels]
        mean = p @ by_total + at_true
        gradient = p * ((by_total + each) - mean[:, None])
        gradient.scatter_add_(1, labels[:, None], (at_true - each)[:, None])
        return gradient.mul_(grad_output), None
