import pickle

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from brainfeat import RegistrationEstimator, Volume
from brainfeat.exceptions import ConfigError, InputError, ModalityError, VolumeError
from brainfeat.io.volumes import to_image
from brainfeat.registration.pair import PairQuality, _find_doubt
from brainfeat.registration.transform import SpatialTransform
from brainfeat.volume import Geometry


@pytest.fixture(scope="module")
def truth(small_brain):
    """Displacements of 4 mm and more in a brain, that fade around it."""
    generator = np.random.default_rng(0)
    shape = small_brain.geometry.shape
    inside = ndimage.gaussian_filter((small_brain.data > 0).astype(float), 2.0)
    field = np.stack(
        [ndimage.gaussian_filter(generator.normal(size=shape), 6.0) for _ in range(3)],
        axis=-1,
    )
    field *= 2.5 / field.std() * inside[..., None]
    grid = small_brain.geometry
    return SpatialTransform(
        affine=np.eye(4),
        field=field.astype(np.float32),
        grid=grid,
        fixed=grid,
        moving=grid,
    )


@pytest.fixture(scope="module")
def brain(small_brain):
    return Volume(small_brain.data.astype(np.float32), small_brain.geometry)


def other_contrast(volume):
    data = volume.data
    dark = np.where(data > 0, 1.1 * data.max() - data, 0.0)
    return Volume(dark.astype(np.float32), volume.geometry)


def in_brain(volume):
    """Points in the brain, (3, n) in mm."""
    inside = ndimage.binary_erosion(volume.data > 0, iterations=2)
    indices = np.argwhere(inside)[::7].T
    affine = volume.geometry.affine
    return affine[:3, :3] @ indices + affine[:3, 3:]


def make(checkpoint_path, **options):
    return RegistrationEstimator(
        checkpoint_path, **{"spacing": 3.0, "n_steps": 25, **options}
    )


@pytest.mark.slow
def test_known_deformation_is_recovered(brain, truth, checkpoint_path):
    # The harder of both: the contrast of the moving scan is inverted.
    contrast, fixed, moving = "T2w", truth.warp(brain), other_contrast(brain)
    # On voxels of 3 mm, the error is a little above 1 mm.
    model = make(checkpoint_path, spacing=2.0, n_steps=20).fit(to_image(fixed))
    pair = model.register_pair({contrast: to_image(moving)})
    points = in_brain(fixed)
    expected = truth.map_points(points)
    before = np.linalg.norm(expected - points, axis=0).mean()
    error = np.linalg.norm(pair.transform.map_points(points) - expected, axis=0)
    assert before > 2.0
    assert error.mean() < 1.0
    assert pair.quality.folded_percent < 0.1
    assert pair.quality.similarity_after > pair.quality.similarity_before
    back = pair.transform.invert().map_points(pair.transform.map_points(points))
    assert np.linalg.norm(back - points, axis=0).mean() < 0.2


def test_a_scan_does_not_move_to_itself(brain, checkpoint_path):
    image = to_image(brain)
    pair = make(checkpoint_path, n_steps=5).fit(image).register_pair(image)
    np.testing.assert_allclose(pair.transform.affine, np.eye(4), atol=1e-6)
    assert pair.quality.mean_displacement_mm < 0.05


@pytest.mark.parametrize("codes", ["PIR", "LPS"])
def test_grids_of_any_orientation_are_those_of_the_result(
    brain, checkpoint_path, codes
):
    turn = nib.orientations.axcodes2ornt(codes)
    image = to_image(brain).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(brain.geometry.affine), turn)
    )
    model = make(checkpoint_path, deformation="affine").fit(image)
    (same,) = model.transform(to_image(brain))
    assert same.shape == image.shape
    np.testing.assert_allclose(same.affine, image.affine, atol=1e-5)
    scale = brain.data.max()
    difference = np.asarray(same.dataobj) - np.asarray(image.dataobj)
    assert np.abs(difference).mean() < 0.01 * scale


def test_template_is_a_fixed_scan(brain, checkpoint_path):
    model = make(checkpoint_path, deformation="affine").fit("template")
    (image,) = model.transform([to_image(brain)])
    assert image.shape == (197, 233, 189)
    transform = model.register(to_image(brain))
    points = in_brain(brain)
    # The brain is the template's, at 3 mm.
    error = np.linalg.norm(transform.map_points(points) - points, axis=0)
    assert error.mean() < 1.0


def test_estimator_is_cloned_and_pickled(brain, checkpoint_path):
    model = make(checkpoint_path, smoothness=0.5, deformation="affine")
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        model.register(to_image(brain))
    model.fit(to_image(brain))
    again = pickle.loads(pickle.dumps(model))
    one, other = (m.register(to_image(brain)).affine for m in (model, again))
    np.testing.assert_array_equal(one, other)
    assert not hasattr(clone(model), "checkpoint_fingerprint_")


def test_impossible_input_is_one_clear_error(brain, checkpoint_path, tmp_path):
    image = to_image(brain)
    for options in ({"deformation": "rigid"}, {"n_steps": -1}, {"smoothness": "a"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            make(checkpoint_path, **options).fit(image)
    with pytest.raises(InputError, match="one fixed scan, got 2"):
        make(checkpoint_path).fit([image, image])
    with pytest.raises(ModalityError, match="PDw"):
        make(checkpoint_path).fit({"PDw": image})
    empty = Volume(
        np.zeros((40, 41, 42), np.float32), Geometry((40, 41, 42), np.eye(4))
    )
    path = tmp_path / "empty_T1w.nii.gz"
    to_image(empty).to_filename(path)
    with pytest.raises(VolumeError, match="empty_T1w"):
        make(checkpoint_path).fit(str(path))


def test_a_field_that_makes_a_pair_less_alike_is_in_doubt():
    good = PairQuality(0.5, 0.6, 0.0, 1.0, 0.1)
    assert _find_doubt(good) == ""
    worse = _find_doubt(good._replace(similarity_after=0.4))
    assert worse == "the deformation lowers the similarity from 0.50 to 0.40"
    assert "folds in 2.00 %" in _find_doubt(good._replace(folded_percent=2.0))
