"""Layouts of the public encoders that are transformers over 3D patches."""

__all__ = ["VOLUME_LAYOUTS"]

from typing import Any

from brainfeat.checkpoint.layouts.volumes import VolumeLayout

_MODALITIES = ("T1w", "T2w", "FLAIR")
# Vision transformers of timm and DINOv2, whose names are ours.
_BLOCK: dict[str, str | None] = {
    name: name
    for name in (
        *("blocks.*.norm1", "blocks.*.attn.qkv", "blocks.*.attn.proj"),
        *("blocks.*.norm2", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2", "norm"),
    )
}
_TIMM: dict[str, str | None] = _BLOCK | {"patch_embed.proj": "patch_embed.0.proj"}
_POSITIONS: dict[str, str | None] = {"pos_embed": "patch_embed.0.pos_embed"}
_MONAI_BLOCK: dict[str, str | None] = {
    "blocks.*.norm1": "blocks.*.norm1",
    "blocks.*.norm2": "blocks.*.norm2",
    "blocks.*.attn.qkv": "blocks.*.attn.qkv",
    "blocks.*.attn.out_proj": "blocks.*.attn.proj",
    "blocks.*.mlp.linear1": "blocks.*.mlp.fc1",
    "blocks.*.mlp.linear2": "blocks.*.mlp.fc2",
    "norm": "norm",
    # MONAI 1.4 and later export these, which are never computed without a context.
    "blocks.*.norm_cross_attn": None,
    "blocks.*.cross_attn.to_q": None,
    "blocks.*.cross_attn.to_k": None,
    "blocks.*.cross_attn.to_v": None,
    "blocks.*.cross_attn.out_proj": None,
}
_MONAI_EMBEDDING = {
    "patch_embeddings": "patch_embed.{index}.proj",
    "position_embeddings": "patch_embed.{index}.pos_embed",
}
_BRAINIAC: dict[str, Any] = {
    "modalities": (*_MODALITIES, "T1ce"),
    "positions": "learned",
    "norm_eps": 1e-5,
    "feature": "first",
}

VOLUME_LAYOUTS = (
    VolumeLayout(
        name="brainiac",
        title="BrainIAC, a ViT of MONAI",
        names=_MONAI_BLOCK
        | {f"patch_embedding.{key}": ours for key, ours in _MONAI_EMBEDDING.items()},
        settings=_BRAINIAC,
    ),
    VolumeLayout(
        name="brainiac",
        title="BrainIAC in timm's names",
        names=_TIMM | _POSITIONS,
        settings=_BRAINIAC,
    ),
    VolumeLayout(
        name="3dino",
        title="3DINO, DINOv2 in 3D",
        names=_TIMM
        | _POSITIONS
        | {"cls_token": "cls_token", "mask_token": None}
        | {f"blocks.*.ls{i}.gamma": f"blocks.*.ls{i}.gamma" for i in (1, 2)},
        settings={
            "modalities": _MODALITIES,
            "positions": "learned",
            "has_cls_token": True,
            "layer_scale": 1e-5,
            "feature": "cls",
        },
        has_class_position=True,
    ),
    VolumeLayout(
        name="bm-mae",
        title="BM-MAE",
        names=_MONAI_BLOCK
        | {"cls_token": "cls_token"}
        | {
            f"tokenizers.{{stream}}.patch_embedding.{key}": ours
            for key, ours in _MONAI_EMBEDDING.items()
        },
        streams=("t1", "t1ce", "t2", "flair"),
        settings={
            "modalities": ("T1w", "T1ce", "T2w", "FLAIR"),
            "streams": "joint",
            "positions": "learned",
            "has_cls_token": True,
            "norm_eps": 1e-5,
            "feature": "cls",
        },
        outside=r"(\w+\.)*(decoder\w*|mask_token|masked_\w+)(\.|$)",
    ),
    VolumeLayout(
        name="neurovfm",
        title="NeuroVFM",
        names={
            "token_embed.proj": "patch_embed.0.proj",
            "blocks.*.mixer.qkv": "blocks.*.attn.qkv",
            "blocks.*.mixer.proj": "blocks.*.attn.proj",
        }
        | {theirs: ours for theirs, ours in _BLOCK.items() if ".attn." not in theirs},
        settings={
            "modalities": _MODALITIES,
            "patch_size": (4, 16, 16),
            "volume_size": (40, 224, 192),
            "positions": "concatenated",
            "proj_bias": False,
            "gelu": "tanh",
            "background": "skipped",
        },
        is_flat=True,
    ),
    VolumeLayout(
        name="neuro-jepa",
        title="Neuro-JEPA",
        names=_TIMM
        | {
            "blocks.*.attn.proj_attn_gate": "blocks.*.attn.gate",
            "blocks.*.mlp.gate": "blocks.*.mlp.router",
            "blocks.*.mlp.gate.gate": "blocks.*.mlp.router.proj",
            "blocks.*.mlp.experts.*.fc1": "blocks.*.mlp.experts.*.fc1",
            "blocks.*.mlp.experts.*.fc2": "blocks.*.mlp.experts.*.fc2",
            "blocks.*.mlp.shared_experts.fc1": "blocks.*.mlp.shared.fc1",
            "blocks.*.mlp.shared_experts.fc2": "blocks.*.mlp.shared.fc2",
            "blocks.*.mlp.counts": None,
        },
        settings={
            "modalities": _MODALITIES,
            "patch_size": (12, 12, 12),
            "volume_size": (96, 108, 96),
            "positions": "rotary",
            "gate": True,
        },
        experts={"num_active": 6, "scale": 4.0},
    ),
)
