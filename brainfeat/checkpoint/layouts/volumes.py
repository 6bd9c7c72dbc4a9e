"""Weights of transformers over 3D patches, renamed and reshaped to ours."""

__all__ = ["VolumeLayout"]

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch import Tensor

from brainfeat.checkpoint.layouts.names import Renaming, likeness, split_encoder
from brainfeat.checkpoint.layouts.sizes import (
    check_values,
    count_blocks,
    count_heads,
    list_norms,
    majority,
)
from brainfeat.models.feed_forward import ExpertConfig
from brainfeat.models.transfer import KeyProblems, parameter_shapes
from brainfeat.models.volume_config import VolumeConfig

_Shape = tuple[int, ...]
_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.fc1\.")
_CROSS_ATTENTION = "cross_attn"
_NOTE = (
    "Its {} parameters of cross-attention, which MONAI 1.4 and later export, are not "
    "used without a context, and were dropped."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VolumeLayout:
    """How a library stores one architecture.

    `names` has our families of stems for theirs, and None for those that are of no use
    here. `settings` are fields of the configuration, and `experts` of its experts, that
    keys and shapes do not tell.
    """

    name: str  # as in the table of known encoders
    title: str
    names: Mapping[str, str | None]
    settings: Mapping[str, Any]
    experts: Mapping[str, Any] | None = None
    streams: tuple[str, ...] = ("",)  # their names of modalities, in our order
    outside: str = r"(?!)"  # names beside the encoder that are dropped
    is_flat: bool = False  # whether patches are vectors, not voxels of a kernel
    has_class_position: bool = False

    @cached_property
    def stems(self) -> dict[str, str | None]:
        """Our stems for theirs; ``*`` is an index."""
        return {
            theirs.format(stream=stream): ours and ours.format(index=index)
            for theirs, ours in self.names.items()
            for index, stream in enumerate(self.streams)
        }

    def likeness(self, state: Mapping[str, Tensor]) -> float:
        """Return which fraction of the stems, of a file and of this, are in both."""
        unused = {theirs for theirs, ours in self.stems.items() if ours is None}
        kept = {k: v for k, v in state.items() if not re.match(self.outside, k)}
        kernels = {
            theirs: self._is_kernel
            for theirs, ours in self.stems.items()
            if ours and re.match(r"patch_embed\.\d+\.proj", ours)
        }
        return likeness(kept, self.stems.keys() - unused, unused, kernels)

    def convert(
        self, state: Mapping[str, Tensor], num_heads: int | None = None
    ) -> tuple[VolumeConfig, dict[str, Tensor], str]:
        """Return configuration and weights, and a note on what was dropped."""
        renaming = Renaming(self.stems)
        inside, beside = split_encoder(state, self.stems)
        theirs = {ours: name for name in inside if (ours := renaming.ours(name))}
        shapes = {ours: tuple(inside[name].shape) for ours, name in theirs.items()}
        config = self._infer(shapes, num_heads)
        needed = parameter_shapes(config)
        outside = [name for name in beside if not re.match(self.outside, name)]
        sources = {name: theirs.get(name, renaming.theirs(name)) for name in needed}
        unused = [name for name in inside if renaming.is_unused(name)]
        known = {*sources.values(), *unused}
        unexpected = [*outside, *(name for name in inside if name not in known)]
        problems = KeyProblems(unexpected=unexpected)
        result = {
            name: _arrange(inside[sources[name]], shape)
            for name, shape in needed.items()
            if problems.check(
                [sources[name]], inside, self._their_shape(name, shape, config)
            )
        }
        problems.raise_if_any(self.title)
        check_values({name: inside[name] for name in sources.values()})
        if self.has_class_position:
            table = inside[sources["patch_embed.0.pos_embed"]]
            result["cls_token"] = result["cls_token"] + table[0, :1]
        extra = [name for name in unused if _CROSS_ATTENTION in name]
        return config, result, _NOTE.format(len(extra)) if extra else ""

    def _is_kernel(self, shape: _Shape) -> bool:
        return len(shape) == 2 if self.is_flat else len(shape) == 5 and shape[1] == 1

    def _infer(self, shapes: Mapping[str, _Shape], heads: int | None) -> VolumeConfig:
        """Infer sizes by majority, so that one damaged tensor is reported."""
        depth = count_blocks(shapes)
        blocks = [f"blocks.{index}." for index in range(depth)]
        dim = majority(shapes.get(name, ()) for name in list_norms(depth))
        hidden = majority(s for n, s in shapes.items() if ".mlp.fc1." in n)
        sizes: dict[str, Any] = {
            "embed_dim": dim,
            "depth": depth,
            "num_heads": heads or count_heads(dim),
            "mlp_ratio": hidden / max(dim, 1) or 4.0,
            "qkv_bias": any(f"{block}attn.qkv.bias" in shapes for block in blocks),
            "experts": self._infer_experts(shapes, dim, depth),
        }
        indices = range(len(self.streams))
        kernels = [shapes.get(f"patch_embed.{i}.proj.weight", ()) for i in indices]
        for kernel in kernels:
            if len(kernel) == 5:
                sizes["patch_size"] = kernel[2:]
        tables = [shapes.get(f"patch_embed.{i}.pos_embed", ()) for i in indices]
        if any(tables):
            n_patches = majority(t[1:] for t in tables) - self.has_class_position
            edge = max(round(max(n_patches, 1) ** (1 / 3)), 1)
            patch_size = sizes.get("patch_size", (16, 16, 16))
            sizes["volume_size"] = tuple(edge * length for length in patch_size)
        return VolumeConfig.from_dict({**sizes, **self.settings})

    def _infer_experts(
        self, shapes: Mapping[str, _Shape], dim: int, depth: int
    ) -> ExpertConfig | None:
        if self.experts is None:
            return None
        gates = {i: f"blocks.{i}.mlp.router.proj.weight" for i in range(depth)}
        gates = {index: name for index, name in gates.items() if name in shapes}
        if not gates:
            return None
        gated = [shapes[name] for name in gates.values()]
        experts = [s for n, s in shapes.items() if _EXPERT.search(n)]
        shared = [s for n, s in shapes.items() if ".mlp.shared.fc1." in n]
        return ExpertConfig(
            blocks=tuple(gates),
            num_experts=majority(gated),
            hidden_dim=majority(experts) or 1,
            shared_dim=majority(shared) or 1,
            num_tokens=max(majority(shape[1:] for shape in gated) // max(dim, 1), 1),
            **self.experts,
        )

    def _their_shape(self, name: str, shape: _Shape, config: VolumeConfig) -> _Shape:
        if name == "cls_token":
            return (1, *shape)
        if name.endswith(".pos_embed"):
            n_patches = math.prod(shape[:-1])
            return (1, n_patches + self.has_class_position, shape[-1])
        if name.endswith("proj.weight") and name.startswith("patch_embed."):
            return shape if self.is_flat else (shape[0], 1, *config.patch_size)
        return shape


def _arrange(value: Tensor, shape: _Shape) -> Tensor:
    """Reshape, without the position of a class token, which is the first."""
    return value.flatten()[-math.prod(shape) :].reshape(shape).float()
