import numpy as np
import pytest
from scipy import ndimage

from brainfeat.segmentation.sampling import choose_classes


@pytest.mark.parametrize("classes_last", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 1.3])
def test_interpolation_is_that_of_each_class_alone(sigma, classes_last):
    rng = np.random.default_rng(0)
    values = rng.random((4, 7, 9, 8)).astype(np.float16)
    if classes_last:
        values = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 0, -1)), -1, 0)
    points = rng.uniform(-0.4, 6.4, (5000, 3))
    smooth = values.astype(np.float64)
    if sigma:
        axes = (0, sigma, sigma, sigma)
        smooth = ndimage.gaussian_filter(smooth, axes, mode="nearest", truncate=3.0)
    expected = np.stack(
        [ndimage.map_coordinates(v, points.T, order=1, mode="nearest") for v in smooth]
    )
    indices, probabilities = choose_classes(values, points, sigma)
    np.testing.assert_allclose(probabilities, expected.max(axis=0), atol=1e-4)
    ordered = np.sort(expected, axis=0)
    is_clear = ordered[-1] - ordered[-2] > 1e-3
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(indices[is_clear], expected.argmax(axis=0)[is_clear])


def test_first_class_wins_ties():
    values = np.full((3, 2, 2, 2), 0.25, np.float16)
    indices, probabilities = choose_classes(values, np.array([[0.5, 0.5, 0.5]]))
    assert (indices.tolist(), probabilities.tolist()) == ([0], [0.25])
