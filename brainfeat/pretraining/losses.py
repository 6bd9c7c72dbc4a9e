"""Objectives of self-supervised pretraining as functions of tensors.

References
----------
.. [1] Caron et al., "Emerging properties in self-supervised vision transformers"
   (DINO), arXiv 2104.14294.
.. [2] Zhou et al., "iBOT: image BERT pre-training with online tokenizer",
   arXiv 2111.07832.
.. [3] Sablayrolles et al., "Spreading vectors for similarity search" (KoLeo),
   arXiv 1806.03198.
.. [4] Oquab et al., "DINOv2: learning robust visual features without
   supervision", arXiv 2304.07193.
.. [5] Chen et al., "A simple framework for contrastive learning of visual
   representations" (SimCLR), arXiv 2002.05709.
"""

__all__ = [
    "anatomy_loss",
    "dino_loss",
    "ibot_loss",
    "infonce_loss",
    "koleo_loss",
]

import torch
from torch import Tensor
from torch.nn import functional as F

from brainfeat.pretraining.ranks import all_ranks_mean, gather_rows, rank

# Added to KoLeo's distances on the unit sphere: its gradient grows as one over the
# distance, and two equal rows would make the run NaN.
_KOLEO_GUARD = 1e-4
_STACK_WEIGHT = 0.01  # of the anatomy objective's mean over a stack


def dino_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy between every pair of different views of a subject [1]_.

    Parameters
    ----------
    student : Tensor of shape (V, B, K)
        Logits of the student; the views of the teacher come first.
    teacher : Tensor of shape (T, B, K)
        Assignments of the teacher, summing to one over K.
    temperature : float
        Temperature of the student.

    Returns
    -------
    Tensor of shape ()
        Mean over subjects and pairs of views, in nats.
    """
    log_student = (student / temperature).log_softmax(dim=-1)
    pairs = -torch.einsum("tbk,vbk->tv", teacher, log_student) / student.shape[1]
    same_view = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[~same_view].mean()


def ibot_loss(
    student: Tensor, teacher: Tensor, weights: Tensor, *, temperature: float
) -> Tensor:
    """Cross-entropy on patches that the student did not see [2]_.

    Parameters
    ----------
    student : Tensor of shape (M, K)
        Logits of the student at the masked patches.
    teacher : Tensor of shape (M, K)
        Assignments of the teacher at the same patches.
    weights : Tensor of shape (M,)
        Weight of each patch. DINOv2's are one over the number of masked patches
        of its view, over the number of views.
    temperature : float
        Temperature of the student.

    Returns
    -------
    Tensor of shape ()
        Weighted sum, in nats; 0 when no patch is masked.
    """
    log_student = (student / temperature).log_softmax(dim=-1)
    return -(weights * (teacher * log_student).sum(dim=-1)).sum()


def koleo_loss(rows: Tensor) -> Tensor:
    """Spread rows over the sphere by the distance to the nearest neighbour [3]_.

    Parameters
    ----------
    rows : Tensor of shape (B, D)
        One vector a subject; at least two over all processes.

    Returns
    -------
    Tensor of shape ()
        Mean over rows of minus the log distance after normalisation. Neighbours
        are looked for among the rows of all processes (in DINOv2, of one). The
        distance has a floor of 0.0001, so that equal rows give a finite loss and no
        gradient.
    """
    rows = F.normalize(rows.float(), dim=-1)
    everyone = gather_rows(rows)
    with torch.no_grad():
        similarity = rows @ everyone.T
        own = torch.arange(len(rows), device=rows.device)
        similarity[own, own + rank() * len(rows)] = -2.0  # below any cosine
        nearest = similarity.argmax(dim=1)
    squared = (rows - everyone[nearest]).square().sum(dim=1)
    return -0.5 * (squared + _KOLEO_GUARD**2).log().mean()


def infonce_loss(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Tell the other view of a subject from the views of all other subjects [5]_.

    Parameters
    ----------
    first, second : Tensor of shape (B, D)
        Projections of two views; row b of both belongs to subject b.
    temperature : float
        Temperature of the similarities.

    Returns
    -------
    Tensor of shape ()
        Mean cross-entropy over the 2 B rows of this process, in nats. Candidates
        are the rows of all processes, in both views, except the row itself.
    """
    n_rows = len(first)
    rows = F.normalize(torch.cat([first, second]).float(), dim=-1)  # 2B D
    everyone = gather_rows(rows)  # ranks*2B D
    logits = rows @ everyone.T / temperature
    own = torch.arange(2 * n_rows, device=rows.device)
    itself = torch.zeros_like(logits, dtype=torch.bool)
    itself[own, own + rank() * 2 * n_rows] = True
    positives = own.roll(n_rows) + rank() * 2 * n_rows
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), positives)


def anatomy_loss(
    prediction: Tensor, truth: Tensor, weights: Tensor, emphasis: Tensor
) -> Tensor:
    """Weighted squared error of what each patch holds, and of the stack's mean.

    Parameters
    ----------
    prediction, truth : Tensor of shape (B, N, R)
        R quantities of N patches of B stacks, in units of their spread between
        patches.
    weights : Tensor of shape (B, N)
        Weight of each patch, such as its share of foreground.
    emphasis : Tensor of shape (R,)
        Weight of each quantity.

    Returns
    -------
    Tensor of shape ()
        Mean squared error over patches, plus a hundredth of the squared sum of
        errors over each stack, over the sum of squared weights. That term equals
        the first when errors are independent, and grows when they agree in sign:
        it is what averaging over the brain leaves. A larger share makes the first
        steps unstable.
    """
    error = prediction.float() - truth  # B N R
    # Stacks hold more or less brain: means are over those of all processes.
    total = all_ranks_mean(weights.sum()).clamp(min=1e-6)
    squares = all_ranks_mean(weights.square().sum()).clamp(min=1e-6)
    patches = torch.einsum("bn,bnr->r", weights, error.square()) / total
    sums = torch.einsum("bn,bnr->br", weights, error)
    stacks = sums.square().sum(dim=0) / squares
    share = emphasis / emphasis.sum()
    return (share * (patches + _STACK_WEIGHT * stacks)).sum()
