"""From a scan to the feature of a public encoder: by this library, and by MONAI."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from brainfeat import Checkpoint, Geometry, Volume, read_volume, write_volume
from brainfeat.models.pooling import pool_feature
from brainfeat.preprocessing.recipes import InputRecipe

Route = Callable[[], Tensor]

# Voxels at 1 mm, for AnatCL 1.5 mm, of images that were aligned and stripped.
SHAPES = {
    "brainiac_full": (182, 218, 182),
    "neuro_simclr_full": (193, 229, 193),
    "anatcl_full": (121, 145, 121),
}


def write_scan(name: str, folder: Path) -> Path:
    """Write an ellipsoid of noise in the field that the authors' tools give."""
    shape = SHAPES[name]
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.6
    noise = np.random.default_rng(0).uniform(0.1, 5, shape)
    data = (noise * inside).astype(np.float32)
    path = folder / f"{name}_T1w.nii.gz"
    write_volume(Volume(data, Geometry(shape, np.eye(4))), path)
    return path


def our_route(checkpoint: Checkpoint, scan: Path) -> Route:
    """Return the recipe without registration, and the encoder."""
    config, encoder = checkpoint.config, checkpoint.build_encoder()
    recipe = InputRecipe.from_dict(config.preprocessing).prepared
    recipe = dataclasses.replace(recipe, space="template")
    n_modalities = len(config.encoder.modalities)
    present = torch.arange(n_modalities)[None] == 0

    def run() -> Tensor:
        subject = recipe.apply({"T1w": read_volume(scan)}, ["T1w"])
        data = torch.from_numpy(subject.data)
        volumes = data.expand(n_modalities, -1, -1, -1)[None]
        output = encoder(volumes, present=present)
        everywhere = torch.ones(output.patch_tokens.shape[:4])
        return pool_feature(output, everywhere, config.encoder.feature)

    return run


def monai_route(name: str, state: Mapping[str, Tensor], scan: Path) -> Route:
    """Return MONAI's transforms and the class that the authors use."""
    from monai import transforms
    from monai.networks.nets import ResNet, ViT

    zscore = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)
    if name == "brainiac_full":
        model = ViT(1, (96, 96, 96), (16, 16, 16))
        steps = [transforms.Resize((96, 96, 96), mode="trilinear"), zscore]
    else:
        is_simclr = name == "neuro_simclr_full"
        model = ResNet(
            "basic",
            [2] * 4,
            [64, 128, 256, 512],
            n_input_channels=1,
            conv1_t_stride=1 if is_simclr else 2,
            bias_downsample=is_simclr,
            feed_forward=False,
        )
        steps = [_crop_simclr, zscore]
        if not is_simclr:
            steps = [transforms.CenterSpatialCrop((121, 128, 121))]
    prefixes = ("module.encoder.", "encoder.", "backbone.")
    for prefix in prefixes:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    model.load_state_dict(state)
    model.eval()
    load = transforms.LoadImage(ensure_channel_first=True)
    prepare = transforms.Compose([load, *steps])

    def run() -> Tensor:
        tokens = model(prepare(scan)[None])
        return tokens[0][:, 0] if isinstance(tokens, tuple) else tokens

    return run


def _crop_simclr(image: Tensor) -> Tensor:
    return image.permute(0, 3, 2, 1)[:, 10:160, 19:211, 1:]
