import numpy as np
import pytest

from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.axis_orders import (
    _name,
    _orders,
    guess_axis_orders,
    rank_axis_orders,
)
from brainfeat.preprocessing.resampling import reorient_to_ras
from brainfeat.volume import Geometry, Volume


def test_orders_are_the_24_rotations_of_a_cube():
    orders = _orders()
    assert len({_name(order) for order in orders}) == 24
    for order in orders:
        np.testing.assert_array_equal(order @ order.T, np.eye(3))
        assert np.linalg.det(order) == pytest.approx(1.0)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "RPI", "RSP", "ARI"])
def test_true_order_of_a_stripped_brain_ranks_first(small_brain, axes):
    order = next(order for order in _orders() if _name(order) == axes)
    affine = np.eye(4)
    affine[:3, :3] = order
    affine = affine @ small_brain.geometry.affine
    turned = Volume(small_brain.data, Geometry(small_brain.data.shape, affine))
    ranked = rank_axis_orders(align_to_template(turned).brain)
    assert ranked[0].axes == axes
    assert ranked[0].similarity > ranked[1].similarity + 0.05


@pytest.mark.parametrize("order", _orders(), ids=_name)
def test_order_is_guessed_from_the_outer_form(order):
    # A ball with a neck below, a nose and a heavier back: left and right are equal.
    x, y, z = np.ogrid[-90:91:5.0, -110:111:5.0, -120:121:5.0]
    data = np.where(x**2 / 75**2 + y**2 / 95**2 + z**2 / 85**2 < 1.0, 100.0, 0.0)
    data[(x**2 + (y + 20) ** 2 < 55**2) & (z < 0)] = 80.0
    data += np.where((np.abs(x) < 15) & (y > 80) & (np.abs(z) < 20), 60.0, 0.0)
    affine = np.eye(4)
    affine[:3, :3] = 5.0 * order
    geometry = Geometry(data.shape, affine)
    head = reorient_to_ras(Volume(data.astype(np.float32), geometry))
    assert _name(order) in guess_axis_orders(head)[:2]
