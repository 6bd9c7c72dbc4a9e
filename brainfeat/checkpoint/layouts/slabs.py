"""Weights of DINOv2 and DINOv3, renamed to ours."""

__all__ = ["SlabLayout"]

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from brainfeat.checkpoint.layouts.names import likeness, split_encoder
from brainfeat.checkpoint.layouts.sizes import (
    check_values,
    count_blocks,
    count_heads,
    list_norms,
    majority,
)
from brainfeat.exceptions import CheckpointError, list_names
from brainfeat.models.config import NORM_EPS, EncoderConfig, Positions
from brainfeat.models.transfer import KeyProblems, parameter_shapes

_Shape = tuple[int, ...]
_ATTENTION_PARTS = ("norm1", "norm2", "attn.qkv", "attn.proj")
_REQUIRED = (
    *("cls_token", "patch_embed.proj", "norm"),
    *(f"blocks.*.{part}" for part in _ATTENTION_PARTS),
)
_OPTIONAL_PARTS = (
    *("ls1.gamma", "ls2.gamma"),
    *("mlp.fc1", "mlp.fc2", "mlp.w12", "mlp.w3"),
)
_OPTIONAL = (
    *("mask_token", "register_tokens"),
    *(f"blocks.*.{part}" for part in _OPTIONAL_PARTS),
)
# Parameters that neither has.
_MODALITY_VECTORS = ("modality_embed", "absent_embed")
# Computed from the configuration, or used in training alone.
_UNUSED = re.compile(r"(^|.*\.)(rope_embed\.|attn\.qkv\.bias_mask$|local_cls_norm\.)")
_NORM_EPS_3 = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlabLayout:
    """How a library stores DINOv2 or, with rotary positions, DINOv3.

    `names` has theirs for ours: alternatives, each of one name or of several that are
    stacked. `block` stands before the index of a block.
    """

    name: str  # as in the table of known encoders
    title: str
    names: Mapping[str, tuple[tuple[str, ...], ...]]
    block: str = "blocks."
    positions: Positions = "learned"

    @cached_property
    def required(self) -> set[str]:
        """Their families of stems that each file has."""
        table = "pos_embed" if self.positions == "learned" else "register_tokens"
        found = (self._alternatives(name) for name in (*_REQUIRED, table))
        return {name for names in found if len(names) == 1 for name in names[0]}

    @cached_property
    def stems(self) -> set[str]:
        """All their families of stems."""
        found = (self._alternatives(name) for name in (*_REQUIRED, *_OPTIONAL))
        return self.required | {n for names in found for part in names for n in part}

    def likeness(self, state: Mapping[str, Tensor]) -> float:
        """Return which fraction of the stems, of a file and of this, are in both."""
        kept = {k: v for k, v in state.items() if not _UNUSED.match(k)}
        kernel = self._alternatives("patch_embed.proj")[0][0]
        fits = {kernel: lambda shape: len(shape) == 4}
        return likeness(kept, self.required, self.stems - self.required, fits)

    def convert(
        self, state: Mapping[str, Tensor], num_heads: int | None = None
    ) -> tuple[EncoderConfig, dict[str, Tensor], str]:
        """Return configuration and weights, and an empty note."""
        kept = {k: v for k, v in state.items() if not _UNUSED.match(k)}
        foreign, unexpected = split_encoder(kept, self.stems)
        self._prepare(foreign)
        config = self._infer(foreign, num_heads)
        converted: dict[str, Tensor] = {}
        problems = KeyProblems(unexpected=unexpected)
        used: set[str] = set()
        for name, shape in parameter_shapes(config).items():
            sources = self._sources(name, foreign)
            used.update(sources)
            default = self._default(name, foreign)
            if default is not None:
                converted[name] = torch.full(shape, default)
            elif problems.check(sources, foreign, shape):
                converted[name] = torch.cat([foreign[source] for source in sources])
        problems.unexpected += [name for name in foreign if name not in used]
        problems.raise_if_any(self.title)
        check_values(foreign)
        return config, {k: v.float() for k, v in converted.items()}, ""

    def _prepare(self, state: dict[str, Tensor]) -> None:
        """Fill in, or take out, what a library keeps elsewhere than we do."""
        if self.positions == "learned":
            _add_class_position(state)
            return
        mask = self._sources("mask_token", state)[0]
        if mask in state and state[mask].ndim == 3:
            state[mask] = state[mask][0]
        _remove_key_biases(state)

    def _infer(
        self, state: Mapping[str, Tensor], num_heads: int | None
    ) -> EncoderConfig:
        """Infer sizes by majority, so that one damaged tensor is reported."""
        shape_of = partial(self._stacked_shape, state=state)
        depth = count_blocks(state, self.block)
        blocks = [f"blocks.{index}." for index in range(depth)]
        embed_dim = majority(shape_of(name)[:1] for name in list_norms(depth))
        if not depth or not embed_dim:
            raise CheckpointError(
                f"expected transformer blocks of {self.title}, got keys "
                f"{list_names(state)}."
            )
        gated = majority(shape_of(f"{block}mlp.w3.weight")[1:] for block in blocks)
        packed = majority(shape_of(f"{block}mlp.w12.weight")[:1] for block in blocks)
        hidden = majority(shape_of(f"{block}mlp.fc1.weight")[:1] for block in blocks)
        is_swiglu = gated > 0 and packed == 2 * gated
        ratio = _gated_ratio(embed_dim, gated) if is_swiglu else hidden / embed_dim
        registers = shape_of("register_tokens")
        return EncoderConfig(
            modalities=("T1w",),
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads or count_heads(embed_dim),
            mlp_ratio=ratio,
            ffn="swiglu" if is_swiglu else "mlp",
            num_register_tokens=registers[1] if len(registers) > 1 else 0,
            positions=self.positions,
            position_mode="antialiased" if registers else "bicubic",
            norm_eps=NORM_EPS if self.positions == "learned" else _NORM_EPS_3,
            **_infer_images(shape_of("patch_embed.proj.weight"), shape_of("pos_embed")),
        )

    def _stacked_shape(self, name: str, state: Mapping[str, Tensor]) -> _Shape:
        """Return the shape of one of our parameters, () if it is missing."""
        sources = self._sources(name, state)
        shapes = [tuple(state[source].shape) for source in sources if source in state]
        if len(shapes) < len(sources) or not shapes[0]:
            return ()
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _default(self, name: str, state: Mapping[str, Tensor]) -> float | None:
        """Return the value of a parameter that some files leave out, else None."""
        if name in _MODALITY_VECTORS:
            return 0.0
        if name == "mask_token" and not set(self._sources(name, state)) & set(state):
            return 0.0
        if name.endswith(".gamma"):
            scales = ("gamma", "lambda1")  # none anywhere: a ViT without LayerScale
            return None if any(key.endswith(scales) for key in state) else 1.0
        return None

    def _sources(self, name: str, state: Mapping[str, Tensor]) -> list[str]:
        """Return the foreign names that make up one of our parameters."""
        alternatives = self._alternatives(name)
        for sources in alternatives:
            if any(foreign in state for foreign in sources):
                return sources
        return alternatives[0]

    def _alternatives(self, name: str) -> list[list[str]]:
        # Such as ``blocks.3.attn.qkv.weight``: block, layer and kind of parameter.
        pattern = r"^(blocks\.(?:\d+|\*)\.)?(.*?)(\.weight|\.bias)?$"
        match = re.match(pattern, name)
        block, stem, kind = match.groups("") if match else ("", name, "")
        block = block.replace("blocks.", self.block)
        return [
            [f"{block}{part}{kind}" for part in parts]
            for parts in self.names.get(stem, ((stem,),))
        ]


