import numpy as np
import pytest

from brainfeat.evaluation.ridge import standard_deviation


@pytest.mark.parametrize("axis", [0, 1])
def test_scale_is_the_standard_deviation(rng, axis):
    rows = 50.0 + 1e-6 * rng.normal(size=(7, 9, 4))
    expected = rows.std(axis=axis, keepdims=True)
    np.testing.assert_array_equal(standard_deviation(rows, axis), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6 / 3.0])
def test_scale_of_a_constant_is_one(value):
    rows = np.full((7, 3), value)
    np.testing.assert_array_equal(standard_deviation(rows), np.ones((1, 3)))
