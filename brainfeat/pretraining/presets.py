"""Presets of hyperparameters, and the sizes of encoders.

References
----------
.. [1] Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision",
   TMLR 2024; its recipes are in github.com/facebookresearch/dinov2, in
   dinov2/configs/ssl_default_config.yaml and dinov2/configs/train.
"""

__all__ = ["PRESETS", "SIZES", "EncoderSize", "PresetName"]

from typing import Any, Literal

PresetName = Literal["small_batch", "large_batch", "large_batch_short", "agreement"]
EncoderSize = Literal["tiny", "small", "base", "large"]

# Width, depth and heads of the vision transformers of DINOv2 and DeiT.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}

# What both recipes of DINOv2 [1]_ have in common. KoLeo is 0.1 there, summed over two
# global views; here it is a mean. There, too, stochastic depth has one rate in all
# blocks, and the short recipe has one head for both objectives.
_DINOV2: dict[str, Any] = {
    "koleo_weight": 0.2,
    "head_hidden_dim": 2048,
    "activation_checkpointing": True,
    "parallel": "fully_shard",
    "views": {
        "n_local": 8,
        "global_crops": {"area": [0.32, 1.0]},
        "local_crops": {"area": [0.05, 0.32]},
    },
}

PRESETS: dict[str, dict[str, Any]] = {
    # For few subjects a step. Sinkhorn balances 1024 prototypes over the 16 global
    # views of 8 subjects, so that the targets of a view depend on the others: between
    # two batches they differ by a total variation of 0.19. More subjects make it less.
    "small_batch": {
        "encoder": {"layer_scale": 0.1, "slab_mixing": [2, 5, 8]},
        "batch_size": 8,
        "n_prototypes": 1024,
        "head_hidden_dim": 512,
        "head_bottleneck_dim": 128,
        "centring": "sinkhorn",
    },
    # DINOv2's ViT-L/14: 500 epochs of 1250 steps, of 3072 images there, and of 768
    # stacks of four slabs here.
    "large_batch": _DINOV2
    | {
        "encoder": SIZES["large"] | {"drop_path": 0.4},
        "batch_size": 768,
        "n_steps": 625_000,
        "base_learning_rate": 2e-4,
        "layer_decay": 1.0,
        "weight_decay": [0.04, 0.2],
        "teacher_momentum": [0.994, 1.0],
        "warmup_fraction": 0.16,
        "temperature_warmup_fraction": 0.06,
        "freeze_last_layer_fraction": 0.002,
        "n_prototypes": 131_072,
        "head_bottleneck_dim": 384,
        "centring": "sinkhorn",
    },
    # DINOv2's short ViT-L/16: 100 epochs of 1250 steps, of 2048 images there.
    "large_batch_short": _DINOV2
    | {
        "encoder": SIZES["large"] | {"drop_path": 0.3},
        "batch_size": 512,
        "n_steps": 125_000,
        "base_learning_rate": 4e-3,
        "layer_decay": 0.9,
        "weight_decay": [0.04, 0.4],
        "teacher_momentum": [0.992, 1.0],
        "warmup_fraction": 0.1,
        "temperature_warmup_fraction": 0.3,
        "freeze_last_layer_fraction": 0.01,
        "n_prototypes": 65_536,
        "head_bottleneck_dim": 256,
        "centring": "moving_average",
    },
    # Continue from trained weights, so that they tell brains apart and not protocols.
    "agreement": {
        "encoder": {"layer_scale": 0.1, "slab_mixing": [2, 5, 8]},
        "views": {
            "n_local": 0,
            "global_boxes": "whole",
            "hidden_modalities": 0.5,
            "intensity": {
                "gamma": 0.1,
                "contrast": 0.1,
                "bias": 0.1,
                "blur": 0.0,
                "coarse": 0.0,
            },
        },
        "dino_weight": 0.0,
        "ibot_weight": 0.0,
        "koleo_weight": 0.0,
        "anatomy_weight": 1.0,
        "anatomy_whole_weight": 0.03,
        "agreement_weight": 1.0,
        "consistency_weight": 0.3,
        "n_degraded": 8,
        "batch_size": 4,
        "n_steps": 1500,
        "learning_rate": 4e-4,
        "final_learning_rate": 4e-6,
        "weight_decay": [0.02, 0.02],
        "layer_decay": 1.0,
        "patch_embed_lr": 1.0,
        "warmup_fraction": 0.03,
        "teacher_momentum": [0.97, 0.997],
        "clip_grad": 1.0,
        "checkpoint_every": 100,
    },
}
