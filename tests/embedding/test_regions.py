import pickle

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat.checkpoint.encoder_grid import SlabTokens
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.exceptions import (
    ConfigError,
    InputError,
    VolumeError,
    VolumeNotFoundError,
)
from brainfeat.slabs.grid import SlabGrid
from brainfeat.volume import Geometry

SHAPE = (16, 24, 8)
SPACING = np.diag([2.0, 2.0, 2.0, 1.0])
GRID = SlabTokens(SlabGrid(thickness=4), patch_size=8)


@pytest.fixture
def labels():
    """Two regions of different size, and a gap in the values."""
    data = np.zeros(SHAPE, np.uint8)
    data[:8, :8, :4] = 3
    data[8:, 8:, 4:] = 12
    return data


def test_weights_are_fractions_of_each_patch(labels):
    atlas = RegionAtlas.load(nib.Nifti1Image(labels, SPACING))
    weights = atlas.weights(Geometry(SHAPE, SPACING), GRID)
    assert atlas.values == (3, 12)  # noqa: PD011  no DataFrame
    assert atlas.names == ("region_3", "region_12")
    assert weights.shape == (2, 2, 3, 2)  # R S h w
    for value, region in zip(atlas.values, weights, strict=True):
        expected = GRID.token_fractions(labels == value)
        np.testing.assert_array_equal(region, expected)


def test_labels_are_sampled_in_world_coordinates(labels):
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
        Geometry(SHAPE, SPACING), GRID
    )
    for source in (image, turned):
        weights = RegionAtlas.load(source).weights(Geometry(SHAPE, SPACING), GRID)
        np.testing.assert_array_equal(weights, expected)


def test_names_are_read_from_the_table_beside_the_image(labels, tmp_path):
    path = tmp_path / "atlas_dseg.nii.GZ"
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


def test_repeated_index_in_the_table_is_refused(labels):
    lut = pd.DataFrame({"index": [3, 12, 3], "name": ["a", "b", "c"]})
    image = nib.Nifti1Image(labels, SPACING)
    with pytest.raises(InputError, match="lut: expected each index once, got 3 again"):
        RegionAtlas.load({"maps": image, "lut": lut})


@pytest.mark.parametrize("empty", [None, np.nan, "", " "])
def test_region_with_an_empty_name_has_its_number(labels, empty):
    lut = pd.DataFrame({"index": [3, 12], "name": [empty, "b"]})
    atlas = RegionAtlas.load({"maps": nib.Nifti1Image(labels, SPACING), "lut": lut})
    assert atlas.names == ("region_3", "b")


def test_regions_of_one_name_are_refused(labels, tmp_path):
    path = tmp_path / "atlas.nii"
    nib.save(nib.Nifti1Image(labels, SPACING), path)
    (tmp_path / "atlas.tsv").write_text("index\tname\n3\ta\n12\ta\n")
    with pytest.raises(InputError, match="two regions alike"):
        RegionAtlas.load(path)


def test_region_outside_the_grid_is_named(labels):
    atlas = RegionAtlas.load(nib.Nifti1Image(labels, SPACING))
    with pytest.raises(InputError, match=r"got no voxel of region_12\."):
        atlas.weights(Geometry((8, 8, 4), SPACING), GRID)


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


def test_look_up_table_names_an_image_in_memory(labels, tmp_path):
    image = nib.Nifti1Image(labels, SPACING)
    table = pd.DataFrame(
        {"index": [0, 3, 12], "name": ["Background", "hippocampus_l", " insula "]}
    )
    table.to_csv(tmp_path / "lut.tsv", sep="\t", index=False)
    table.to_csv(tmp_path / "lut.csv", index=False)
    for lut in (table, tmp_path / "lut.tsv", str(tmp_path / "lut.csv")):
        assert RegionAtlas.load({"maps": image, "lut": lut}).names == (
            "hippocampus_l",
            "insula",
        )


def test_given_table_comes_before_the_one_beside_the_image(labels, tmp_path):
    nib.save(nib.Nifti1Image(labels, SPACING), tmp_path / "atlas.nii.gz")
    (tmp_path / "atlas.tsv").write_text("index\tname\n3\tbeside\n")
    given = pd.DataFrame({"index": [3], "name": ["given"]})
    atlas = RegionAtlas.load({"maps": tmp_path / "atlas.nii.gz", "lut": given})
    assert atlas.names == ("given", "region_12")


@pytest.mark.parametrize(
    ("lut", "error", "message"),
    [
        (["a", "b"], ConfigError, "lut: expected a DataFrame or the path.*got list"),
        ("none.tsv", InputError, r"none\.tsv: cannot be read \(No such file"),
        (pd.DataFrame({"label": [3]}), InputError, "lut: expected the columns index"),
    ],
)
def test_look_up_table_of_another_form_is_refused(labels, lut, error, message):
    with pytest.raises(error, match=message):
        RegionAtlas.load({"maps": nib.Nifti1Image(labels, SPACING), "lut": lut})


def test_a_loaded_atlas_is_returned(labels):
    atlas = RegionAtlas.load(nib.Nifti1Image(labels, SPACING))
    assert RegionAtlas.load(atlas) is atlas


def test_atlases_are_equal_if_labels_and_names_are(labels):
    image = nib.Nifti1Image(labels, SPACING)
    atlas = RegionAtlas.load(image)
    sent = pickle.dumps(atlas)
    assert len(sent) < atlas.labels.data.nbytes / 5
    copy = pickle.loads(sent)
    assert copy == atlas
    assert hash(copy) == hash(atlas)
    assert copy.values == atlas.values  # noqa: PD011  no DataFrame
    np.testing.assert_array_equal(copy.labels.data, atlas.labels.data)
    named = pd.DataFrame({"index": [3], "name": ["insula"]})
    assert RegionAtlas.load({"maps": image, "lut": named}) != atlas
    assert RegionAtlas.load(nib.Nifti1Image(labels[::-1], SPACING)) != atlas
