import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from brainfeat.preprocessing.resampling import (
    downsample,
    reorient_to_ras,
    resample,
    resample_native,
    to_sitk,
)
from brainfeat.volume import Geometry, Volume

SHAPE = (9, 11, 13)
CODES = ["RAS", "LPS", "PIR", "SAL", "ASR", "ILP", "RPI", "LAS"]
NAMES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


def stored_as(volume, codes):
    """Store the same voxels with array axes that grow in other directions."""
    axes = [NAMES[code] for code in codes]
    data = volume.data.transpose(axes)
    affine = volume.geometry.affine.copy()
    affine[:3, :3] = affine[:3, axes]
    for axis, code in enumerate(codes):
        if code in "LPI":
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(data, Geometry(data.shape, affine))


@pytest.fixture
def volume(rng):
    affine = np.diag([1.1, 0.9, 2.3, 1.0])
    affine[:3, 3] = [-5.0, 7.0, 11.0]
    return Volume(rng.random(SHAPE).astype(np.float32), Geometry(SHAPE, affine))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("shape", [SHAPE, (9, 18, 37)])
def test_storage_order_does_not_matter(rng, shape, codes, order):
    data = rng.random(shape).astype(np.float32)
    volume = Volume(data, Geometry(shape, np.diag([1.1, 0.9, 2.3, 1.0])))
    stored = stored_as(volume, codes)
    assert stored.geometry.orientation == codes
    stored = Volume(np.asarray(stored.data, order=order), stored.geometry)
    again = reorient_to_ras(stored)
    assert np.shares_memory(again.data, stored.data)
    np.testing.assert_array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.geometry.affine, volume.geometry.affine)


def test_sitk_image_keeps_world_coordinates(volume):
    image = to_sitk(volume)
    index = (2, 5, 7)
    world = apply_affine(volume.geometry.affine, index)
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), world)
    assert image[index] == pytest.approx(float(volume.data[index]))


def test_sampling_on_its_own_grid_changes_nothing(volume):
    same = resample(volume, volume.geometry, np.eye(4))
    np.testing.assert_allclose(same, volume.data, rtol=1e-5)


def test_linear_sampling_equals_scipy(volume, rng):
    move = np.eye(4)
    move[:3, :3] += rng.normal(scale=0.05, size=(3, 3))
    move[:3, 3] = [0.4, -0.3, 0.6]
    # As fine as the volume along each axis, so that nothing is smoothed.
    grid = Geometry((5, 6, 7), volume.geometry.affine @ np.diag([0.7, 0.7, 0.3, 1.0]))
    indices = np.indices(grid.shape).reshape(3, -1).T
    world = apply_affine(move, apply_affine(grid.affine, indices))
    voxels = apply_affine(np.linalg.inv(volume.geometry.affine), world)
    expected = ndimage.map_coordinates(volume.data, voxels.T, order=1, cval=0.0)
    inside = ((voxels > 0) & (voxels < np.array(SHAPE) - 1)).all(axis=1)
    got = resample(volume, grid, move).ravel()
    assert inside.sum() > 50
    np.testing.assert_allclose(got[inside], expected[inside], rtol=1e-4, atol=1e-5)


def test_coarse_grid_does_not_alias(rng):
    """Voxel-wise noise averages out, as it does in larger voxels."""
    noise = rng.normal(size=(48, 44, 40)).astype(np.float32)
    volume = Volume(noise, Geometry(noise.shape, np.eye(4)))
    coarse = Geometry((12, 11, 10), np.diag([4.0, 4.0, 4.0, 1.0]))
    assert resample(volume, coarse, np.eye(4)).std() < 0.2


def test_smoothing_keeps_the_mean_of_a_ramp():
    ramp = np.broadcast_to(np.arange(40.0, dtype=np.float32)[:, None, None], (40, 9, 8))
    volume = Volume(ramp.copy(), Geometry(ramp.shape, np.eye(4)))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[0, 3] = 8.0
    coarse = Geometry((8, 3, 2), affine)
    sampled = resample(volume, coarse, np.eye(4))
    np.testing.assert_allclose(sampled[:, 1, 1], 8.0 + 3.0 * np.arange(8), atol=1e-3)


def test_nearest_sampling_creates_no_label(rng):
    labels = rng.choice([0, 3, 700], SHAPE).astype(np.int32)
    volume = Volume(labels, Geometry(SHAPE, np.eye(4)))
    shifted = np.eye(4)
    shifted[:3, 3] = 0.3
    sampled = resample(volume, volume.geometry, shifted, interpolation="nearest")
    assert set(np.unique(sampled)) <= {0, 3, 700}
    np.testing.assert_array_equal(sampled, labels)


@pytest.mark.parametrize("dtype", [">i2", ">f4"])
def test_byte_order_does_not_matter(volume, dtype):
    swapped = Volume((100 * volume.data).astype(dtype), volume.geometry)
    options = swapped.geometry, np.eye(4)
    samples = resample(swapped, *options, interpolation="nearest")
    np.testing.assert_array_equal(samples, swapped.data)


def test_downsampling_averages_whole_blocks_about_their_centre(volume):
    shrunk = downsample(volume, 2.4)
    assert shrunk.data.shape == (4, 5, 13)  # 2 x 1.1, 2 x 0.9 and 1 x 2.3 mm
    blocks = volume.data[:8, :10].reshape(4, 2, 5, 2, 13).mean(axis=(1, 3))
    np.testing.assert_allclose(shrunk.data, blocks, rtol=1e-5)
    middle = apply_affine(volume.geometry.affine, [0.5, 0.5, 0.0])
    np.testing.assert_allclose(shrunk.geometry.affine[:3, 3], middle)


@pytest.mark.parametrize("codes", CODES)
def test_native_sampling_is_the_same_in_any_order_of_axes(rng, codes):
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = [-77.5, -57.5, -47.5]
    shape = (32, 24, 20)
    volume = Volume(rng.random(shape).astype(np.float32), Geometry(shape, affine))
    # The seventh plane is on the very edge of the volume, at -80 mm.
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = [-98.0, -78.0, -68.0]
    native = Geometry((66, 52, 47), affine)
    straight = Volume(resample_native(volume, native, np.eye(4)), native)
    expected = stored_as(straight, codes)
    found = resample_native(volume, expected.geometry, np.eye(4))
    np.testing.assert_array_equal(found, expected.data)
