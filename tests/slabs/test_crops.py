import numpy as np
import pytest
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.slabs.crops import (
    CropBoxes,
    CropConfig,
    pool_patches,
    stack_to_slabs,
)
from brainfeat.slabs.grid import SlabGrid

SHAPE = (10, 12, 8)
# Slices, height and width of a slab, as lengths of the volume above.
EXTENTS = {"axial": (8, 12, 10), "coronal": (12, 8, 10), "sagittal": (10, 8, 12)}
NOTHING = {
    "area": (1.0, 1.0),
    "aspect": 1.0,
    "rotation": 0.0,
    "tilt": 0.0,
    "thickness_scale": 1.0,
    "flip": 0.0,
    "jitter": 0.0,
}


def draw(config, *, plane="axial", n_views=4, seed=0, centers=(0.5, 0.4, 0.7)):
    return CropBoxes.draw(
        config,
        SHAPE,
        torch.tensor(centers),
        n_views=n_views,
        thickness=2,
        plane=plane,
        generator=torch.Generator().manual_seed(seed),
    )


def whole(plane, **changes):
    """Crops that are the whole volume."""
    n_slices, *size = EXTENTS[plane]
    config = CropConfig(size=tuple(size), n_slabs=n_slices // 2, **(NOTHING | changes))
    return draw(config, plane=plane, n_views=2)


def positions(boxes):
    """Voxel indices (i, j, k) of all voxels of crops: (B, V, n_slices, H, W, 3)."""
    axes = [torch.arange(float(n)) for n in boxes.size]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    linear, start = boxes.matrices[..., :3], boxes.matrices[..., 3]
    rotated = torch.einsum("bvxa,syca->bvsycx", linear, voxels)
    return rotated + start[:, :, None, None, None]


@pytest.mark.parametrize("plane", EXTENTS)
def test_crop_that_changes_nothing_gives_the_slabs_of_the_volume(plane):
    volumes = torch.randn(3, 4, *SHAPE)
    slabs = stack_to_slabs(whole(plane).apply(volumes), 2)  # B V S C H W
    grid = SlabGrid(thickness=2, plane=plane)
    for subject in range(3):
        expected = torch.from_numpy(grid.extract(volumes[subject].numpy()))
        for view in range(2):
            torch.testing.assert_close(
                slabs[subject, view], expected, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("plane", EXTENTS)
def test_flip_reverses_the_width(plane):
    volumes = torch.randn(3, 1, *SHAPE)
    straight = whole(plane).apply(volumes)
    flipped = whole(plane, flip=1.0).apply(volumes)
    torch.testing.assert_close(flipped, straight.flip(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plane", EXTENTS)
def test_matrices_give_the_voxels_of_a_crop(plane):
    axes = [torch.arange(float(n)) for n in SHAPE]
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    boxes = draw(CropConfig(size=(6, 5), n_slabs=2, rotation=40.0), plane=plane)
    crops = boxes.apply(coordinates.expand(3, -1, -1, -1, -1))
    assert crops.shape == (3, 4, 3, 4, 6, 5)
    # Outside, the edge of the volume continues.
    limits = torch.tensor(SHAPE) - 1.0
    expected = positions(boxes).clamp(min=torch.zeros(3), max=limits)
    torch.testing.assert_close(crops, expected.movedim(-1, 2), rtol=1e-4, atol=1e-3)


def test_same_draw_gives_the_same_crops():
    volumes = torch.randn(3, 2, *SHAPE)
    config = CropConfig(size=(6, 5), n_slabs=2)
    first, again, other = (draw(config, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.apply(volumes), first.apply(volumes))
    assert torch.equal(first.apply(volumes), again.apply(volumes))
    assert not torch.equal(first.matrices, other.matrices)


def test_edges_of_a_crop_are_orthogonal_and_of_the_drawn_lengths():
    config = CropConfig(
        size=(6, 5), n_slabs=2, area=(0.2, 0.4), aspect=1.1, thickness_scale=1.2
    )
    linear = draw(config, n_views=50).matrices[..., :3]
    products = linear.mT @ linear
    steps = products.diagonal(dim1=-2, dim2=-1).sqrt()  # B V 3
    torch.testing.assert_close(
        products, torch.diag_embed(steps.square()), rtol=1e-4, atol=1e-4
    )
    through, height, width = steps.unbind(-1)
    assert 1 / 1.2 <= through.min() < 0.9
    assert 1.1 < through.max() <= 1.2
    fraction = height * width * 6 * 5 / (12 * 10)
    assert 0.199 < fraction.min() < 0.22
    assert 0.38 < fraction.max() < 0.401
    stretch = height / width
    assert 1.1**-2 - 1e-4 < stretch.min() < 0.9
    assert 1.1 < stretch.max() < 1.1**2 + 1e-4


def test_crops_without_rotation_are_inside_the_volume():
    config = CropConfig(
        size=(6, 5), n_slabs=2, area=(0.1, 1.0), rotation=0.0, tilt=0.0, jitter=3.0
    )
    where = positions(draw(config, n_views=100, centers=(0.0, 0.5, 1.0)))
    assert where.min() >= -1e-4
    assert (where <= torch.tensor(SHAPE) - 1 + 1e-4).all()


def test_crops_of_a_subject_share_a_centre_up_to_the_jitter():
    config = CropConfig(size=(6, 5), n_slabs=1, jitter=0.75, flip=0.0)
    where = positions(draw(config, n_views=100, centers=(0.4, 0.5, 0.6)))
    middle = where.mean(dim=(2, 3, 4))[..., 2]  # B V, along the axial slab axis
    distance = middle - torch.tensor([2.7, 3.5, 4.3])[:, None]
    assert 1.2 < distance.abs().max() < 1.5 + 1e-4  # slabs of two voxels


@pytest.mark.parametrize("plane", EXTENTS)
def test_centre_is_the_position_of_the_middle_slab(plane):
    centers = (0.4, 0.5, 0.6)
    config = CropConfig(size=(6, 5), n_slabs=1, tilt=0.0, jitter=0.0)
    along_axis = draw(config, plane=plane, centers=centers).slab_positions(
        SHAPE, 2, plane
    )
    expected = torch.tensor(centers)[:, None, None].expand_as(along_axis)
    torch.testing.assert_close(along_axis, expected)


@pytest.mark.parametrize("factor", [2, 3])
def test_coarse_voxel_is_the_centre_of_those_it_replaces(factor):
    boxes = draw(CropConfig(size=(12, 6), n_slabs=3))
    coarse = boxes.coarsen(factor)
    fine = positions(boxes)  # B V n H W 3
    for axis in (2, 3, 4):
        fine = fine.unflatten(axis, (-1, factor)).mean(dim=axis + 1)
    assert coarse.size == tuple(fine.shape[2:5])
    torch.testing.assert_close(positions(coarse), fine, rtol=1e-5, atol=1e-4)


def test_channel_is_modality_times_thickness_plus_slice():
    stacks = torch.randn(5, 3, 8, 2, 7)  # M=3, four slabs of two slices
    slabs = stack_to_slabs(stacks, 2)
    assert slabs.shape == (5, 4, 6, 2, 7)
    for slab in range(4):
        for modality in range(3):
            for number in range(2):
                assert torch.equal(
                    slabs[:, slab, modality * 2 + number],
                    stacks[:, modality, slab * 2 + number],
                )


def test_pooled_patch_is_the_mean_of_its_voxels():
    stacks = torch.randn(2, 3, 4, 6, 10, 15)
    pooled = pool_patches(stacks, 3, 5)
    assert pooled.shape == (2, 3, 2, 2, 3, 4)
    for slab, row, column in np.ndindex(2, 2, 3):
        voxels = stacks[
            ...,
            slab * 3 : slab * 3 + 3,
            row * 5 : row * 5 + 5,
            column * 5 : column * 5 + 5,
        ]
        torch.testing.assert_close(
            pooled[:, :, slab, row, column], voxels.mean(dim=(-3, -2, -1))
        )


def test_pooled_foreground_equals_the_token_fractions():
    foreground = torch.rand(3, 1, *SHAPE) < 0.5
    crops = whole("axial").apply(foreground.float())
    pooled = pool_patches(crops, 2, 2)[..., 0]  # B V S h w
    grid = SlabGrid(thickness=2)
    for subject in range(3):
        expected = grid.token_fractions(foreground[subject, 0].numpy(), 2)
        for view in range(2):
            np.testing.assert_allclose(pooled[subject, view], expected, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"area": (0.0, 0.5)},
        {"area": (0.6, 0.5)},
        {"area": (0.5, 1.5)},
        {"n_slabs": 0},
        {"size": (8, 0)},
        {"aspect": 0.9},
        {"thickness_scale": 0.5},
        {"flip": 1.5},
    ],
)
def test_invalid_crop_is_rejected(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        CropConfig(**changes)


@pytest.mark.parametrize("plane", EXTENTS)
def test_slabs_of_a_whole_volume_are_evenly_spaced(plane):
    n_slabs = EXTENTS[plane][0] // 2
    along_axis = whole(plane, flip=1.0).slab_positions(SHAPE, 2, plane)
    expected = (torch.arange(n_slabs) + 0.5) / n_slabs
    torch.testing.assert_close(along_axis, expected.expand(3, 2, -1))


@pytest.mark.parametrize("plane", EXTENTS)
def test_slab_position_is_that_of_its_middle(plane):
    boxes = draw(CropConfig(size=(4, 6), n_slabs=2), plane=plane)
    along_axis = boxes.slab_positions(SHAPE, 2, plane)
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    voxels = positions(boxes)[..., axis].unflatten(2, (2, 2)).mean(dim=(3, 4, 5))
    expected = ((voxels + 0.5) / SHAPE[axis]).clamp(0, 1)
    torch.testing.assert_close(along_axis, expected)


def test_selected_slices_are_those_of_the_whole_crop():
    boxes = draw(CropConfig(size=(6, 5), n_slabs=3))
    volumes = torch.randn(3, 2, *SHAPE)
    whole = boxes.apply(volumes)
    part = boxes.select(2, 3).apply(volumes)
    torch.testing.assert_close(part, whole[:, :, :, 2:5])


@pytest.mark.parametrize("factor", [2, 3])
def test_refined_voxels_are_centred_on_the_voxel_they_replace(factor):
    boxes = draw(CropConfig(size=(6, 5), n_slabs=2))
    # In units of the coarse volume's voxels.
    fine = (positions(boxes.refine(factor)) - (factor - 1) / 2) / factor
    blocks = fine.unfold(2, factor, factor).unfold(3, factor, factor)
    middle = blocks.unfold(4, factor, factor).mean(dim=(-3, -2, -1))
    torch.testing.assert_close(middle, positions(boxes), rtol=1e-4, atol=1e-4)


def test_nearest_interpolation_creates_no_label():
    labels = torch.randint(0, 2, (3, 1, *SHAPE)).float() * 7
    crops = draw(CropConfig(size=(9, 8), n_slabs=3)).apply(labels, "nearest")
    assert set(crops.unique().tolist()) == {0.0, 7.0}
