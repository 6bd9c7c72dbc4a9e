"""Pretraining heads on the encoder's tokens."""

__all__ = ["AnatomyHead", "Projector", "PrototypeHead"]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Bounds the weight of targets that are rare in a sample. Small structures, such as the
# amygdala, have 0.01 to 0.02 in patches of 16 x 16 x 8 mm.
_SMALLEST_SPREAD = 0.01


class Projector(nn.Module):
    """Three linear maps with GELUs between them, onto the unit sphere."""

    def __init__(self, in_dim: int, *, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, out_dim),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens of shape (..., in_dim) to unit vectors (..., out_dim)."""
        # Small weights give tiny vectors, whose norm is inaccurate in bfloat16.
        return F.normalize(self.layers(tokens).float(), dim=-1, eps=1e-6)


class PrototypeHead(nn.Module):
    """DINO's head: a projection, then its cosine with each of K prototypes."""

    def __init__(
        self, in_dim: int, n_prototypes: int, *, hidden_dim: int, bottleneck_dim: int
    ) -> None:
        super().__init__()
        sizes = {"hidden_dim": hidden_dim, "out_dim": bottleneck_dim}
        self.projector = Projector(in_dim, **sizes)
        self.last_layer = nn.Linear(bottleneck_dim, n_prototypes, bias=False)
        nn.init.trunc_normal_(self.last_layer.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens of shape (..., in_dim) to logits (..., K) from -1 to 1."""
        prototypes = F.normalize(self.last_layer.weight, dim=-1)
        return F.linear(self.projector(tokens), prototypes).float()


class AnatomyHead(nn.Module):
    """A linear map from a patch token to R anatomical targets of the patch.

    Predictions are standardised by `mean` and `spread` over patches, so that small
    structures weigh as much as large ones. `emphasis` is the weight of each target in
    the objective.
    """

    mean: Tensor
    spread: Tensor
    emphasis: Tensor

    def __init__(self, in_dim: int, n_targets: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, n_targets)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(n_targets))
        self.register_buffer("spread", torch.ones(n_targets))
        self.register_buffer("emphasis", torch.ones(n_targets))

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """Map tokens of shape (..., in_dim) to standardised targets (..., R)."""
        targets: Tensor = self.linear(patch_tokens)
        return targets

    def standardise(self, targets: Tensor) -> Tensor:
        """Standardise targets of shape (..., R) by mean and spread."""
        return (targets - self.mean) / self.spread

    @torch.no_grad()
    def calibrate(self, targets: Tensor, weights: Tensor) -> None:
        """Set mean and spread to those of targets (..., R) with weights (...).

        Weights (..., R) are those of each target; one without weight has spread 1.
        """
        # Apple's MPS has no float64.
        targets, weights = targets.cpu(), weights.cpu()
        rows = targets.flatten(0, -2).double()  # N R
        if weights.ndim < targets.ndim:
            fraction = weights.flatten().double()[:, None] / weights.sum()
        else:
            each = weights.flatten(0, -2).double()
            fraction = each / each.sum(dim=0).clamp(min=1e-12)
        mean = (fraction * rows).sum(dim=0)
        variance = (fraction * (rows - mean).square()).sum(dim=0)
        self.mean.copy_(mean.float())
        self.spread.copy_(variance.sqrt().clamp(min=_SMALLEST_SPREAD).float())
