import numpy as np

from brainfeat.preprocessing.brain_depth import load_depth
from brainfeat.preprocessing.template import load_template


def test_depth_is_positive_inside_the_template_brain_only():
    depth, mask = load_depth(), load_template("brain_mask")
    deep = depth.data > 2.0
    i, j, k = np.argwhere(deep).T * 2  # blocks of two voxels
    # The template has a few zeros in its ventricles.
    assert mask.data[i, j, k].mean() > 0.999
    outside = np.argwhere(depth.data < -4.0).T * 2
    assert not mask.data[tuple(outside)].any()


def test_depth_grows_by_a_millimetre_a_millimetre():
    depth = load_depth()
    slopes = np.gradient(depth.data, 2.0)
    steepness = np.sqrt(sum(slope**2 for slope in slopes))
    far = np.abs(depth.data) > 6.0
    # One everywhere but on the ridges that are equally far from two sides.
    assert np.median(steepness[far]) > 0.97
    assert steepness[far].max() < 1.2
