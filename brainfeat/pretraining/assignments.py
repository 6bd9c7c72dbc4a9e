"""From the teacher's logits to targets that use all prototypes.

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
    """Teacher assignments that use every prototype equally often [2]_.

    Parameters
    ----------
    n_prototypes : int
        Number of prototypes K; not needed, but the same for all centrings.
    n_iterations : int
        Number of times that prototypes and samples are balanced.
    """

    def __init__(self, n_prototypes: int, *, n_iterations: int = 3) -> None:
        super().__init__()
        self.n_prototypes = n_prototypes
        self.n_iterations = n_iterations

    @torch.no_grad()
    def forward(self, logits: Tensor, *, temperature: float) -> Tensor:
        """Map logits to assignments, balanced over the samples of all processes.

        Parameters
        ----------
        logits : Tensor of shape (..., K)
            Logits of the teacher.
        temperature : float
            Temperature of the teacher.

        Returns
        -------
        Tensor of shape (..., K)
            Non-negative, summing to one over K.
        """
        log_q = (logits.float() / temperature).flatten(0, -2)
        for _ in range(self.n_iterations):
            log_q = log_q - logsumexp_over_ranks(log_q)  # prototypes: equal mass
            log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)  # samples: unit mass
        return log_q.exp().reshape(logits.shape)


class MovingAverageCentring(nn.Module):
    """Teacher assignments relative to a moving average of past logits [1]_.

    Parameters
    ----------
    n_prototypes : int
        Number of prototypes K.
    momentum : float
        Share of the average that a call keeps.
    """

    center: Tensor

    def __init__(self, n_prototypes: int, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(n_prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, *, temperature: float) -> Tensor:
        """Map logits to assignments, then move the centre towards their mean.

        Parameters
        ----------
        logits : Tensor of shape (..., K)
            Logits of the teacher.
        temperature : float
            Temperature of the teacher.

        Returns
        -------
        Tensor of shape (..., K)
            Non-negative, summing to one over K.
        """
        logits = logits.float()
        assignments = ((logits - self.center) / temperature).softmax(dim=-1)
        rows = logits.flatten(0, -2)
        total = all_ranks_sum(rows.sum(dim=0))
        n_rows = all_ranks_sum(total.new_tensor(float(len(rows))))
        mean = total / n_rows.clamp(min=1.0)
        self.center.lerp_(mean, (1.0 - self.momentum) * float(n_rows > 0))
        return assignments
