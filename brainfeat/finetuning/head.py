"""From the tokens of a subject to the scores of a label."""

__all__ = ["HeadPooling", "TaskHead"]

from typing import Literal, Self

import torch
from torch import Tensor, nn

from brainfeat.finetuning.probe import Probe
from brainfeat.models.pooling import pool_tokens
from brainfeat.models.protocol import EncoderOutput

HeadPooling = Literal["mean", "attention"]

# Of the mean drift of the tokens, from one subject to the next.
_MOMENTUM = 0.1


class TaskHead(nn.Module):
    """Pool patch tokens over the brain, standardise them, and score them linearly.

    Attention multiplies the foreground of a patch by a learned weight, which is one at
    first: the head begins as a linear probe of the mean token.
    """

    mean: Tensor
    scale: Tensor
    first_mean: Tensor
    drift: Tensor

    def __init__(self, embed_dim: int, n_outputs: int, pooling: HeadPooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("scale", torch.ones(embed_dim))
        # While it is trained, of its mean.
        for name in ("first_mean", "drift"):
            self.register_buffer(name, torch.zeros(embed_dim), persistent=False)
        self.weight = nn.Parameter(torch.zeros(n_outputs, embed_dim))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        if pooling == "attention":
            self.query = nn.Parameter(torch.zeros(embed_dim))

    @classmethod
    def of_probe(cls, probe: Probe) -> Self:
        """Return a linear probe as it is."""
        n_outputs, embed_dim = probe.weight.shape
        head = cls(embed_dim, n_outputs, "mean")
        head.start_from(probe)
        return head.requires_grad_(requires_grad=False)

    def start_from(self, probe: Probe) -> None:
        """Take the weights of a linear probe."""
        with torch.no_grad():
            self.mean.copy_(torch.as_tensor(probe.mean))
            self.first_mean.copy_(self.mean)
            self.scale.copy_(torch.as_tensor(probe.scale))
            self.weight.copy_(torch.as_tensor(probe.weight))
            self.bias.copy_(torch.as_tensor(probe.bias))

    def query_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the attention, if there is any."""
        return [self.query] if self.pooling == "attention" else []

    def forward(self, output: EncoderOutput, fractions: Tensor) -> Tensor:
        """Score subjects (B, K) from tokens and their foreground (B, ...)."""
        return self.score(self.pool(output, fractions))

    def score(self, pooled: Tensor) -> Tensor:
        """Score what `pool` returned: float32 (B, K)."""
        standardised = (pooled - self.mean) / self.scale  # B D
        return standardised @ self.weight.T + self.bias

    def follow(self, drift: Tensor) -> None:
        """Move the mean with the tokens, which drift (B, D) in all subjects alike.

        Features differ far less between subjects than between patches: a small change
        of all tokens would be a large one of all scores.
        """
        self.drift.lerp_(drift.detach().mean(0), _MOMENTUM)
        self.mean.copy_(self.first_mean + self.drift)

    def pool(self, output: EncoderOutput, fractions: Tensor) -> Tensor:
        """Average the tokens: float32 (B, D)."""
        if self.pooling == "mean":
            return pool_tokens(output, fractions)
        tokens = output.patch_tokens.float().flatten(1, -2)  # B N D
        scores = tokens @ self.query  # B N
        weights = (scores + fractions.flatten(1).log()).softmax(1)
        return torch.einsum("bn,bnd->bd", weights, tokens)
