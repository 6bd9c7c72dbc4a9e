import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import InputError
from brainfeat.segmentation.label_places import (
    check_place,
    lies_beside,
    read_on_image,
)
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

SHAPE = (3, 4, 5)


def test_labels_are_read_where_the_image_lies():
    data = np.arange(60, dtype=np.int16).reshape(SHAPE)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    image = nib.Nifti1Image(data, affine)
    subject = Subject("first", {})
    same = read_on_image(image, subject, Geometry(SHAPE, affine))
    np.testing.assert_array_equal(same, data)
    # Mirrored, and one voxel further: the last plane lies outside.
    mirrored = affine @ nib.affines.from_matvec(np.diag([-1, 1, 1]), [3, 0, 0])
    moved = read_on_image(image, subject, Geometry(SHAPE, mirrored))
    np.testing.assert_array_equal(moved[1:], data[:0:-1])
    assert not moved[0].any()


def test_labels_without_the_place_of_their_image_are_named():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    lost = Volume(np.ones(SHAPE, np.int32), Geometry(SHAPE, np.eye(4)))
    with pytest.raises(InputError, match=r"^y: expected the affine of its image"):
        check_place(lost, Geometry(SHAPE, affine), "y")
    check_place(lost, Geometry(SHAPE, np.eye(4)), "y")
    check_place(lost, Geometry((6, 4, 5), affine), "y")


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
def test_labels_beside_a_grid_are_told_from_none(voxel, shift, expected):
    labels = np.zeros((3, 4, 5), np.int32)
    if voxel is not None:
        labels[voxel] = 6
    # Twice the size in its own world, and half as far in the scanner's.
    grid, to_scanner = Geometry((3, 4, 5), np.diag([2.0, 2.0, 2.0, 1.0])), np.eye(4)
    to_scanner[:3, :3] /= 2
    to_scanner[:3, 3] = [-shift, 0, 0]
    label_map = Volume(labels, Geometry((3, 4, 5), np.eye(4)))
    assert lies_beside(label_map, grid, to_scanner) == expected
