"""Weights of DINOv2 in the layouts of Meta, transformers and timm.

Meta and timm name most parameters alike, and as `SlabEncoder` does; timm calls
registers ``reg_token``, packs SwiGLU into ``mlp.fc1`` and ``mlp.fc2``, has no
mask token, and beside registers adds the class token's position to the class
token itself. transformers names everything in its own way, and keeps query,
key and value apart.
"""

__all__ = ["SLAB_LAYOUTS", "SlabLayout"]

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import cached_property, partial

import torch
from torch import Tensor

from brainfeat.checkpoint.layouts.names import likeness, split_encoder
from brainfeat.checkpoint.layouts.sizes import check_values, count_heads, majority
from brainfeat.exceptions import CheckpointError, list_names
from brainfeat.models.config import EncoderConfig
from brainfeat.models.transfer import KeyProblems, parameter_shapes

_REQUIRED = (
    *("cls_token", "pos_embed", "patch_embed.proj", "norm"),
    *(f"blocks.*.{part}" for part in ("norm1", "norm2", "attn.qkv", "attn.proj")),
)
_FEED_FORWARD = ("mlp.fc1", "mlp.fc2", "mlp.w12", "mlp.w3")
_OPTIONAL = (
    *("mask_token", "register_tokens"),
    *(f"blocks.*.{part}" for part in ("ls1.gamma", "ls2.gamma", *_FEED_FORWARD)),
)
# Parameters that DINOv2 does not have.
_MODALITY_VECTORS = ("modality_embed", "absent_embed")
# Names of our parameters in other libraries: alternatives, each of one name or of
# several that are stacked.
_Names = Mapping[str, tuple[tuple[str, ...], ...]]
_META: _Names = {
    "mlp.w12": (("mlp.w12",), ("mlp.fc1",)),
    "mlp.w3": (("mlp.w3",), ("mlp.fc2",)),
    "register_tokens": (("register_tokens",), ("reg_token",)),
}
_ATTENTION = "attention.attention."
_TRANSFORMERS: _Names = {
    "cls_token": (("embeddings.cls_token",),),
    "mask_token": (("embeddings.mask_token",),),
    "register_tokens": (("embeddings.register_tokens",),),
    "pos_embed": (("embeddings.position_embeddings",),),
    "patch_embed.proj": (("embeddings.patch_embeddings.projection",),),
    "norm": (("layernorm",),),
    "attn.qkv": (
        (f"{_ATTENTION}query", f"{_ATTENTION}key", f"{_ATTENTION}value"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ),
    "attn.proj": (("attention.output.dense",), ("attention.o_proj",)),
    "ls1.gamma": (("layer_scale1.lambda1",),),
    "ls2.gamma": (("layer_scale2.lambda1",),),
    "mlp.w12": (("mlp.weights_in",), ("mlp.gate_proj", "mlp.up_proj")),
    "mlp.w3": (("mlp.weights_out",), ("mlp.down_proj",)),
}


@dataclasses.dataclass(frozen=True)
class SlabLayout:
    """How a library stores DINOv2; `names` are theirs for ours."""

    name: str  # as in the table of known encoders
    title: str
    names: _Names

    @cached_property
    def required(self) -> set[str]:
        """Their families of stems that each file has."""
        found = (_alternatives(name, self.names) for name in _REQUIRED)
        return {name for names in found if len(names) == 1 for name in names[0]}

    @cached_property
    def stems(self) -> set[str]:
        """All their families of stems."""
        found = (_alternatives(name, self.names) for name in _REQUIRED + _OPTIONAL)
        return {name for names in found for part in names for name in part}

    def likeness(self, state: Mapping[str, Tensor]) -> float:
        """Return which fraction of the stems, of a file and of this, are in both."""
        kernel = _alternatives("patch_embed.proj", self.names)[0][0]
        fits = {kernel: lambda shape: len(shape) == 4}
        return likeness(state, self.required, self.stems - self.required, fits)

    def convert(
        self, state: Mapping[str, Tensor], num_heads: int | None = None
    ) -> tuple[EncoderConfig, dict[str, Tensor], str]:
        """Return configuration and weights, and an empty note."""
        foreign, unexpected = split_encoder(state, self.stems)
        _add_class_position(foreign)
        config = _infer_config(foreign, self.names, num_heads)
        converted: dict[str, Tensor] = {}
        problems = KeyProblems(unexpected=unexpected)
        used: set[str] = set()
        for name, shape in parameter_shapes(config).items():
            sources = _sources(name, self.names, foreign)
            used.update(sources)
            default = _default(name, self.names, foreign)
            if default is not None:
                converted[name] = torch.full(shape, default)
            elif problems.check(sources, foreign, shape):
                converted[name] = torch.cat([foreign[source] for source in sources])
        problems.unexpected += [name for name in foreign if name not in used]
        problems.raise_if_any(self.title)
        check_values(foreign)
        return config, {k: v.float() for k, v in converted.items()}, ""


SLAB_LAYOUTS = (
    SlabLayout("dinov2", "DINOv2 of Meta or timm", _META),
    SlabLayout("dinov2", "DINOv2 of transformers", _TRANSFORMERS),
)


def _add_class_position(state: dict[str, Tensor]) -> None:
    """Restore the position of the class token, which timm adds to the token."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or "reg_token" not in state:
        return
    if math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        zero = positions.new_zeros(positions.shape[0], 1, positions.shape[2])
        state["pos_embed"] = torch.cat([zero, positions], 1)


def _sources(name: str, names: _Names, state: Mapping[str, Tensor]) -> list[str]:
    """Return the foreign names that make up one of our parameters."""
    alternatives = _alternatives(name, names)
    for sources in alternatives:
        if any(foreign in state for foreign in sources):
            return sources
    return alternatives[0]


def _alternatives(name: str, names: _Names) -> list[list[str]]:
    # Such as ``blocks.3.attn.qkv.weight``: block, layer and kind of parameter.
    match = re.match(r"^(blocks\.(?:\d+|\*)\.)?(.*?)(\.weight|\.bias)?$", name)
    block, stem, kind = match.groups("") if match else ("", name, "")
    if names is _TRANSFORMERS:
        block = block.replace("blocks.", "encoder.layer.")
    return [
        [f"{block}{part}{kind}" for part in parts]
        for parts in names.get(stem, ((stem,),))
    ]


def _default(name: str, names: _Names, state: Mapping[str, Tensor]) -> float | None:
    """Return the value of a parameter that some layouts leave out, else None."""
    if name in _MODALITY_VECTORS:
        return 0.0
    if name == "mask_token" and not set(_sources(name, names, state)) & set(state):
        return 0.0
    if name.endswith(".gamma"):
        scales = ("gamma", "lambda1")  # none anywhere: a ViT without LayerScale
        return None if any(key.endswith(scales) for key in state) else 1.0
    return None


def _infer_config(
    state: Mapping[str, Tensor], names: _Names, num_heads: int | None
) -> EncoderConfig:
    # Infer sizes by majority, so that one damaged tensor is reported.
    shape_of = partial(_stacked_shape, names=names, state=state)
    matches = [re.match(r"^(blocks|encoder\.layer)\.(\d+)\.", name) for name in state]
    depth = 1 + max((int(match[2]) for match in matches if match), default=-1)
    blocks = [f"blocks.{index}." for index in range(depth)]
    norms = ["norm.weight", *(f"{block}norm1.weight" for block in blocks)]
    embed_dim = majority(shape_of(name)[:1] for name in norms)
    if not depth or not embed_dim:
        raise CheckpointError(
            "expected transformer blocks in the layout of Meta, transformers or timm, "
            f"got keys {list_names(state)}."
        )
    gated = majority(shape_of(f"{block}mlp.w3.weight")[1:] for block in blocks)
    packed = majority(shape_of(f"{block}mlp.w12.weight")[:1] for block in blocks)
    hidden = majority(shape_of(f"{block}mlp.fc1.weight")[:1] for block in blocks)
    is_swiglu = gated > 0 and packed == 2 * gated
    kernel = (*shape_of("patch_embed.proj.weight"), 0, 0, 0, 0)
    patch_size, n_positions = max(kernel[3], 1), (*shape_of("pos_embed"), 0, 0)[1]
    image_size = max(math.isqrt(max(n_positions - 1, 1)), 1) * patch_size
    registers = shape_of("register_tokens")
    return EncoderConfig(
        modalities=("T1w",),
        thickness=max(kernel[1], 1),
        patch_size=patch_size,
        image_size=(image_size, image_size),
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads or count_heads(embed_dim),
        mlp_ratio=_gated_ratio(embed_dim, gated) if is_swiglu else hidden / embed_dim,
        ffn="swiglu" if is_swiglu else "mlp",
        num_register_tokens=registers[1] if len(registers) > 1 else 0,
        position_mode="antialiased" if registers else "bicubic",
    )


def _stacked_shape(
    name: str, names: _Names, state: Mapping[str, Tensor]
) -> tuple[int, ...]:
    """Return the shape of one of our parameters, () if it is missing."""
    sources = _sources(name, names, state)
    shapes = [tuple(state[source].shape) for source in sources if source in state]
    if len(shapes) < len(sources) or not shapes[0]:
        return ()
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _gated_ratio(embed_dim: int, gated: int) -> float:
    """Return the ratio for which `SwiGLU` has this length, 4.0 where it fits."""
    nominal = int(4.0 * embed_dim * 2 / 3)
    return 4.0 if (nominal + 7) // 8 * 8 == gated else 1.5 * gated / embed_dim
