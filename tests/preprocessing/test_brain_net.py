import numpy as np
import torch
import torch.nn.functional as F

from brainfeat.preprocessing import brain_net


def test_convolutions_equal_torchs(rng):
    data = rng.normal(size=(6, 10, 4, 5)).astype(np.float32)
    weight = rng.normal(size=(3, 3, 3, 5, 7)).astype(np.float32)
    bias = rng.normal(size=7).astype(np.float32)
    inputs = torch.tensor(data).permute(3, 0, 1, 2)[None]
    kernel = torch.tensor(weight).permute(4, 3, 0, 1, 2)
    for convolve, stride in (
        (brain_net._convolve, 1),
        (brain_net._convolve_halving, 2),
    ):
        options = {"stride": stride, "padding": 1}
        expected = F.conv3d(inputs, kernel, torch.tensor(bias), **options)
        found = convolve(data, weight, bias)
        expected = expected[0].permute(1, 2, 3, 0).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_coarse_voxels_are_added_to_their_blocks(rng):
    data = rng.normal(size=(4, 6, 2, 3)).astype(np.float32)
    coarse = rng.normal(size=(2, 3, 1, 3)).astype(np.float32)
    expected = data + coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    found = brain_net._add_upsampled(data, coarse)
    np.testing.assert_array_equal(found, expected)
