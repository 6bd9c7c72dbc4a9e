import numpy as np
import pytest

from brainfeat.exceptions import ConfigError, GeometryError
from brainfeat.slabs.grid import SlabGrid
from brainfeat.volume import Geometry

SHAPE = (2, 12, 24, 36)  # M I J K
PLANES = ["axial", "coronal", "sagittal"]


def draw_data(dtype=np.float32):
    return np.arange(np.prod(SHAPE), dtype=dtype).reshape(SHAPE)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("thickness", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.bool_])
def test_assemble_inverts_extract(plane, thickness, dtype):
    data = draw_data().astype(dtype)
    grid = SlabGrid(thickness=thickness, plane=plane)
    restored = grid.assemble(grid.extract(data))
    assert restored.dtype == dtype
    np.testing.assert_array_equal(restored, data)


@pytest.mark.parametrize("plane", PLANES)
def test_extract_inverts_assemble(plane):
    slabs = np.random.default_rng(0).normal(size=(5, 6, 7, 8))
    grid = SlabGrid(thickness=3, plane=plane)
    np.testing.assert_array_equal(grid.extract(grid.assemble(slabs)), slabs)


@pytest.mark.parametrize(
    ("plane", "voxel"),
    [
        ("axial", lambda s, h, w: (w, h, s)),
        ("coronal", lambda s, h, w: (w, s, h)),
        ("sagittal", lambda s, h, w: (s, w, h)),
    ],
)
def test_channel_is_slice_of_modality(plane, voxel):
    data, thickness = draw_data(), 4
    slabs = SlabGrid(thickness=thickness, plane=plane).extract(data)
    rng = np.random.default_rng(1)
    for _ in range(50):
        slab, channel, h, w = (rng.integers(size) for size in slabs.shape)
        modality, offset = divmod(int(channel), thickness)
        index = voxel(slab * thickness + offset, h, w)
        assert slabs[slab, channel, h, w] == data[(modality, *index)]


@pytest.mark.parametrize("plane", PLANES)
def test_token_fractions_equal_naive_means(plane):
    foreground = np.random.default_rng(2).random((12, 24, 36)) < 0.3
    grid = SlabGrid(thickness=4, plane=plane)
    fractions = grid.token_fractions(foreground, patch_size=6)
    slabs = grid.extract(foreground[None])
    for s, i, j in np.ndindex(fractions.shape):
        patch = slabs[s, :, 6 * i : 6 * i + 6, 6 * j : 6 * j + 6]
        assert fractions[s, i, j] == pytest.approx(patch.mean())
    assert fractions.dtype == np.float32
    assert fractions.mean() == pytest.approx(foreground.mean())


def test_slabs_are_contiguous():
    slabs = SlabGrid(thickness=4).extract(draw_data())
    assert slabs.shape == (9, 8, 24, 12)
    assert slabs.flags.c_contiguous


@pytest.mark.parametrize("thickness", [0, -1, 1.0, "4", True])
def test_invalid_thickness_is_rejected(thickness):
    with pytest.raises(ConfigError, match="thickness"):
        SlabGrid(thickness=thickness)


def test_unknown_plane_is_rejected():
    with pytest.raises(ConfigError, match="oblique"):
        SlabGrid(plane="oblique")


@pytest.mark.parametrize(
    "call",
    [
        lambda grid: grid.extract(np.zeros((12, 24, 36))),
        lambda grid: grid.extract(np.zeros((1, 12, 24, 35))),
        lambda grid: grid.assemble(np.zeros((9, 7, 24, 12))),
        lambda grid: grid.assemble(np.zeros((8, 24, 12))),
        lambda grid: grid.token_fractions(np.zeros((12, 24)), 4),
        lambda grid: grid.token_fractions(np.zeros((12, 24, 36)), 5),
        lambda grid: grid.token_fractions(np.zeros((12, 24, 36)), 0),
    ],
)
def test_shapes_that_do_not_divide_are_rejected(call):
    with pytest.raises(GeometryError):
        call(SlabGrid(thickness=4))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_token_is_at_the_centre_of_its_voxels(plane):
    # Sheared and rotated, with sizes that are all different.
    affine = np.array(
        [
            [2.0, 0.3, 0.0, -9.0],
            [-0.2, 1.5, 0.4, 4.0],
            [0.1, 0.0, 3.0, 7.0],
            [0, 0, 0, 1],
        ]
    )
    grid, geometry = SlabGrid(thickness=2, plane=plane), Geometry((8, 12, 16), affine)
    placed = grid.token_geometry(geometry, 4)
    voxels = np.moveaxis(np.indices(geometry.shape), 0, -1)
    positions = voxels @ affine[:3, :3].T + affine[:3, 3]
    means = np.stack(
        [grid.token_fractions(positions[..., axis], 4) for axis in range(3)], axis=-1
    )
    tokens = np.moveaxis(np.indices(placed.shape), 0, -1)
    expected = tokens @ placed.affine[:3, :3].T + placed.affine[:3, 3]
    np.testing.assert_allclose(grid.arrange_tokens(means), expected, atol=1e-5)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_arranged_tokens_are_means_of_their_blocks(plane, rng):
    block = {"axial": (4, 4, 3), "coronal": (4, 3, 4), "sagittal": (3, 4, 4)}[plane]
    shape = tuple(size * n for size, n in zip(block, (2, 3, 5), strict=True))
    data = rng.normal(size=shape)
    grid = SlabGrid(thickness=3, plane=plane)
    arranged = grid.arrange_tokens(grid.token_fractions(data, 4))
    assert arranged.shape == grid.token_geometry(Geometry(shape, np.eye(4)), 4).shape
    for i, j, k in np.ndindex(2, 3, 5):
        part = tuple(
            slice(n * size, (n + 1) * size)
            for n, size in zip((i, j, k), block, strict=True)
        )
        np.testing.assert_allclose(arranged[i, j, k], data[part].mean(), atol=1e-6)


def test_grid_that_does_not_divide_has_no_tokens():
    with pytest.raises(
        GeometryError, match=r"multiples of \(4, 4, 2\), got .*\(8, 12, 15\)"
    ):
        SlabGrid(thickness=2).token_geometry(Geometry((8, 12, 15), np.eye(4)), 4)


@pytest.mark.parametrize("plane", PLANES)
def test_axes_are_those_of_the_slabs(plane):
    volume = np.arange(4 * 6 * 10).reshape(4, 6, 10)
    grid = SlabGrid(thickness=1, plane=plane)
    slices = grid.extract(volume[None])[:, 0]
    np.testing.assert_array_equal(slices, volume.transpose(grid.axes))
