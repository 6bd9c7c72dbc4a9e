import numpy as np
import pytest
from scipy import ndimage

from brainfeat.preprocessing.smoothing import smooth_axis


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shape", [(31, 47, 53), (2, 300, 211), (3, 1, 2)])
def test_smoothing_equals_scipys(rng, shape, axis):
    data = rng.random(shape).astype(np.float32)
    expected = ndimage.gaussian_filter1d(data, 1.4, axis, mode="nearest", truncate=3.0)
    smooth = smooth_axis(data, 1.4, axis, 3.0)
    np.testing.assert_allclose(smooth, expected, atol=1e-6)
    assert np.abs(smooth - data).max() > 0.1 or data.shape[axis] == 1