def _add_class_position(state: dict[str, Tensor]) -> None:
    """Restore the position of the class token, which timm adds to the token."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or "reg_token" not in state:
        return
    if math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        zero = positions.new_zeros(positions.shape[0], 1, positions.shape[2])
        state["pos_embed"] = torch.cat([zero, positions], 1)


def _remove_key_biases(state: dict[str, Tensor]) -> None:
    """Set the biases of keys to zero: DINOv3 has none, or masks them."""
    for name, value in list(state.items()):
        if name.endswith("attn.qkv.bias"):
            query, key, values = value.chunk(3)
            state[name] = torch.cat([query, torch.zeros_like(key), values])
        if name.endswith("attention.q_proj.bias"):
            key_name = name.replace("q_proj", "k_proj")
            state.setdefault(key_name, torch.zeros_like(value))


def _infer_images(kernel: _Shape, table: _Shape) -> dict[str, Any]:
    """Return channels, patch size and, of the stored positions, the image size."""
    kernel, n_positions = (*kernel, 0, 0, 0, 0), (*table, 0, 0)[1]
    patch_size = max(kernel[3], 1)
    image_size = max(math.isqrt(max(n_positions - 1, 1)), 1) * patch_size
    return {
        "thickness": max(kernel[1], 1),
        "patch_size": patch_size,
        "image_size": (image_size, image_size),
    }


def _gated_ratio(embed_dim: int, gated: int) -> float:
    """Return the ratio for which `SwiGLU` has this length, 4.0 where it fits."""
    nominal = int(4.0 * embed_dim * 2 / 3)
    return 4.0 if (nominal + 7) // 8 * 8 == gated else 1.5 * gated / embed_dim
