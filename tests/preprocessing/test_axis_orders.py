import numpy as np
import pytest

from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.axis_orders import _name, _orders, rank_axis_orders
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
