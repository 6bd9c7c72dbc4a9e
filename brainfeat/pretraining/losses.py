"""Objectives of pretraining, and assignments of the teacher that use all prototypes.

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
.. [6] Caron et al., "Unsupervised learning of visual features by contrasting
   cluster assignments" (SwAV), arXiv 2006.09882.
"""

__all__ = [
    "MovingAverageCentring",
    "SinkhornKnopp",
    "anatomy_loss",
    "dino_loss",
    "ibot_loss",
    "infonce_loss",
    "koleo_loss",
    "structure_loss",
    "subject_distance",
    "token_distance",
    "whole_loss",
]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainfeat.pretraining import ranks

# Floor of KoLeo's distances: its gradient grows as one over the distance, so two
# equal rows would give NaN.
_KOLEO_GUARD = 1e-4
_STACK_WEIGHT = 0.01  # of the error of the mean; more makes the first steps unstable


def dino_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Compute the cross-entropy between different views of a subject [1]_, in nats.

    It is the mean over all pairs. `student` are logits (V, B, K), of the teacher's
    views first; `teacher` are assignments (T, B, K) that sum to one over K.
    """
    log_student = (student / temperature).log_softmax(dim=-1)
    pairs = -torch.einsum("tbk,vbk->tv", teacher, log_student) / student.shape[1]
    same_view = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[~same_view].mean()


def ibot_loss(
    student: Tensor, teacher: Tensor, weights: Tensor, *, temperature: float
) -> Tensor:
    """Compute the weighted cross-entropy on masked patches [2]_, in nats.

    `student` are logits (M, K), `teacher` assignments (M, K), `weights` (M,) come
    from `mask_weights`. 0 when no patch is masked.
    """
    log_student = (student / temperature).log_softmax(dim=-1)
    return -(weights * (teacher * log_student).sum(dim=-1)).sum()


def koleo_loss(rows: Tensor) -> Tensor:
    """Average minus the log distance of rows (B, D) to their nearest neighbour [3]_.

    Rows are normalised; neighbours are searched among the rows of all ranks (in
    DINOv2, of one).
    """
    rows = F.normalize(rows.float(), dim=-1)
    all_rows = ranks.gather_rows(rows)
    with torch.no_grad():
        similarity = rows @ all_rows.T
        own = torch.arange(len(rows), device=rows.device)
        similarity[own, own + ranks.rank() * len(rows)] = -2.0  # below any cosine
        nearest = similarity.argmax(dim=1)
    squared = (rows - all_rows[nearest]).square().sum(dim=1)
    return -0.5 * (squared + _KOLEO_GUARD**2).log().mean()


def infonce_loss(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Contrast two views (B, D) of a subject with those of all other subjects [5]_.

    Mean cross-entropy over the 2 B rows of this rank, in nats. Candidates are the
    rows of all ranks, in both views, except the row itself.
    """
    n_rows = len(first)
    rows = F.normalize(torch.cat([first, second]).float(), dim=-1)  # 2B D
    all_rows = ranks.gather_rows(rows)  # ranks*2B D
    logits = rows @ all_rows.T / temperature
    own = torch.arange(2 * n_rows, device=rows.device)
    is_itself = torch.zeros_like(logits, dtype=torch.bool)
    is_itself[own, own + ranks.rank() * 2 * n_rows] = True
    positives = own.roll(n_rows) + ranks.rank() * 2 * n_rows
    return F.cross_entropy(logits.masked_fill(is_itself, -torch.inf), positives)


def anatomy_loss(
    prediction: Tensor, targets: Tensor, weights: Tensor, target_weights: Tensor
) -> Tensor:
    """Compute the weighted squared error of patches, and of the mean over each stack.

    `prediction` and `targets` are standardised, of shape (B, N, R) for N patches of B
    stacks; `weights` (B, N) are foreground fractions, `target_weights` (R,). The
    second term equals the first when errors are independent, and grows when they
    agree in sign, as errors of a mean over the brain do.
    """
    error = prediction.float() - targets  # B N R
    # The amount of brain differs between stacks and ranks.
    total = ranks.all_ranks_mean(weights.sum()).clamp(min=1e-6)
    squares = ranks.all_ranks_mean(weights.square().sum()).clamp(min=1e-6)
    patches = torch.einsum("bn,bnr->r", weights, error.square()) / total
    sums = torch.einsum("bn,bnr->br", weights, error)
    stacks = sums.square().sum(dim=0) / squares
    target_weights = target_weights / target_weights.sum()
    return (target_weights * (patches + _STACK_WEIGHT * stacks)).sum()


