import numpy as np
import pytest
from scipy import ndimage

from brainfeat.preprocessing.morphology import bounds, dilate, largest_part


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("diagonally", [False, True])
def test_dilates_as_scipy_does(rng, order, diagonally):
    mask = np.asarray(rng.random((7, 9, 8)) > 0.95, order=order)
    structure = ndimage.generate_binary_structure(3, 3 if diagonally else 1)
    expected = ndimage.binary_dilation(mask, structure)
    assert mask.sum() < expected.sum() < mask.size
    np.testing.assert_array_equal(dilate(mask, diagonally=diagonally), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_bounds_hold_the_mask_and_a_margin_within_the_array(order):
    mask = np.zeros((7, 9, 8), bool, order=order)
    mask[2, 3:6, 0] = mask[4, 5, 6] = True
    assert bounds(mask) == ([2, 3, 0], [5, 6, 7])
    assert bounds(mask, 2) == ([0, 1, 0], [7, 8, 8])
    assert bounds(np.zeros_like(mask), 2) == ([0, 0, 0], [0, 0, 0])


def test_largest_part_shares_faces():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 1:4, 2] = mask[2, 4, 2] = mask[4, 5, 5:7] = True
    expected = np.zeros_like(mask)
    expected[1, 1:4, 2] = True
    np.testing.assert_array_equal(largest_part(mask), expected)
