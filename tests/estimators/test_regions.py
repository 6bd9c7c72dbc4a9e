import nibabel as nib
import numpy as np
import pytest

from brainfeat.estimators._regions import RegionAtlas
from brainfeat.exceptions import (
    ConfigError,
    InputError,
    VolumeError,
    VolumeNotFoundError,
)
from brainfeat.slabs import SlabGrid
from brainfeat.volume import Geometry

SHAPE = (16, 24, 8)
SPACING = np.diag([2.0, 2.0, 2.0, 1.0])
GRID = SlabGrid(thickness=4)


@pytest.fixture
def labels():
    """Two regions of different size, and a gap in the values."""
    data = np.zeros(SHAPE, np.uint8)
    data[:8, :8, :4] = 3
    data[8:, 8:, 4:] = 12
    return data


def test_weights_are_the_share_of_each_patch(labels):
    atlas = RegionAtlas.load(nib.Nifti1Image(labels, SPACING))
    weights = atlas.weights(Geometry(SHAPE, SPACING), GRID, 8)
    assert atlas.values == (3, 12)
    assert atlas.names == ("region_3", "region_12")
    assert weights.shape == (2, 2, 3, 2)  # R S h w
    for value, region in zip(atlas.values, weights, strict=True):
        expected = GRID.token_fractions(labels == value, 8)
        np.testing.assert_array_equal(region, expected)


def test_labels_are_sampled_by_their_place_in_the_world(labels):
    # The same regions, stored finer, shifted, and with two axes swapped and flipped.
    fine = np.repeat(np.repeat(np.repeat(labels, 2, 0), 2, 1), 2, 2)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -0.5
    stored = np.pad(fine, [(3, 0), (0, 5), (0, 0)])
    affine[0, 3] -= 3
    image = nib.Nifti1Image(stored, affine)
    turned = image.as_reoriented(
        nib.orientations.axcodes2ornt(("P", "I", "L"), ("RL", "PA", "SI"))
    )
    assert turned.shape != image.shape
    expected = RegionAtlas.load(nib.Nifti1Image(labels, SPACING)).weights(
        Geometry(SHAPE, SPACING), GRID, 8
    )
    for source in (image, turned):
        weights = RegionAtlas.load(source).weights(Geometry(SHAPE, SPACING), GRID, 8)
        np.testing.assert_array_equal(weights, expected)


def test_names_are_looked_up_in_the_table_beside_the_image(labels, tmp_path):
    path = tmp_path / "atlas_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels, SPACING), path)
    (tmp_path / "atlas_dseg.tsv").write_text(
        "index\tname\tcolor\n0\tbackground\t\n12\thippocampus_l\t#ff0000\n"
    )
    assert RegionAtlas.load(path).names == ("region_3", "hippocampus_l")
    assert RegionAtlas.load(str(path)).fingerprint == RegionAtlas.load(path).fingerprint


@pytest.mark.parametrize("table", ["name\nhippocampus\n", "index\tname\nx\ty\n"])
def test_unreadable_table_is_refused(labels, tmp_path, table):
    path = tmp_path / "atlas.nii"
    nib.save(nib.Nifti1Image(labels, SPACING), path)
    (tmp_path / "atlas.tsv").write_text(table)
    with pytest.raises(InputError, match=r"atlas.tsv: expected the columns index"):
        RegionAtlas.load(path)


def test_regions_of_one_name_are_refused(labels, tmp_path):
    path = tmp_path / "atlas.nii"
    nib.save(nib.Nifti1Image(labels, SPACING), path)
    (tmp_path / "atlas.tsv").write_text("index\tname\n3\ta\n12\ta\n")
    with pytest.raises(InputError, match="two regions alike"):
        RegionAtlas.load(path)


def test_region_outside_the_grid_is_named(labels):
    atlas = RegionAtlas.load(nib.Nifti1Image(labels, SPACING))
    with pytest.raises(InputError, match=r"got no voxel of region_12\."):
        atlas.weights(Geometry((8, 8, 4), SPACING), GRID, 8)


@pytest.mark.parametrize("labels_img", [None, 3, ["atlas.nii"]])
def test_other_types_are_refused(labels_img):
    with pytest.raises(ConfigError, match="labels_img: pooling='regions' expects"):
        RegionAtlas.load(labels_img)


def test_images_without_regions_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least one region"):
        RegionAtlas.load(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), SPACING))
    with pytest.raises(VolumeError, match="integer labels"):
        RegionAtlas.load(nib.Nifti1Image(np.full(SHAPE, 0.5, np.float32), SPACING))
    with pytest.raises(VolumeNotFoundError, match=r"none\.nii"):
        RegionAtlas.load(tmp_path / "none.nii")
