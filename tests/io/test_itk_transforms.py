import numpy as np
import pytest
import SimpleITK as sitk

from brainfeat import Geometry
from brainfeat.exceptions import GeometryError, InputError, VolumeError
from brainfeat.io.itk_transforms import (
    read_affine,
    read_field,
    write_affine,
    write_field,
)

AFFINE = np.array(
    [[0.9, 0.1, 0.0, 5.0], [-0.1, 1.1, 0.2, -7.0], [0.0, 0.1, 1.0, 2.0], [0, 0, 0, 1]]
)
FLIP = np.array([-1.0, -1.0, 1.0])


def field_and_grid():
    affine = np.array(
        [[0.0, 0, 2, -9], [-3, 0, 0, 12], [0, 2.5, 0, -4], [0, 0, 0, 1]], float
    )
    field = np.random.default_rng(0).normal(size=(5, 6, 7, 3)).astype(np.float32)
    return field, Geometry((5, 6, 7), affine)


def test_itk_moves_points_as_the_affine(tmp_path):
    path = write_affine(AFFINE, tmp_path / "a.txt")
    np.testing.assert_allclose(read_affine(path), AFFINE, atol=1e-12)
    point = np.array([3.0, 4.0, 5.0])
    moved = sitk.ReadTransform(str(path)).TransformPoint((point * FLIP).tolist())
    np.testing.assert_allclose(FLIP * moved, AFFINE[:3, :3] @ point + AFFINE[:3, 3])


def test_affine_of_itk_with_a_centre_is_read(tmp_path):
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(AFFINE[:3, :3].ravel().tolist())
    transform.SetCenter((10.0, -20.0, 30.0))
    transform.SetTranslation((1.0, 2.0, 3.0))
    sitk.WriteTransform(transform, str(tmp_path / "a.txt"))
    affine = read_affine(tmp_path / "a.txt")
    moved = affine[:3, :3] @ [3.0, 4.0, 5.0] + affine[:3, 3]
    expected = FLIP * transform.TransformPoint((-3.0, -4.0, 5.0))
    np.testing.assert_allclose(moved, expected)


def test_itk_moves_points_as_the_field(tmp_path):
    field, grid = field_and_grid()
    path = write_field(field, grid, tmp_path / "f.nii.gz")
    again, same = read_field(path)
    np.testing.assert_array_equal(again, field)
    assert same.is_close(grid)
    image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(image)
    voxel = np.array([2.0, 3.0, 4.0])
    point = grid.affine[:3, :3] @ voxel + grid.affine[:3, 3]
    moved = FLIP * transform.TransformPoint((point * FLIP).tolist())
    np.testing.assert_allclose(moved, point + field[2, 3, 4], atol=1e-5)


def test_what_is_no_transform_is_refused(tmp_path):
    field, grid = field_and_grid()
    path = tmp_path / "a.txt"
    for text in ("nothing", "Transform: BSplineTransform_double_3_3\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.txt: expected one affine"):
            read_affine(path)
    path.write_text("Transform: AffineTransform_double_3_3\nParameters: 1 2\n")
    with pytest.raises(InputError, match="expected 12 numbers, got '1 2'"):
        read_affine(path)
    with pytest.raises(VolumeError, match=r"a\.txt"):
        read_field(path)
    sheared = grid.affine @ np.array(
        [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    with pytest.raises(GeometryError, match="right angles"):
        write_field(field, Geometry(grid.shape, sheared), tmp_path / "f.nii.gz")
