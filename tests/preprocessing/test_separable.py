import numpy as np
import pytest
from scipy import ndimage

from brainfeat.preprocessing.separable import is_parallel, sample_parallel

SHAPE = (11, 9, 13)


def to_voxel(scales, shift):
    affine = np.diag([*scales, 1.0])
    affine[:3, 3] = shift
    return affine


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("sigmas", [(0.0, 0.0, 0.0), (0.7, 0.0, 1.1)])
def test_samples_equal_scipys(rng, sigmas, order):
    data = np.asarray(rng.random(SHAPE).astype(np.float32), order=order)
    placed = to_voxel((2.0, 0.7, 1.3), (-2.2, 0.1, 1.4))
    shape = (8, 12, 7)
    smooth = data
    for axis, sigma in enumerate(sigmas):
        if sigma:
            options = {"mode": "nearest", "truncate": 3.0}
            smooth = ndimage.gaussian_filter1d(smooth, sigma, axis, **options)
    voxels = np.indices(shape).reshape(3, -1) * np.diag(placed)[:3, None]
    voxels = voxels + placed[:3, 3:]
    last = np.array(SHAPE)[:, None] - 1
    known = ((voxels >= -0.5) & (voxels < last + 0.5)).all(axis=0)
    expected = ndimage.map_coordinates(smooth, voxels.clip(0, last), order=1)
    sampled = sample_parallel(data, placed, shape, np.array(sigmas), 3.0, -7.0)
    assert 0 < known.sum() < known.size
    np.testing.assert_allclose(sampled.ravel()[known], expected[known], atol=2e-6)
    np.testing.assert_array_equal(sampled.ravel()[~known], -7.0)


def test_voxel_without_weight_does_not_matter():
    data = np.full((3, 4, 2), 5.0, np.float32)
    data[1, 2, 1] = np.nan
    same = sample_parallel(data, np.eye(4), data.shape, np.zeros(3), 3.0, 0.0)
    np.testing.assert_array_equal(same, data)


@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_flat_volume_stays_flat(sigma):
    data = np.full(SHAPE, 7.3, np.float32)
    placed = to_voxel((1.3, 0.7, 1.1), (0.1, 0.2, 0.3))
    sampled = sample_parallel(data, placed, (5, 6, 7), np.full(3, sigma), 3.0, 0.0)
    np.testing.assert_array_equal(sampled, np.float32(7.3))


@pytest.mark.parametrize(
    ("linear", "expected"),
    [
        (np.diag([2.0, 0.5, 1.0]), True),
        (np.diag([-2.0, 0.5, 1.0]), False),
        (np.eye(3)[[1, 0, 2]], False),
        (np.eye(3) + 1e-3 * np.eye(3, k=1), False),
        (np.eye(3) + 1e-8 * np.eye(3, k=1), True),
    ],
)
def test_only_grids_along_the_volumes_axes_are_parallel(linear, expected):
    placed = np.eye(4)
    placed[:3, :3] = linear
    assert is_parallel(placed, (80, 104, 80)) == expected
