from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from brainfeat.preprocessing.head_model import load_brain_model, load_depth
from brainfeat.preprocessing.template import BRAIN_CENTER, load_template


@cache
def depth_map():
    inside = ndimage.binary_fill_holes(load_template("brain_mask").data[::2, ::2, ::2])
    distance = ndimage.distance_transform_edt
    return 2.0 * (distance(inside) - distance(~inside))


def depths(points):
    """Distance of points from the edge of the template brain, outside negative."""
    depth, affine = depth_map(), load_template("brain_mask").geometry.affine
    voxels = (points + np.array(BRAIN_CENTER) - affine[:3, 3]) / np.diag(affine)[:3]
    return depth[tuple(np.rint(voxels / 2).astype(int).T)]


def test_tissues_are_orthonormal_and_span_a_constant():
    tissues = load_brain_model(8.0, 8.0).tissues
    np.testing.assert_allclose(tissues.T @ tissues, np.eye(4), atol=1e-12)
    ones = np.ones(len(tissues))
    np.testing.assert_allclose(tissues @ (tissues.T @ ones), ones)


def test_fraction_inside_has_the_volume_of_the_template_brain():
    model = load_brain_model(8.0, 14.0)
    litres = load_template("brain_mask").data.sum() / 1e6
    assert model.inside.sum() * 8.0**3 / 1e6 == pytest.approx(litres, rel=0.01)


@pytest.mark.parametrize("reach", [8.0, 14.0])
def test_points_end_at_the_reach(reach):
    depth = depths(load_brain_model(8.0, reach).points)
    # Blocks are chosen by their mean depth; their centres may lie deeper.
    assert -reach - 4.0 < depth.min() < -reach + 2.0
    assert depth.max() > 30.0


def test_depth_is_positive_inside_the_template_brain_only():
    depth, mask = load_depth(), load_template("brain_mask")
    deep = depth.data > 2.0
    i, j, k = np.argwhere(deep).T * 2  # blocks of two voxels
    # The template has a few zeros in its ventricles.
    assert mask.data[i, j, k].mean() > 0.999
    outside = np.argwhere(depth.data < -4.0).T * 2
    assert not mask.data[tuple(outside)].any()


def test_depth_grows_by_one_millimetre_per_millimetre():
    depth = load_depth()
    slopes = np.gradient(depth.data, 2.0)
    steepness = np.sqrt(sum(slope**2 for slope in slopes))
    far = np.abs(depth.data) > 6.0
    # One everywhere but on the ridges that are equally far from two sides.
    assert np.median(steepness[far]) > 0.97
    assert steepness[far].max() < 1.2
