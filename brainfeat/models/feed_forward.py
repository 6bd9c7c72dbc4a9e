"""Feed-forward layers of a transformer block."""

__all__ = ["ExpertConfig", "ExpertMlp", "Gelu", "Mlp", "SwiGLU"]

import dataclasses
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainfeat.configs import (
    JsonConfig,
    PositiveFloat,
    PositiveInt,
    Relation,
    Rule,
    check_fields,
)

Gelu = Literal["exact", "tanh"]
_APPROXIMATIONS = {"exact": "none", "tanh": "tanh"}
_Blocks = Annotated[
    tuple[int, ...],
    Rule("not empty and not negative", lambda v: bool(v) and min(v) >= 0),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertConfig(JsonConfig):
    """Sizes of the `ExpertMlp` in some blocks."""

    blocks: _Blocks
    num_experts: PositiveInt
    num_active: PositiveInt  # experts of a token
    hidden_dim: PositiveInt
    shared_dim: PositiveInt  # hidden length of the expert of all tokens
    scale: PositiveFloat = 1.0  # of the scores, as weights of the experts
    num_tokens: PositiveInt = 1  # tokens, one after the other, that are routed as one

    def __post_init__(self) -> None:
        check_fields(self, _relations)


def _relations(config: ExpertConfig) -> list[Relation]:
    enough = config.num_active <= config.num_experts
    return [(enough, "num_active", f"at most num_experts {config.num_experts}")]


class Mlp(nn.Module):
    """Two linear maps around a GELU."""

    def __init__(self, dim: int, hidden_dim: int, *, gelu: Gelu = "exact") -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.approximate = _APPROXIMATIONS[gelu]

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token on its own."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward layer of DINOv2's giant model."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        # Two thirds, up to a multiple of 8: about as many multiplications as in `Mlp`.
        gated_dim = (int(hidden_dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * gated_dim)
        self.w3 = nn.Linear(gated_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token on its own."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class ExpertMlp(nn.Module):
    """A mixture of experts: some of several layers for each token, and a shared one.

    After Dai et al., "DeepSeekMoE: Towards Ultimate Expert Specialization in
    Mixture-of-Experts Language Models", ACL 2024.
    """

    def __init__(self, dim: int, config: ExpertConfig, *, gelu: Gelu = "exact") -> None:
        super().__init__()
        self.dim = config.num_tokens * dim
        self.router = _Router(self.dim, config)
        self.experts = nn.ModuleList(
            Mlp(self.dim, config.hidden_dim, gelu=gelu)
            for _ in range(config.num_experts)
        )
        self.shared = Mlp(self.dim, config.shared_dim, gelu=gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token on its own."""
        rows = x.reshape(-1, self.dim)
        chosen, weights = self.router(rows)
        out: Tensor = self.shared(rows)
        for index, expert in enumerate(self.experts):
            row, rank = (chosen == index).nonzero(as_tuple=True)
            update = expert(rows[row]) * weights[row, rank, None]
            out = out.index_add(0, row, update.to(out.dtype))
        return out.reshape(x.shape)


class _Router(nn.Module):
    """Choose experts by score and bias, which kept them equally busy in training."""

    def __init__(self, dim: int, config: ExpertConfig) -> None:
        super().__init__()
        self.num_active, self.scale = config.num_active, config.scale
        self.proj = nn.Linear(dim, config.num_experts, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts (T, k) of tokens (T, D), and their weights."""
        scores = self.proj(x).softmax(-1, dtype=torch.float32)  # T E
        chosen = (scores + self.bias).topk(self.num_active).indices
        weights = scores.gather(1, chosen) * self.scale  # without the bias
        return chosen, weights.to(x.dtype)
