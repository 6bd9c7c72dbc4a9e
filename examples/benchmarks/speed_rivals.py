"""Loops from files to vectors that a user might write instead.

Each uses an untrained vision transformer of the size of ViT-S: only time is measured.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

EMBED_DIM, DEPTH, NUM_HEADS = 384, 12, 6
SLICE_SIZE = 224
# The brain at 1 mm, in patches of 16, and in as many patches as ours.
COARSE = ((160, 208, 160), (16, 16, 16))
AS_OURS = ((154, 196, 152), (14, 14, 4))

Loop = Callable[[Path], np.ndarray]


def slice_loop(*, half: bool, device: torch.device, batch_size: int) -> Loop:
    """Build a loop of nibabel, nilearn, and transformers' DINOv2 on axial slices."""
    import warnings

    import nibabel as nib
    from nilearn.datasets import load_mni152_template
    from nilearn.image import resample_to_img
    from transformers import Dinov2Config, Dinov2Model

    dtype = torch.bfloat16 if half else torch.float32
    config = Dinov2Config(
        hidden_size=EMBED_DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=NUM_HEADS,
        image_size=518,
        patch_size=14,
    )
    model = Dinov2Model(config).eval().to(device, dtype)
    template = load_mni152_template(resolution=1)
    warnings.filterwarnings("ignore", message="Casting data")

    @torch.inference_mode()
    def embed(path: Path) -> np.ndarray:
        image = resample_to_img(
            nib.load(path), template, force_resample=True, copy_header=True
        )
        data = image.get_fdata(dtype=np.float32)
        data = (data - data.mean()) / data.std()
        slices = torch.from_numpy(data).permute(2, 1, 0)[:, None]  # S 1 H W
        slices = F.interpolate(slices, (SLICE_SIZE, SLICE_SIZE), mode="bilinear")
        tokens = [
            model(batch.expand(-1, 3, -1, -1).to(device, dtype)).last_hidden_state[:, 0]
            for batch in slices.split(batch_size)
        ]
        return torch.cat(tokens).float().mean(0).cpu().numpy()

    return embed


def monai_loop(
    shape: tuple[int, int, int],
    patch_size: tuple[int, int, int],
    *,
    fused: bool,
    device: torch.device,
) -> Loop:
    """Build a loop of monai's transforms and its vision transformer.

    `fused` uses PyTorch's attention, which the constructor does not offer.
    """
    import logging
    import warnings

    warnings.simplefilter("ignore")  # monai's own deprecations
    logging.getLogger("monai").setLevel(logging.ERROR)
    from monai import transforms
    from monai.networks.nets import ViT

    load: Any = transforms.Compose(
        [
            transforms.LoadImage(image_only=True),
            transforms.EnsureChannelFirst(),
            transforms.Orientation("RAS"),
            transforms.Spacing((1.0, 1.0, 1.0)),
            transforms.CropForeground(),
            transforms.ResizeWithPadOrCrop(shape),
            transforms.NormalizeIntensity(nonzero=True),
        ]
    )
    model = ViT(
        in_channels=1,
        img_size=shape,
        patch_size=patch_size,
        hidden_size=EMBED_DIM,
        mlp_dim=4 * EMBED_DIM,
        num_layers=DEPTH,
        num_heads=NUM_HEADS,
    )
    model = model.eval().to(device)
    for block in model.blocks:
        block.attn.use_flash_attention = fused

    @torch.inference_mode()
    def embed(path: Path) -> np.ndarray:
        volume = load(path).as_tensor()[None].to(device)
        return model(volume)[0].mean(1)[0].cpu().numpy()

    return embed
