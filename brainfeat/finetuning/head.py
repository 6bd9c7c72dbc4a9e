"""From the tokens of a subject to the scores of a label."""

__all__ = ["HeadPooling", "TaskHead"]

from typing import Literal, Self

import torch
from torch import Generator, Tensor, nn

from brainfeat.finetuning.probe import Probe
from brainfeat.models.pooling import pool_tokens
from brainfeat.models.protocol import EncoderOutput

HeadPooling = Literal["mean", "attention"]

_N_QUERIES = 4
_QUERY_SCALE = 0.02  # so that queries differ


class TaskHead(nn.Module):
    """Pool patch tokens over the brain, standardise them, and score them linearly.

    Attention multiplies the foreground of a patch by a learned weight, which is nearly
    one at first: the head begins as a linear probe of the mean token.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, embed_dim: int, n_outputs: int, pooling: HeadPooling, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.pooling = pooling
        n_queries = _N_QUERIES if pooling == "attention" else 1
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("scale", torch.ones(embed_dim))
        self.weight = nn.Parameter(torch.zeros(n_queries, n_outputs, embed_dim))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        if pooling == "attention":
            generator = Generator().manual_seed(seed)
            queries = torch.randn(n_queries, embed_dim, generator=generator)
            self.queries = nn.Parameter(_QUERY_SCALE * queries / embed_dim**0.5)

    @classmethod
    def of_probe(cls, probe: Probe) -> Self:
        """Return a linear probe as it is."""
        n_outputs, embed_dim = probe.weight.shape
        head = cls(embed_dim, n_outputs, "mean")
        head.start_from(probe)
        return head.requires_grad_(requires_grad=False)

    def start_from(self, probe: Probe) -> None:
        """Take the weights of a linear probe."""
        n_queries = len(self.weight)
        with torch.no_grad():
            self.mean.copy_(torch.as_tensor(probe.mean))
            self.scale.copy_(torch.as_tensor(probe.scale))
            self.weight.copy_(torch.as_tensor(probe.weight) / n_queries)
            self.bias.copy_(torch.as_tensor(probe.bias))

    def query_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the attention, if there is any."""
        return [self.queries] if self.pooling == "attention" else []

    def forward(self, output: EncoderOutput, fractions: Tensor) -> Tensor:
        """Score subjects (B, K) from tokens and their foreground (B, ...)."""
        return self.score(self.pool(output, fractions))

    def score(self, pooled: Tensor) -> Tensor:
        """Score what `pool` returned: float32 (B, K)."""
        standardised = (pooled - self.mean) / self.scale  # B Q D
        return torch.einsum("bqd,qkd->bk", standardised, self.weight) + self.bias

    def pool(self, output: EncoderOutput, fractions: Tensor) -> Tensor:
        """Average the tokens by each query: float32 (B, Q, D)."""
        if self.pooling == "mean":
            return pool_tokens(output, fractions)[:, None]
        tokens = output.patch_tokens.float().flatten(1, -2)  # B N D
        scores = tokens @ self.queries.T  # B N Q
        weights = (scores + fractions.flatten(1).log()[..., None]).softmax(1)
        return torch.einsum("bnq,bnd->bqd", weights, tokens)
