"""Assignments of the teacher that use all prototypes.

References
----------
.. [1] Caron et al., "Emerging properties in self-supervised vision transformers"
   (DINO), arXiv 2104.14294.
.. [2] Caron et al., "Unsupervised learning of visual features by contrasting
   cluster assignments" (SwAV), arXiv 2006.09882.
"""

__all__ = ["MovingAverageCentring", "SinkhornKnopp"]

import torch
from torch import Tensor, nn

from brainfeat.pretraining.ranks import all_ranks_sum, logsumexp_over_ranks


class SinkhornKnopp(nn.Module):
    """Teacher assignments that use every prototype equally often [2]_."""

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
            log_q = log_q - logsumexp_over_ranks(log_q)  # prototypes: equal mass
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
        total = all_ranks_sum(rows.sum(dim=0))
        n_rows = all_ranks_sum(total.new_tensor(float(len(rows))))
        mean = total / n_rows.clamp(min=1.0)
        self.center.lerp_(mean, (1.0 - self.momentum) * float(n_rows > 0))
        return assignments
