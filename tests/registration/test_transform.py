import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from brainfeat import Geometry, Volume, write_volume
from brainfeat.exceptions import VolumeError
from brainfeat.io.volumes import to_image
from brainfeat.registration.transform import SpatialTransform


def smooth_noise(shape, sd, generator):
    noise = ndimage.gaussian_filter(generator.normal(size=shape), sd)
    return (noise / noise.std()).astype(np.float32)


def geometry(codes, shape, spacing):
    """A grid around the origin, in an orientation and a little oblique."""
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.axcodes2ornt(codes), np.array(shape)
    )
    angle = np.array([[0.98, -0.199, 0, 0], [0.199, 0.98, 0, 0], [0, 0, 1, 0]])
    affine = np.vstack([angle, [0, 0, 0, 1]]) @ affine @ np.diag([*spacing, 1.0])
    affine[:3, :3] *= 1.0
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2.0)
    return Geometry(shape, affine)


@pytest.fixture
def transform():
    """A smooth transform between grids of odd orientations."""
    generator = np.random.default_rng(3)
    grid = geometry("RAS", (20, 22, 24), (4.0, 4.0, 4.0))
    window = np.zeros(grid.shape, np.float32)
    window[5:-5, 5:-5, 5:-5] = 1.0
    window = ndimage.gaussian_filter(window, 1.0)[..., None]
    field = np.stack([smooth_noise(grid.shape, 3.0, generator) for _ in range(3)], -1)
    affine = np.eye(4)
    affine[:3, :3] += generator.normal(0.0, 0.05, (3, 3))
    affine[:3, 3] = 3.0, -4.0, 5.0
    return SpatialTransform(
        affine=affine,
        field=3.0 * window * field,
        grid=grid,
        fixed=geometry("PIR", (30, 26, 28), (2.0, 2.2, 2.1)),
        moving=geometry("LPS", (31, 33, 29), (2.0, 1.9, 2.0)),
    )


@pytest.fixture
def moving(transform):
    data = smooth_noise(transform.moving.shape, 2.0, np.random.default_rng(4))
    return Volume(data, transform.moving)


def by_sitk(image, transforms, reference):
    composite = sitk.CompositeTransform(3)
    for one in reversed(transforms):  # the last that is added is applied first
        composite.AddTransform(one)
    return sitk.Resample(image, reference, composite, sitk.sitkLinear, 0.0)


def test_itk_gives_the_same_image(transform, moving, tmp_path):
    stem = tmp_path / "sub-1_from-T1w_to-T2w_mode-image_xfm"
    transform.save(stem)
    write_volume(moving, tmp_path / "moving.nii.gz")
    write_volume(transform.warp(moving), tmp_path / "warped.nii.gz")
    warped, image = (
        sitk.ReadImage(str(tmp_path / f"{name}.nii.gz"), sitk.sitkFloat32)
        for name in ("warped", "moving")
    )
    vectors = sitk.ReadImage(f"{stem}.nii.gz", sitk.sitkVectorFloat64)
    both = [sitk.DisplacementFieldTransform(vectors), sitk.ReadTransform(f"{stem}.txt")]
    expected = by_sitk(image, both, warped)
    difference = sitk.GetArrayFromImage(warped) - sitk.GetArrayFromImage(expected)
    # Half a voxel beyond its edge, an image is still inside for ITK.
    ones = Volume(np.ones_like(moving.data), moving.geometry)
    inside = transform.warp(ones).data.T > 0.999
    assert inside.mean() > 0.3
    assert sitk.GetArrayFromImage(warped)[inside].std() > 0.3
    assert np.abs(difference[inside]).max() < 1e-3


@pytest.mark.parametrize("is_loaded", [False, True])
def test_inverse_takes_points_back(transform, tmp_path, is_loaded):
    there = transform
    if is_loaded:
        transform.save(tmp_path / "a_xfm.nii.gz")
        there = SpatialTransform.load(tmp_path / "a_xfm.txt")
        assert there.fixed.is_close(transform.fixed)
        assert there.moving.is_close(transform.moving)
    points = np.random.default_rng(0).uniform(-20.0, 20.0, (3, 500))
    moved = there.map_points(points)
    assert np.linalg.norm(moved - points, axis=0).min() > 1.0
    np.testing.assert_allclose(moved, transform.map_points(points), atol=1e-4)
    back = there.invert()
    error = np.linalg.norm(back.map_points(moved) - points, axis=0)
    assert error.mean() < 0.15
    again = np.linalg.norm(back.invert().map_points(points) - moved, axis=0)
    assert again.max() < 1e-3
    assert back.fixed is there.moving


def test_inverse_is_saved_on_a_grid_at_right_angles(transform, tmp_path):
    back = transform.invert()
    back.save(tmp_path / "b_xfm")
    loaded = SpatialTransform.load(tmp_path / "b_xfm")
    points = np.random.default_rng(0).uniform(-20.0, 20.0, (3, 500))
    error = back.map_points(points) - loaded.map_points(points)
    assert np.linalg.norm(error, axis=0).mean() < 0.1


def test_labels_stay_labels(transform):
    generator = np.random.default_rng(1)
    blobs = np.stack(
        [smooth_noise(transform.moving.shape, 2.0, generator) for _ in range(3)]
    )
    labels = np.array([0, 7, 41], np.int32)[blobs.argmax(axis=0)]
    image = transform.apply_labels(to_image(Volume(labels, transform.moving)))
    warped = np.asarray(image.dataobj)
    assert set(np.unique(warped)) == {0, 7, 41}
    assert image.shape == transform.fixed.shape
    np.testing.assert_allclose(image.affine, transform.fixed.affine, atol=1e-5)
    # As argmax of the masks' linear interpolation.
    masks = [
        transform.warp(Volume((labels == n).astype(np.float32), transform.moving)).data
        for n in (7, 41)
    ]
    inside = masks[0] + masks[1]
    expected = np.where(masks[0] > masks[1], 7, 41)
    clear = (inside > 0.51) & (np.abs(masks[0] - masks[1]) > 0.51)
    np.testing.assert_array_equal(warped[clear], expected[clear])


def test_identity_returns_the_volume(moving):
    grid = moving.geometry
    same = SpatialTransform(
        affine=np.eye(4),
        field=np.zeros((*grid.shape, 3), np.float32),
        grid=grid,
        fixed=grid,
        moving=grid,
    )
    np.testing.assert_allclose(same.warp(moving).data, moving.data, atol=1e-3)


def test_transform_of_others_needs_no_json(transform, tmp_path):
    transform.save(tmp_path / "c_xfm")
    (tmp_path / "c_xfm.json").unlink()
    assert SpatialTransform.load(tmp_path / "c_xfm").fixed.is_close(transform.grid)
    (tmp_path / "c_xfm.json").write_text(json.dumps({"FixedGrid": {"Shape": [1]}}))
    with pytest.raises(ValueError, match=r"c_xfm\.json: expected the grids"):
        SpatialTransform.load(tmp_path / "c_xfm")


def test_damaged_field_is_refused(transform):
    bad = transform.field.copy()
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(VolumeError, match="finite"):
        SpatialTransform(**{**vars(transform), "field": bad})
