"""Weights of DINOv2 in the layouts of Meta, transformers and timm.

Meta and timm name most parameters alike, and as `SlabEncoder` does; timm calls
registers ``reg_token``, packs SwiGLU into ``mlp.fc1`` and ``mlp.fc2``, has no
mask token, and beside registers adds the class token's position to the class
token itself. transformers names everything in its own way, and keeps query,
key and value apart.
"""

__all__ = ["convert_state", "load_foreign"]

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brainfeat.checkpoint.weight_files import named_tensors, read_tensors
from brainfeat.exceptions import CheckpointError, list_names
from brainfeat.io.json_files import read_json
from brainfeat.models.config import EncoderConfig
from brainfeat.models.layers import NORM_EPS
from brainfeat.models.transfer import KeyProblems, parameter_shapes

# Parameters that DINOv2 does not have.
_MODALITY_VECTORS = ("modality_embed", "absent_embed")
# Parts of a training checkpoint outside the encoder.
_HEADS = re.compile(r"^(student\w*\.|(\w+\.)*(\w*head|classifier|\w+_loss)\.)")
# Parts of names that torch.compile and sharded training add.
_WRAPPERS = re.compile(
    r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)

# Names of our parameters in other libraries: alternatives, each of one name or of
# several that are stacked.
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


def load_foreign(path: Path) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Read and convert a weights file or folder to a configuration and a float32 state.

    The encoder has one modality, T1w, whose three slices take the place of RGB.
    """
    try:
        return convert_state(read_tensors(path), num_heads=_num_heads(path))
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path.name}: ")
        raise CheckpointError(f"{path}: {reason}") from error


def convert_state(
    state: Mapping[str, Any], *, num_heads: int | None = None
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Rename weights in Meta's, transformers' or timm's layout to ours.

    Any prefix (``teacher.``, ``backbone.``, ``module.``) and all heads are removed. A
    missing mask token becomes zeros, missing LayerScale factors become one. By default
    there is an attention head for each 64 channels, as in every DINOv2 model. Raises a
    CheckpointError with every missing, unexpected and mis-shaped key.
    """
    foreign, unexpected = _without_prefix(named_tensors(state))
    _add_class_position(foreign)
    theirs = ("embeddings.", "encoder.layer.")
    is_transformers = any(name.startswith(theirs) for name in foreign)
    layout = _TRANSFORMERS if is_transformers else _META
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
    # Integers are quantised weights, whose scales are stored elsewhere.
    unusable = [
        name
        for name, value in foreign.items()
        if not value.is_floating_point() or not bool(value.float().isfinite().all())
    ]
    if unusable:
        raise CheckpointError(
            "expected finite floating-point weights, got others in "
            f"{list_names(unusable)}."
        )
    return config, {name: value.float() for name, value in converted.items()}


def _num_heads(path: Path) -> int | None:
    """Return the head count in the ``config.json`` of transformers, if there is one."""
    config = path / "config.json"
    if not config.is_file():
        return None
    values = read_json(config, "a model's configuration", error=CheckpointError)
    same = {"hidden_act": "gelu", "layer_norm_eps": NORM_EPS}
    other = {k: values[k] for k in same if values.get(k, same[k]) != same[k]}
    if other:
        raise CheckpointError(
            f"expected the architecture of DINOv2, got {other} in config.json."
        )
    heads = values.get("num_attention_heads")
    return heads if isinstance(heads, int) else None


def _without_prefix(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the encoder's tensors, and names of neither an encoder nor a head."""
    state = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    roots = {
        re.sub(r"(embeddings\.)?cls_token$", "", name)
        for name in state
        if re.search(r"(^|\.)cls_token$", name)
    }
    teachers = {root for root in roots if "teacher" in root}
    # Such as the copy of the student that Lightning modules keep.
    others = tuple(root for root in roots - teachers if root) if teachers else ()
    roots = teachers or roots
    if len(roots) > 1:
        prefixes = list_names(map(repr, sorted(roots)))
        raise CheckpointError(f"expected one encoder, got prefixes {prefixes}.")
    root = roots.pop() if roots else ""
    inside, outside = {}, []
    for name, value in state.items():
        short = name.removeprefix(root)
        if name.startswith(root) and not _HEADS.match(short):
            # Sharded training numbers chunks of blocks; the block keeps its index.
            inside[re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", short)] = value
        elif not _HEADS.match(name) and not name.startswith(others):
            outside.append(name)
    return inside, outside


def _add_class_position(state: dict[str, Tensor]) -> None:
    """Restore the position of the class token, which timm adds to the token."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or "reg_token" not in state:
        return
    if math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        zero = positions.new_zeros(positions.shape[0], 1, positions.shape[2])
        state["pos_embed"] = torch.cat([zero, positions], 1)


_Layout = Mapping[str, tuple[tuple[str, ...], ...]]


def _sources(name: str, layout: _Layout, state: Mapping[str, Tensor]) -> list[str]:
    """Return the foreign names that make up one of our parameters."""
    # Such as ``blocks.3.attn.qkv.weight``: block, layer and kind of parameter.
    match = re.match(r"^(blocks\.\d+\.)?(.*?)(\.weight|\.bias)?$", name)
    block, stem, kind = match.groups("") if match else ("", name, "")
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


def _default(name: str, layout: _Layout, state: Mapping[str, Tensor]) -> float | None:
    """Return the value of a parameter that some layouts leave out, else None."""
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
    # Infer sizes by majority, so that one damaged tensor is reported.
    shape_of = partial(_stacked_shape, layout=layout, state=state)
    matches = [re.match(r"^(blocks|encoder\.layer)\.(\d+)\.", name) for name in state]
    depth = 1 + max((int(match[2]) for match in matches if match), default=-1)
    blocks = [f"blocks.{index}." for index in range(depth)]
    norms = ["norm.weight", *(f"{block}norm1.weight" for block in blocks)]
    embed_dim = _majority(shape_of(name)[:1] for name in norms)
    if not depth or not embed_dim:
        raise CheckpointError(
            "expected transformer blocks in the layout of Meta, transformers or timm, "
            f"got keys {list_names(state)}."
        )
    gated = _majority(shape_of(f"{block}mlp.w3.weight")[1:] for block in blocks)
    packed = _majority(shape_of(f"{block}mlp.w12.weight")[:1] for block in blocks)
    hidden = _majority(shape_of(f"{block}mlp.fc1.weight")[:1] for block in blocks)
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
    """Return the shape of one of our parameters, () if it is missing."""
    sources = _sources(name, layout, state)
    shapes = [tuple(state[source].shape) for source in sources if source in state]
    if len(shapes) < len(sources) or not shapes[0]:
        return ()
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _majority(sizes: Iterable[tuple[int, ...]]) -> int:
    """Return the most common size, 0 if there is none."""
    ranking = Counter(size[0] for size in sizes if size).most_common(1)
    return ranking[0][0] if ranking else 0


def _default_heads(embed_dim: int) -> int:
    if embed_dim % 64:
        raise CheckpointError(
            f"unknown number of attention heads: {embed_dim} channels are not a "
            "multiple of DINOv2's 64 per head. Pass num_heads, or a folder with the "
            "config.json of transformers."
        )
    return embed_dim // 64


def _gated_ratio(embed_dim: int, gated: int) -> float:
    """Return the ratio for which `SwiGLU` has this length, 4.0 where it fits."""
    nominal = int(4.0 * embed_dim * 2 / 3)
    return 4.0 if (nominal + 7) // 8 * 8 == gated else 1.5 * gated / embed_dim
