import math

import numpy as np
import pytest

from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.quality import assess_quality, measure_ml
from brainfeat.volume import Geometry, Volume


def aligned(similarity):
    return Alignment(np.eye(4), np.eye(4), similarity)


def test_volume_is_measured_in_the_subjects_own_space(rng):
    mask = rng.random((5, 7, 11)) < 0.4
    grid = Geometry(mask.shape, np.diag([2.0, 3.0, 4.0, 1.0]))
    # A turned, sheared and mirrored map keeps the sum of its voxels' volumes.
    linear = rng.normal(size=(3, 3))
    to_scanner = np.eye(4)
    to_scanner[:3, :3], to_scanner[:3, 3] = linear, (50.0, -20.0, 7.0)
    expected = mask.sum() * 0.024 * abs(np.linalg.det(linear))
    assert measure_ml(mask, grid, to_scanner) == pytest.approx(expected)


def test_a_good_fit_is_not_in_doubt():
    assert assess_quality(aligned(0.9), 1400.0) == (0.9, 1400.0, "")


def test_reasons_of_doubt_are_in_words():
    assert "only centred" in assess_quality(aligned(math.nan), 1400.0).doubt


@pytest.mark.parametrize("scale", [0.8, 0.95])
def test_volume_does_not_depend_on_the_alignment(small_brain, scale):
    # A brain that the template does not fit: only "affine" takes it to its size.
    affine = np.diag([scale, scale, scale, 1.0]) @ small_brain.geometry.affine
    brain = Volume(small_brain.data, Geometry(small_brain.data.shape, affine))
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    expected = voxel_ml * np.count_nonzero(brain.data)
    for alignment in ("none", "rigid", "affine"):
        tool = Preprocessor(shape=(60, 72, 60), spacing=3.6, alignment=alignment)
        quality = tool.apply({"T1w": brain}, ["T1w"]).quality
        assert quality.brain_ml == pytest.approx(expected, rel=0.06)
