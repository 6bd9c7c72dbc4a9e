"""Heads that pretraining puts on the encoder's tokens."""

__all__ = ["AnatomyHead", "Projector", "PrototypeHead"]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What a sample hardly holds must not weigh without bound.
_SMALLEST_SPREAD = 0.05


class Projector(nn.Module):
    """Three linear maps with GELUs between them, onto the unit sphere.

    Parameters
    ----------
    in_dim : int
        Length of a token.
    hidden_dim : int
        Length between the maps.
    out_dim : int
        Length of a projection.
    """

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
        # Small weights give tiny vectors, whose norm is not safe in bf16.
        return F.normalize(self.layers(tokens).float(), dim=-1, eps=1e-6)


class PrototypeHead(nn.Module):
    """DINO's head: a projection, then its cosine with each prototype.

    Parameters
    ----------
    in_dim : int
        Length of a token.
    n_prototypes : int
        Number of prototypes K.
    hidden_dim : int
        Length between the maps of the projection.
    bottleneck_dim : int
        Length of a projection and of a prototype.
    """

    def __init__(
        self,
        in_dim: int,
        n_prototypes: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
    ) -> None:
        super().__init__()
        self.projector = Projector(
            in_dim, hidden_dim=hidden_dim, out_dim=bottleneck_dim
        )
        self.last_layer = nn.Linear(bottleneck_dim, n_prototypes, bias=False)
        nn.init.trunc_normal_(self.last_layer.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens of shape (..., in_dim) to logits (..., K) from -1 to 1."""
        prototypes = F.normalize(self.last_layer.weight, dim=-1)
        return F.linear(self.projector(tokens), prototypes).float()


class AnatomyHead(nn.Module):
    """A linear map from a patch token to what the patch holds.

    Predictions are in units of the spread between patches, so that a small
    structure weighs as much as a large one; `mean` and `spread` lead back.
    `emphasis` says how much each quantity counts in the objective.

    Parameters
    ----------
    in_dim : int
        Length of a token.
    n_quantities : int
        Number of quantities R.
    """

    mean: Tensor
    spread: Tensor
    emphasis: Tensor

    def __init__(self, in_dim: int, n_quantities: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, n_quantities)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(n_quantities))
        self.register_buffer("spread", torch.ones(n_quantities))
        self.register_buffer("emphasis", torch.ones(n_quantities))

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """Map tokens of shape (..., in_dim) to standardised quantities (..., R)."""
        quantities: Tensor = self.linear(patch_tokens)
        return quantities

    def standardise(self, quantities: Tensor) -> Tensor:
        """Express quantities of shape (..., R) in units of their spread."""
        return (quantities - self.mean) / self.spread

    @torch.no_grad()
    def calibrate(self, quantities: Tensor, weights: Tensor) -> None:
        """Set mean and spread to those of a sample of patches.

        Parameters
        ----------
        quantities : Tensor of shape (..., R)
            True quantities of patches.
        weights : Tensor of shape (...)
            Weight of each patch.
        """
        rows = quantities.flatten(0, -2).double()  # N R
        share = weights.flatten().double()[:, None] / weights.sum()
        mean = (share * rows).sum(dim=0)
        variance = (share * (rows - mean).square()).sum(dim=0)
        self.mean.copy_(mean)
        self.spread.copy_(variance.sqrt().clamp(min=_SMALLEST_SPREAD))
