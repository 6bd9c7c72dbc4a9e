"""A training starts with the features of the decoder that it starts from."""

import numpy as np
import pytest
import torch

from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.segmentation.warm_start import DecoderStart

SIZES = {"embed_dim": 12, "n_depths": 2, "width": 4}
NAMES = ("background", "hippocampus", "thalamus")


@pytest.fixture
def start():
    torch.manual_seed(0)
    decoder = SegmentationDecoder(DecoderConfig(n_classes=3, n_modalities=3, **SIZES))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prior = torch.rand(3, 4, 4, 2) + 0.1
    return DecoderStart("base", decoder, prior, ("T1w", "T2w", "FLAIR"), NAMES)


def draw(n_modalities):
    generator = torch.Generator().manual_seed(1)
    voxels = torch.randn(1, n_modalities, 8, 16, 12, generator=generator)
    foreground = torch.ones(1, 1, 4, 8, 6)
    tokens = [torch.randn(1, 2, 2, 1, 12, generator=generator) for _ in range(2)]
    return voxels, foreground, tokens


def test_features_and_classes_of_the_same_name_are_those_of_the_start(start):
    voxels, foreground, tokens = draw(1)
    classes = ("background", "thalamus", "lesion", "")
    config = DecoderConfig(n_classes=4, n_modalities=1, n_places=3, **SIZES)
    decoder = SegmentationDecoder(config)
    start.apply(decoder, ("T2w",), classes)
    old_prior, new_prior = torch.randn(1, 3, 4, 8, 6), torch.randn(1, 4, 4, 8, 6)
    own = decoder(voxels, foreground, tokens, torch.cat([new_prior, old_prior], 1))
    shown = torch.tensor([[False, True, False]])
    whole = torch.randn(1, 3, 8, 16, 12)
    whole[:, 1:2] = voxels
    expected = start.decoder(whole, foreground, tokens, old_prior, present=shown)
    priors = [
        torch.nn.functional.interpolate(p, (8, 16, 12), mode="trilinear")
        for p in (new_prior, old_prior)
    ]
    own, expected = own - priors[0], expected - priors[1]
    torch.testing.assert_close(own[:, [0, 1]], expected[:, [0, 2]])
    assert not torch.allclose(own[:, 2], expected[:, 1])


def test_prior_of_the_start_is_not_that_of_the_classes(start):
    config = DecoderConfig(n_classes=2, n_modalities=3, n_places=3, **SIZES)
    decoder = SegmentationDecoder(config)
    start.apply(decoder, start.modalities, ("background", "lesion"))
    voxels, foreground, tokens = draw(3)
    prior = torch.randn(1, 5, 4, 8, 6)
    changed = prior.clone()
    changed[:, :2] += 1
    results = [decoder(voxels, foreground, tokens, p) for p in (prior, changed)]
    difference = (results[1] - results[0]).detach().numpy()
    np.testing.assert_allclose(difference, 1.0, rtol=1e-4)
