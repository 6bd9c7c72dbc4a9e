"""Layouts of DINOv2 and DINOv3, of Meta, transformers and timm.

Meta and timm name most parameters alike, and as `SlabEncoder` does; timm calls
registers ``reg_token``, packs SwiGLU into ``mlp.fc1`` and ``mlp.fc2``, has no
mask token, and beside registers adds the class token's position to the class
token itself. transformers names everything in its own way, and keeps query,
key and value apart.
"""

__all__ = ["SLAB_LAYOUTS"]

from brainfeat.checkpoint.layouts.slabs import SlabLayout

_ATTENTION = "attention.attention."
_EMBEDDINGS = {
    name: ((f"embeddings.{name}",),)
    for name in ("cls_token", "mask_token", "register_tokens")
}
_SCALES = {f"ls{i}.gamma": ((f"layer_scale{i}.lambda1",),) for i in (1, 2)}

SLAB_LAYOUTS = (
    SlabLayout(
        name="dinov2",
        title="DINOv2 of Meta or timm",
        names={
            "mlp.w12": (("mlp.w12",), ("mlp.fc1",)),
            "mlp.w3": (("mlp.w3",), ("mlp.fc2",)),
            "register_tokens": (("register_tokens",), ("reg_token",)),
        },
    ),
    SlabLayout(
        name="dinov2",
        title="DINOv2 of transformers",
        names={
            **_EMBEDDINGS,
            **_SCALES,
            "pos_embed": (("embeddings.position_embeddings",),),
            "patch_embed.proj": (("embeddings.patch_embeddings.projection",),),
            "norm": (("layernorm",),),
            "attn.qkv": (
                (f"{_ATTENTION}query", f"{_ATTENTION}key", f"{_ATTENTION}value"),
                ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            ),
            "attn.proj": (("attention.output.dense",), ("attention.o_proj",)),
            "mlp.w12": (("mlp.weights_in",), ("mlp.gate_proj", "mlp.up_proj")),
            "mlp.w3": (("mlp.weights_out",), ("mlp.down_proj",)),
        },
        block="encoder.layer.",
    ),
    SlabLayout(
        name="dinov3",
        title="DINOv3 of Meta",
        names={
            "mlp.w12": (("mlp.w1", "mlp.w2"),),
            "register_tokens": (("storage_tokens",),),
        },
        positions="rotary",
    ),
    SlabLayout(
        name="dinov3",
        title="DINOv3 of transformers",
        names={
            **_EMBEDDINGS,
            **_SCALES,
            "patch_embed.proj": (("embeddings.patch_embeddings",),),
            "attn.qkv": (("attention.q_proj", "attention.k_proj", "attention.v_proj"),),
            "attn.proj": (("attention.o_proj",),),
            "mlp.fc1": (("mlp.up_proj",),),
            "mlp.fc2": (("mlp.down_proj",),),
            "mlp.w12": (("mlp.gate_proj", "mlp.up_proj"),),
            "mlp.w3": (("mlp.down_proj",),),
        },
        block="layer.",
        positions="rotary",
    ),
)