def structure_loss(
    prediction: Tensor,
    targets: Tensor,
    weights: Tensor,
    known: Tensor,
    target_weights: Tensor,
) -> Tensor:
    """Compute the weighted squared error of patches over the targets that are known.

    As the first term of `anatomy_loss`, for subjects of which only some targets are
    known: `known` is bool (B, R). 0 if none is.
    """
    counted = torch.einsum("bn,br->r", weights, known.float())
    total = ranks.all_ranks_mean(counted).clamp(min=1e-6)
    square = (prediction.float() - targets).square()  # B N R
    patches = torch.einsum("bn,br,bnr->r", weights, known.float(), square) / total
    return _mean_over_known(patches, counted, target_weights)


def whole_loss(
    error: Tensor, variance: Tensor, known: Tensor | None, target_weights: Tensor
) -> Tensor:
    """Compute the error of sums over each brain, over their spread between subjects.

    `error` (B, R) has the errors of sums, `variance` (R,) is that between subjects,
    `known` (B, R) says which count. Quadratic up to one standard deviation and linear
    above, so that one poorly aligned scan does not dominate.
    """
    shown = torch.ones_like(error) if known is None else known.float()
    counted = shown.sum(dim=0)
    total = ranks.all_ranks_mean(counted).clamp(min=1e-6)
    wholes = (shown * _bounded(error.square() / variance)).sum(dim=0) / total
    return _mean_over_known(wholes, counted, target_weights)


def token_distance(
    first: Tensor, second: Tensor, variance: Tensor, weights: Tensor
) -> Tensor:
    """Average the squared distance of tokens (..., D) over their variance.

    `variance` is (D,) or a scalar, `weights` (...) are those of the tokens. 1 for
    tokens that differ by their standard deviation; 0 if all weights are.
    """
    square = (first.float() - second.float()).square() / variance
    weights = weights.float()
    total = ranks.all_ranks_mean(weights.sum()).clamp(min=1e-6)
    return (weights * square.mean(dim=-1)).sum() / total


def subject_distance(first: Tensor, second: Tensor, variance: Tensor) -> Tensor:
    """Average the squared distance of rows (..., D) over the variance between subjects.

    Linear in the distance above one standard deviation, as `whole_loss` is.
    """
    square = (first.float() - second.float()).square() / variance
    return _bounded(square.mean(dim=-1)).mean()


def _bounded(square: Tensor) -> Tensor:
    """Keep squares up to 1; beyond, continue linearly in their root (Huber)."""
    return torch.where(square < 1, square, 2 * square.clamp(min=1).sqrt() - 1)


def _mean_over_known(values: Tensor, counted: Tensor, target_weights: Tensor) -> Tensor:
    """Average values (R,) by the weights of the targets that any subject tells."""
    is_known = ranks.all_ranks_sum(counted) > 0
    target_weights = target_weights * is_known
    return (target_weights * values).sum() / target_weights.sum().clamp(min=1e-6)


class SinkhornKnopp(nn.Module):
    """Teacher assignments that use every prototype equally often [6]_."""

    def __init__(self, n_prototypes: int, *, n_iterations: int = 3) -> None:
        super().__init__()
        self.n_prototypes = n_prototypes
        self.n_iterations = n_iterations

    @torch.no_grad()
    def forward(self, logits: Tensor, *, temperature: float) -> Tensor:
        """Map logits (..., K) to assignments that sum to one over K.

        Balanced over the samples of all ranks.
        """
        log_q = (logits.float() / temperature).flatten(0, -2)
        for _ in range(self.n_iterations):
            log_q = log_q - ranks.logsumexp_over_ranks(log_q)  # prototypes: equal mass
            log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)  # samples: unit mass
        return log_q.exp().reshape(logits.shape)


class MovingAverageCentring(nn.Module):
    """Teacher assignments relative to a moving average of past logits [1]_."""

    center: Tensor

    def __init__(self, n_prototypes: int, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(n_prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, *, temperature: float) -> Tensor:
        """Map logits (..., K) to assignments, then move the centre to their mean."""
        logits = logits.float()
        assignments = ((logits - self.center) / temperature).softmax(dim=-1)
        rows = logits.flatten(0, -2)
        total = ranks.all_ranks_sum(rows.sum(dim=0))
        n_rows = ranks.all_ranks_sum(total.new_tensor(float(len(rows))))
        mean = total / n_rows.clamp(min=1.0)
        self.center.lerp_(mean, (1.0 - self.momentum) * float(n_rows > 0))
        return assignments
