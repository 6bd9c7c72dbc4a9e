import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainfeat.preprocessing.head_model import load_brain_model
from brainfeat.preprocessing.registration import (
    Moving,
    _Comparison,
    register,
    to_linear,
    to_parameters,
    to_rotation,
)
from brainfeat.preprocessing.template import BRAIN_CENTER, load_template
from brainfeat.volume import Geometry, Volume


def smooth_volume(rng, width):
    shape = (55, 65, 60)
    data = ndimage.gaussian_filter(rng.normal(size=shape), width).astype(np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -2.0 * (np.array(shape) - 1)
    return Volume(data / data.std(), Geometry(shape, affine))


def test_gradient_is_that_of_the_cost(rng):
    # Smooth, so that the interpolation has few kinks.
    moving = Moving(smooth_volume(rng, 6.0), smooth_volume(rng, 6.0), 12.0)
    comparison = _Comparison(moving, load_brain_model(8.0, 14.0))
    parameters = to_parameters(0.9 * np.eye(3), np.array([3.0, 2.0, 1.0]))
    gradient, _ = comparison.linearise(comparison.compare(parameters))
    steps = 1e-3 * np.eye(12)
    ahead, behind = (
        np.array([comparison.compare(parameters + step).match.cost for step in moves])
        for moves in (steps, -steps)
    )
    expected = (ahead - behind) / 4e-3
    error = np.linalg.norm(gradient - expected)
    assert error < 0.05 * np.linalg.norm(expected)


def test_parameters_are_those_of_the_linear_map():
    turn = Rotation.from_rotvec([0.2, -0.1, 0.3]).as_matrix()
    linear = turn @ np.array([[0.9, 0.02, 0.01], [0.02, 1.0, 0.03], [0.01, 0.03, 0.8]])
    parameters = to_parameters(linear, np.array([50.0, 0.0, -25.0]))
    np.testing.assert_allclose(to_linear(parameters), linear, atol=1e-12)
    np.testing.assert_allclose(parameters[9:], [1.0, 0.0, -0.5])


def test_rotations_equal_scipys(rng):
    vectors = np.vstack([np.zeros(3), [1e-9, 0.0, 0.0], rng.normal(size=(5, 3))])
    expected = Rotation.from_rotvec(vectors).as_matrix()
    found = [to_rotation(np.append(vector, np.ones(9))) for vector in vectors]
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("brightness", [(1.0, 0.7), (0.3, 0.5), (0.6, 0.8)])
def test_template_in_any_contrast_is_found(small_brain, brightness):
    inside = (small_brain.data > 0).astype(np.float32)
    steps = np.quantile(small_brain.data[inside > 0], [0.1, 0.5, 0.9])
    tissue = np.interp(small_brain.data, steps, [0.4, *brightness[::-1]]) * inside
    fraction = Volume(inside, small_brain.geometry)
    tissue = Volume(tissue.astype(np.float32), small_brain.geometry)
    center = np.array(BRAIN_CENTER)
    start = to_parameters(0.9 * np.eye(3), center + np.array([6.0, -8.0, 7.0]))
    models = [load_brain_model(12.0, 12.0), load_brain_model(8.0, 14.0)]
    match = register(start, Moving(fraction, tissue, 3.0), models)
    np.testing.assert_allclose(to_linear(match.parameters), np.eye(3), atol=0.02)
    np.testing.assert_allclose(match.shift, center, atol=1.0)


@pytest.mark.parametrize("bend", [12.0, 20.0])
def test_template_gets_the_volume_of_a_brain_of_another_shape(small_brain, bend):
    affine = small_brain.geometry.affine.copy()
    spacing, margin = affine[1, 1], 10
    data = np.pad(small_brain.data, margin).astype(np.float32)
    affine[:3, 3] -= margin * affine[:3, :3].sum(axis=1)
    # No affine map of the template fits it.
    i, j, k = np.indices(data.shape).astype(float)
    waves = bend / spacing * np.sin(np.pi * j * spacing / 30.0)
    data = ndimage.map_coordinates(data, [i, j, k + waves], order=1)
    geometry = Geometry(data.shape, affine)
    inside = (data > 0.1 * data.max()).astype(np.float32)
    moving = Moving(Volume(inside, geometry), Volume(data, geometry), 3.0)
    start = to_parameters(np.eye(3), np.array(BRAIN_CENTER))
    models = [load_brain_model(12.0, 12.0), load_brain_model(8.0, 14.0)]
    match = register(start, moving, models)
    volume = np.linalg.det(to_linear(match.parameters))
    template = load_template("brain_mask")
    expected = inside.sum() * spacing**3 / np.count_nonzero(template.data)
    assert volume == pytest.approx(expected, rel=0.01)
