"""Weights of DINOv2 in the layouts of Meta, transformers and timm.

Meta and timm name most parameters alike, and as `SlabEncoder` does; timm calls
registers ``reg_token``, packs SwiGLU into ``mlp.fc1`` and ``mlp.fc2``, has no
mask token, and beside registers adds the class token's position to the class
token itself. transformers names everything in its own way, and keeps query,
key and value apart.
"""

__all__ = [
    "convert_state",
    "load_foreign",
    "read_foreign",
    "transfer_weights",
]

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brainfeat.checkpoint.weight_files import named_tensors, read_foreign
from brainfeat.exceptions import CheckpointError
from brainfeat.io.json_files import read_json
from brainfeat.models.config import EncoderConfig
from brainfeat.models.layers import NORM_EPS
from brainfeat.models.transfer import (
    KeyProblems,
    parameter_shapes,
    transfer_weights,
)

# What our encoder learns beside DINOv2's parameters.
_MODALITY_VECTORS = ("modality_embed", "absent_embed")
# Parts of a training checkpoint that are no part of the encoder.
_HEADS = re.compile(
    r"^(student\.|(\w+\.)*(dino_head|ibot_head|head|classifier|dino_loss|ibot_patch_loss)\.)"
)

# What a parameter of our block may be called elsewhere: alternatives, each of
# one name or of several that are stacked.
_META = {
    "mlp.w12": (("mlp.w12",), ("mlp.fc1",)),
    "mlp.w3": (("mlp.w3",), ("mlp.fc2",)),
    "register_tokens": (("register_tokens",), ("reg_token",)),
}
_ATTENTION = "attention.attention."
_TRANSFORMERS = {
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


def load_foreign(
    path: str | os.PathLike[str],
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Read and convert weights; a folder's ``config.json`` tells the head count.

    Parameters
    ----------
    path : path
        A file or folder that `read_foreign` reads.

    Returns
    -------
    config : EncoderConfig
        One modality, T1w, whose three slices take the place of RGB.
    state : dict of str to float32 Tensor
        Parameters of a `SlabEncoder` with this configuration.

    Raises
    ------
    CheckpointError
        If the weights cannot be read or do not fit the architecture.
    """
    path = Path(path)
    try:
        return convert_state(read_foreign(path), num_heads=_num_heads(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def convert_state(
    state: Mapping[str, Any], *, num_heads: int | None = None
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Rename weights in Meta's, transformers' or timm's layout to ours.

    Any prefix (``teacher.``, ``backbone.``, ``module.``) is removed, and heads
    of pretraining or classification are left out. Weights without a mask token
    get one of zeros; weights without any LayerScale get factors of one.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights of a DINOv2 vision transformer.
    num_heads : int, optional
        Attention heads. The weights do not tell; every DINOv2 model has one for
        each 64 channels, which is the default.

    Returns
    -------
    config : EncoderConfig
        One modality, T1w, whose three slices take the place of RGB.
    state : dict of str to float32 Tensor
        Parameters of a `SlabEncoder` with this configuration.

    Raises
    ------
    CheckpointError
        With every missing, unexpected and mis-shaped key, or with those whose values
        are quantised or not finite.
    """
    foreign, unexpected = _without_prefix(named_tensors(state))
    _add_class_position(foreign)
    layout = _TRANSFORMERS if _is_transformers(foreign) else _META
    config = _infer_config(foreign, layout, num_heads)
    converted: dict[str, Tensor] = {}
    problems = KeyProblems(unexpected=unexpected)
    used: set[str] = set()
    for name, shape in parameter_shapes(config).items():
        sources = _sources(name, layout, foreign)
        used.update(sources)
        default = _default(name, layout, foreign)
        if default is not None:
            converted[name] = torch.full(shape, default)
        elif problems.check(sources, foreign, shape):
            converted[name] = torch.cat([foreign[source] for source in sources])
    problems.unexpected += [name for name in foreign if name not in used]
    problems.raise_if_any()
    # Whole numbers are quantised weights, whose scales are kept elsewhere.
    unusable = [
        name
        for name, value in foreign.items()
        if not value.is_floating_point() or not bool(value.float().isfinite().all())
    ]
    if unusable:
        raise CheckpointError(
            "expected weights that are finite floating-point numbers, got others in "
            f"{', '.join(unusable)}."
        )
    return config, {name: value.float() for name, value in converted.items()}


def _num_heads(path: Path) -> int | None:
    """Return the head count that transformers wrote, if there is one.

    Raises
    ------
    CheckpointError
        If ``config.json`` tells of another architecture.
    """
    config = path / "config.json"
    if not config.is_file():
        return None
    values = read_json(config, "a model's configuration", error=CheckpointError)
    same = {"hidden_act": "gelu", "layer_norm_eps": NORM_EPS}
    other = {
        key: values[key] for key in same if values.get(key, same[key]) != same[key]
    }
    if other:
        raise CheckpointError(f"no DINOv2 architecture: config.json has {other}.")
    heads = values.get("num_attention_heads")
    return heads if isinstance(heads, int) else None


def _without_prefix(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    # Gives the encoder's own tensors, and names that neither it nor a head has.
    roots = {
        re.sub(r"(embeddings\.)?cls_token$", "", name)
        for name in state
        if re.search(r"(^|\.)cls_token$", name)
    }
    teachers = {root for root in roots if "teacher" in root}
    roots = teachers or roots
    if len(roots) > 1:
        raise CheckpointError(f"several encoders, with prefixes {sorted(roots)}.")
    root = roots.pop() if roots else ""
    inside, outside = {}, []
    for name, value in state.items():
        short = name.removeprefix(root)
        if name.startswith(root) and not _HEADS.match(short):
            # Sharded training numbers chunks of blocks; the block keeps its index.
            inside[re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", short)] = value
        elif not _HEADS.match(name):
            outside.append(name)
    return inside, outside


def _add_class_position(state: dict[str, Tensor]) -> None:
    """Put back the class token's place where timm has added it to the token."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or "reg_token" not in state:
        return
    if math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        zero = positions.new_zeros(positions.shape[0], 1, positions.shape[2])
        state["pos_embed"] = torch.cat([zero, positions], 1)


def _is_transformers(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(("embeddings.", "encoder.layer.")) for name in state)


_Layout = Mapping[str, tuple[tuple[str, ...], ...]]


def _sources(name: str, layout: _Layout, state: Mapping[str, Tensor]) -> list[str]:
    """Return the foreign names that make up one of our parameters."""
    block, stem, kind = _split_name(name)
    if layout is _TRANSFORMERS:
        block = block.replace("blocks.", "encoder.layer.")
    alternatives = [
        [f"{block}{part}{kind}" for part in parts]
        for parts in layout.get(stem, ((stem,),))
    ]
    for names in alternatives:
        if any(foreign in state for foreign in names):
            return names
    return alternatives[0]


def _split_name(name: str) -> tuple[str, str, str]:
    """Split ``blocks.3.attn.qkv.weight`` into block, layer and kind of parameter."""
    match = re.match(r"^(blocks\.\d+\.)?(.*?)(\.weight|\.bias)?$", name)
    block, stem, kind = match.groups("") if match else ("", name, "")
    return block, stem, kind


def _default(name: str, layout: _Layout, state: Mapping[str, Tensor]) -> float | None:
    """Return the value of parameters that some layouts leave out, else None."""
    if name in _MODALITY_VECTORS:
        return 0.0
    if name == "mask_token" and not set(_sources(name, layout, state)) & set(state):
        return 0.0
    if name.endswith(".gamma"):
        scales = ("gamma", "lambda1")  # none anywhere: a ViT without LayerScale
        return None if any(key.endswith(scales) for key in state) else 1.0
    return None


def _infer_config(
    state: Mapping[str, Tensor], layout: _Layout, num_heads: int | None
) -> EncoderConfig:
    # Sizes are put to the vote, so that one damaged tensor is found as such.
    shape_of = partial(_stacked_shape, layout=layout, state=state)
    indices = [re.match(r"^(blocks|encoder\.layer)\.(\d+)\.", name) for name in state]
    depth = 1 + max((int(found[2]) for found in indices if found), default=-1)
    blocks = [f"blocks.{index}." for index in range(depth)]
    norms = ["norm.weight", *(f"{block}norm1.weight" for block in blocks)]
    embed_dim = _vote(shape_of(name)[:1] for name in norms)
    if not depth or not embed_dim:
        raise CheckpointError(
            "no transformer blocks in the layout of Meta, transformers or timm among "
            f"the keys: {', '.join([*state][:5])}, ..."
        )
    gated = _vote(shape_of(f"{block}mlp.w3.weight")[1:] for block in blocks)
    packed = _vote(shape_of(f"{block}mlp.w12.weight")[:1] for block in blocks)
    hidden = _vote(shape_of(f"{block}mlp.fc1.weight")[:1] for block in blocks)
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
        num_heads=num_heads or _default_heads(embed_dim),
        mlp_ratio=_gated_ratio(embed_dim, gated) if is_swiglu else hidden / embed_dim,
        ffn="swiglu" if is_swiglu else "mlp",
        num_register_tokens=registers[1] if len(registers) > 1 else 0,
        position_mode="antialiased" if registers else "bicubic",
    )


def _stacked_shape(
    name: str, layout: _Layout, state: Mapping[str, Tensor]
) -> tuple[int, ...]:
    """Return the shape of one of our parameters, empty if it is not there."""
    sources = _sources(name, layout, state)
    found = [tuple(state[source].shape) for source in sources if source in state]
    if len(found) < len(sources) or not found[0]:
        return ()
    return (sum(shape[0] for shape in found), *found[0][1:])


def _vote(sizes: Iterable[tuple[int, ...]]) -> int:
    """Return the size that most tensors have, 0 if there are none."""
    ranking = Counter(size[0] for size in sizes if size).most_common(1)
    return ranking[0][0] if ranking else 0


def _default_heads(embed_dim: int) -> int:
    if embed_dim % 64:
        raise CheckpointError(
            f"cannot tell the number of attention heads: {embed_dim} channels are no "
            "multiple of DINOv2's 64 a head. Pass num_heads, or a folder with the "
            "config.json of transformers."
        )
    return embed_dim // 64


def _gated_ratio(embed_dim: int, gated: int) -> float:
    """Return a ratio for which `SwiGLU` has this length; DINOv2's 4 if it does."""
    nominal = int(4.0 * embed_dim * 2 / 3)
    return 4.0 if (nominal + 7) // 8 * 8 == gated else 1.5 * gated / embed_dim
