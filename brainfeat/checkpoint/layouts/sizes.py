"""Sizes of an encoder, from the shapes of its weights, and a check of values."""

__all__ = ["check_values", "count_blocks", "count_heads", "list_norms", "majority"]

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor

from brainfeat.exceptions import CheckpointError, list_names

_HEAD_DIM = 64


def count_blocks(names: Iterable[str], prefix: str = "blocks.") -> int:
    """Return one more than the highest index of a block, 0 if there is none."""
    matches = [re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names]
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def count_heads(embed_dim: int) -> int:
    """Return the attention heads of a width: all known models have 64 channels each."""
    if embed_dim % _HEAD_DIM:
        raise CheckpointError(
            f"unknown number of attention heads: {embed_dim} channels are not a "
            "multiple of DINOv2's 64 per head. Pass num_heads, or a folder with the "
            "config.json of transformers."
        )
    return embed_dim // _HEAD_DIM


def list_norms(depth: int) -> list[str]:
    """Return our names of parameters that are as long as a token."""
    layers = ["norm", *(f"blocks.{i}.norm{n}" for i in range(depth) for n in (1, 2))]
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def majority(sizes: Iterable[tuple[int, ...]]) -> int:
    """Return the most common first size, 0 if there is none."""
    ranking = Counter(size[0] for size in sizes if size).most_common(1)
    return ranking[0][0] if ranking else 0


def check_values(state: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError unless all weights are finite floats."""
    # Integers are quantised weights, whose scales are stored elsewhere.
    unusable = [
        name
        for name, value in state.items()
        if not value.is_floating_point() or not bool(value.float().isfinite().all())
    ]
    if unusable:
        raise CheckpointError(
            "expected finite floating-point weights, got others in "
            f"{list_names(unusable)}."
        )
