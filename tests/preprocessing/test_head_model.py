from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from brainfeat.preprocessing.head_model import MODELLED, load_depth, load_head_model
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


@pytest.mark.parametrize("modality", MODELLED)
def test_brightness_has_mean_zero_and_norm_one(modality):
    brightness = load_head_model(modality, 8.0, 8.0).brightness
    assert brightness.mean() == pytest.approx(0.0, abs=1e-12)
    assert np.linalg.norm(brightness) == pytest.approx(1.0)


@pytest.mark.parametrize("reach", [8.0, 14.0])
def test_points_end_at_the_reach(reach):
    depth = depths(load_head_model("T1w", 8.0, reach).points)
    # Blocks are chosen by their mean depth; their centres may lie deeper.
    assert -reach - 4.0 < depth.min() < -reach + 2.0
    assert depth.max() > 30.0


def test_neck_and_face_have_no_points():
    points = load_head_model("T1w", 8.0, 14.0).points
    outside = points[depths(points) < -6.0] + np.array(BRAIN_CENTER)
    assert outside[:, 2].min() >= -40.0
    assert not ((outside[:, 1] > 20.0) & (outside[:, 2] < 0.0)).any()


def test_contrasts_order_tissues_as_scanners_do():
    t1w, t2w, flair = (load_head_model(name, 8.0, 14.0) for name in MODELLED)
    depth = depths(t1w.points)
    deep, skull = depth > 20.0, (depth < -4.0) & (depth > -7.0)
    for model in (t1w, t2w, flair):
        assert model.brightness[deep].mean() > model.brightness[skull].mean()
    assert np.corrcoef(t1w.brightness[deep], t2w.brightness[deep])[0, 1] < -0.9


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
