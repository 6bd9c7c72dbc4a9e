"""Segmentation with encoders of volumes, and recipes that place each subject alone."""

import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.exceptions import ConfigError
from brainfeat.models.encoders import build_encoder
from brainfeat.models.resnet_config import ResNetConfig
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.preprocessing import recipes
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.recipes import InputRecipe
from brainfeat.preprocessing.steps import (
    CropForeground,
    FindBrain,
    Orient,
    Resize,
    SlicesFirst,
    Window,
)
from brainfeat.segmentation.estimator import SegmentationEstimator
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import SegmentationNetwork, init_decoder

SHAPE = (24, 32, 40)
STEPS = (
    Orient(codes="LPS"),
    FindBrain(remove=False),
    Window(percentiles=(0.5, 99.5)),
    CropForeground(above=0.0),
    Resize(shape=SHAPE),
)


def make_checkpoint(encoder, steps=STEPS, shape=SHAPE):
    recipe = InputRecipe(name="test", steps=steps, shape=shape)
    config = CheckpointConfig(encoder=encoder, preprocessing=recipe.to_dict())
    torch.manual_seed(0)
    return Checkpoint(config, build_encoder(config.encoder).state_dict())


def make_config(patch_size=(8, 8, 8)):
    return VolumeConfig(
        patch_size=patch_size, volume_size=SHAPE, embed_dim=24, depth=2, num_heads=2
    )


@pytest.fixture
def in_place(monkeypatch):
    found = Alignment(np.eye(4), np.eye(4), similarity=1.0)
    monkeypatch.setattr(recipes, "align_to_template", lambda *_: found)


@pytest.mark.parametrize(
    ("patch_size", "plane"),
    [((8, 8, 8), "axial"), ((4, 16, 4), "coronal"), ((4, 8, 8), "sagittal")],
)
def test_tokens_are_those_of_the_encoder_in_the_order_of_slabs(rng, patch_size, plane):
    checkpoint = make_checkpoint(make_config(patch_size))
    space = SegmentationSpace.of_checkpoint(checkpoint.config, ["T1w"])
    assert space.slab_grid.plane == plane
    network = SegmentationNetwork(
        space=space,
        encoder=checkpoint.build_encoder(),
        decoder=init_decoder(checkpoint.config.encoder, space, 3, seed=0),
        prior=torch.full((3, 12, 16, 20), 1 / 3),
        device=torch.device("cpu"),
    )
    volumes = torch.from_numpy(rng.normal(size=(1, 2, *SHAPE)).astype(np.float32))
    volumes[:, 1] = 1.0  # all foreground
    with torch.no_grad():
        ours = network.tokens(network.to_slices(volumes), torch.tensor([[True]]))
        theirs = checkpoint.build_encoder()(volumes[:, :1]).patch_tokens
    axes = space.slab_grid.axes
    expected = theirs[0].permute(*axes, 3)
    torch.testing.assert_close(ours[-1][0], expected, rtol=0.05, atol=0.05)


def test_encoders_that_cannot_be_decoded_are_refused():
    resnet = ResNetConfig(volume_size=SHAPE, widths=(4, 6), num_blocks=1)
    with pytest.raises(ConfigError, match="square patches"):
        SegmentationSpace.of_checkpoint(make_checkpoint(resnet).config, ["T1w"])
    steps = (Orient(codes="RPI"), SlicesFirst())
    of_any_size = make_checkpoint(make_config(), steps, shape=None)
    with pytest.raises(ConfigError, match="one size"):
        SegmentationSpace.of_checkpoint(of_any_size.config, ["T1w"])


@pytest.mark.slow
@pytest.mark.release  # trains
@pytest.mark.usefixtures("in_place")
def test_labels_are_learnt_and_return_to_each_scan(small_brain, rng, tmp_path):
    brain = small_brain.data / small_brain.data.max()
    labels = np.zeros(brain.shape, np.int16)
    labels[(brain > 0) & (np.arange(66)[:, None, None] < 33)] = 1
    labels[(brain > 0) & (np.arange(66)[:, None, None] >= 33)] = 2
    X, y = [], []
    for index in range(4):
        data = 100 * brain * (1 + 0.05 * rng.normal(size=brain.shape))
        cut = slice(index, 78 - 2 * index)  # each field differs
        affine = small_brain.geometry.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [0, index, 0]
        X.append(nib.Nifti1Image(data[:, cut].astype(np.float32), affine))
        y.append(nib.Nifti1Image(labels[:, cut], affine))
    folder = make_checkpoint(make_config()).save(tmp_path)
    estimator = SegmentationEstimator(str(folder), n_steps=40, random_state=0)
    estimator.fit(X, y)
    maps = estimator.predict(X)
    for image, truth in zip(maps, y, strict=True):
        assert image.shape == truth.shape
        np.testing.assert_allclose(image.affine, truth.affine)
    assert estimator.score(X, y) > 0.8
