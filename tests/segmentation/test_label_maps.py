from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat.exceptions import InputError, VolumeError, VolumeNotFoundError
from brainfeat.io.volumes import read_labels, to_image, write_volume
from brainfeat.segmentation.label_maps import (
    as_label_maps,
    check_placement,
    label_map_name,
    lies_outside,
    read_on_image,
)
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

SUBJECTS = [Subject("first", {}), Subject("second", {})]


def make_labels(value=1):
    return Volume(np.full((3, 4, 5), value, np.uint8), Geometry((3, 4, 5), np.eye(4)))


@pytest.fixture
def paths(tmp_path):
    return [str(write_volume(make_labels(n), tmp_path / f"{n}.nii.gz")) for n in (1, 2)]


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        pd.Series,
        pd.Index,
        lambda paths: pd.DataFrame({"label": paths}),
        lambda paths: np.array(paths, dtype=object),
        lambda paths: [nib.load(path) for path in paths],
        lambda _: [make_labels(1), make_labels(2)],
        lambda _: [to_image(make_labels(1)), make_labels(2)],
    ],
)
def test_every_form_gives_one_a_subject_in_order(paths, form):
    maps = as_label_maps(form(paths), SUBJECTS)
    assert [int(read_labels(source).data.max()) for source in maps] == [1, 2]


def test_volumes_of_a_4d_image_are_the_subjects():
    data = np.stack([make_labels(1).data, make_labels(2).data], axis=-1)
    maps = as_label_maps(nib.Nifti1Image(data, np.eye(4)), SUBJECTS)
    assert [int(read_labels(source).data.max()) for source in maps] == [1, 2]


def test_home_folder_is_expanded(paths, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (label_map,) = as_label_maps("~/1.nii.gz", SUBJECTS[:1])
    assert str(label_map) == paths[0]


def test_other_values_are_refused_as_label_maps(paths):
    with pytest.raises(InputError, match="second: expected a label map, got none"):
        as_label_maps([paths[0], None], SUBJECTS)
    with pytest.raises(InputError, match="second: expected the path or image"):
        as_label_maps([paths[0], 3.5], SUBJECTS)
    with pytest.raises(VolumeError, match=r"^x+: cannot be read \(File name too long"):
        as_label_maps(["x" * 300], SUBJECTS[:1])
    with pytest.raises(VolumeNotFoundError, match="label map of first"):
        as_label_maps(["nowhere.nii.gz", paths[1]], SUBJECTS)
    with pytest.raises(InputError, match="one column"):
        as_label_maps(pd.DataFrame({"a": paths, "b": paths}), SUBJECTS)
    with pytest.raises(InputError, match="got dict"):
        as_label_maps({"a": paths}, SUBJECTS)


def test_name_is_the_path_or_the_subject(paths):
    assert label_map_name(paths[0], SUBJECTS[0]) == paths[0]
    assert label_map_name(nib.load(paths[0]), SUBJECTS[0]) == paths[0]
    assert label_map_name(to_image(make_labels()), SUBJECTS[0]) == "label map of first"


def test_volumes_of_one_image_keep_every_label():
    data = np.full((3, 4, 5, 2), 7, np.int32)
    data[..., 1] = 2**24 + 1  # float32 rounds it
    maps = as_label_maps(nib.Nifti1Image(data, np.eye(4)), SUBJECTS)
    assert [int(read_labels(source).data.max()) for source in maps] == [7, 2**24 + 1]


@pytest.mark.parametrize("form", [pd.Series, lambda y: pd.DataFrame({"label": y})])
def test_index_in_another_order_is_refused(paths, form):
    y = form(paths)
    for index in (["second", "first"], ["second", "third"]):
        y.index = index
        message = "y: expected the rows of X in their order, .*'second' where X has 'fi"
        with pytest.raises(InputError, match=message):
            as_label_maps(y, SUBJECTS)
    y.index = ["first", "second"]
    as_label_maps(y, SUBJECTS)
    # A default index does not identify subjects.
    y.index = [1, 0]
    as_label_maps(y, [Subject("0", {}), Subject("1", {})])
    for index in ([0, 1], [2, 3]):
        y.index = index
        as_label_maps(y, [Subject("1", {}), Subject("2", {})])
    with pytest.raises(InputError, match="'3' where X has '2'"):
        as_label_maps(y.set_axis([3, 2]), [Subject("2", {}), Subject("3", {})])


@pytest.mark.parametrize(
    ("image", "label_map", "got"),
    [
        ("sub-02_T1w.nii.gz", "sub-01_dseg.nii.gz", "sub-01"),
        ("sub-01/ses-1/T1.nii", "sub-01/ses-2/seg.nii", "ses-2"),
        ("sub-9/mri/T1.mgz", "sub-8/mri/sub-19_aseg.mgz", "sub-19"),
        ("sub-002_T1w.nii.gz", "sub-2_dseg.nii.gz", None),
        ("sub-02_ses-1_T1w.nii.gz", "sub-02_dseg.nii.gz", None),
        ("scan7.nii.gz", "sub-02_dseg.nii.gz", None),
    ],
)
def test_label_map_of_another_subject_is_refused(tmp_path, image, label_map, got):
    path = str(
        write_volume(make_labels(), tmp_path / label_map.replace(".mgz", ".nii"))
    )
    subject = Subject("first", {"T1w": Path(image)})
    for source in (path, nib.load(path)):
        if got is None:
            assert as_label_maps([source], [subject])
            continue
        message = f"as {image} is, got one of {got}"
        with pytest.raises(InputError, match=message) as caught:
            as_label_maps([source], [subject])
        assert str(caught.value).startswith(path)


def test_images_in_memory_have_the_owners_of_their_files(tmp_path):
    names = ["sub-2_T1w.nii", "sub-1_dseg.nii"]
    image, label_map = (
        nib.load(write_volume(make_labels(), tmp_path / n)) for n in names
    )
    with pytest.raises(InputError, match=r"sub-2_T1w\.nii is, got one of sub-1"):
        as_label_maps([label_map], [Subject("X[0]", {"T1w": image})])
    unnamed = to_image(make_labels())
    with pytest.raises(InputError, match="as sub-2 is, got one of sub-1"):
        as_label_maps([label_map], [Subject("sub-2", {"T1w": unnamed})])
    # The names of files take precedence over those of subjects.
    assert as_label_maps([label_map], [Subject("sub-2", {"T1w": Path("sub-1.nii")})])


@pytest.mark.parametrize("load", [Path, nib.load])
def test_image_is_not_its_own_label_map(paths, load):
    subject = Subject("first", {"T1w": load(paths[0])})
    with pytest.raises(InputError, match="a label map, got the image itself") as caught:
        as_label_maps([load(paths[0])], [subject])
    assert str(caught.value).startswith(paths[0])


def test_labels_are_read_where_the_image_lies():
    data = np.arange(60, dtype=np.int16).reshape((3, 4, 5))
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    image = nib.Nifti1Image(data, affine)
    subject = Subject("first", {})
    same = read_on_image(image, subject, Geometry((3, 4, 5), affine))
    np.testing.assert_array_equal(same, data)
    # Mirrored, and one voxel further: the last plane lies outside.
    mirrored = affine @ nib.affines.from_matvec(np.diag([-1, 1, 1]), [3, 0, 0])
    moved = read_on_image(image, subject, Geometry((3, 4, 5), mirrored))
    np.testing.assert_array_equal(moved[1:], data[:0:-1])
    assert not moved[0].any()


def test_label_map_that_lost_its_affine_is_named():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    lost = Volume(np.ones((3, 4, 5), np.int32), Geometry((3, 4, 5), np.eye(4)))
    with pytest.raises(InputError, match=r"^y: expected the affine of its image"):
        check_placement(lost, Geometry((3, 4, 5), affine), "y")
    check_placement(lost, Geometry((3, 4, 5), np.eye(4)), "y")
    check_placement(lost, Geometry((6, 4, 5), affine), "y")


@pytest.mark.parametrize(
    ("voxel", "shift", "expected"),
    [
        ((2, 0, 4), 0.0, False),
        ((2, 0, 4), 0.4, False),  # between the centres of voxels
        ((2, 0, 4), 0.6, True),
        ((0, 3, 4), 0.6, False),
        (None, 9.0, False),
    ],
)
def test_labels_outside_a_grid_differ_from_no_labels(voxel, shift, expected):
    labels = np.zeros((3, 4, 5), np.int32)
    if voxel is not None:
        labels[voxel] = 6
    # Twice the size on the grid, and half of that in scanner space.
    grid, to_scanner = Geometry((3, 4, 5), np.diag([2.0, 2.0, 2.0, 1.0])), np.eye(4)
    to_scanner[:3, :3] /= 2
    to_scanner[:3, 3] = [-shift, 0, 0]
    label_map = Volume(labels, Geometry((3, 4, 5), np.eye(4)))
    assert lies_outside(label_map, grid, to_scanner) == expected
