import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from brainfeat.reporting.attribution_maps import NativeMaps
from brainfeat.volume import Volume


@pytest.fixture
def volumes(tokens, rng):
    """A random map of three subjects, on the grid of their tokens."""
    return [
        Volume(rng.random(one.geometry.shape, np.float32), one.geometry)
        for one in tokens[:3]
    ]


def test_maps_equal_the_inverted_grid(tokens, volumes, small_encoder):
    preprocessor = small_encoder.preprocessor
    maps = NativeMaps(volumes, tokens[:3], preprocessor)
    assert len(maps) == len(list(maps)) == 3
    for image, volume, subject in zip(maps, volumes, tokens, strict=False):
        on_grid = replace(subject.processed, geometry=volume.geometry)
        expected = preprocessor.invert(volume.data, on_grid, subject.native)
        np.testing.assert_array_equal(image.get_fdata(), expected.data)
        np.testing.assert_allclose(image.affine, subject.native.affine, atol=1e-4)
    some = maps[:0:-1]
    assert [image.shape for image in some] == [maps[2].shape, maps[1].shape]
    np.testing.assert_array_equal(some[0].get_fdata(), maps[-1].get_fdata())
    with pytest.raises(IndexError):
        maps[3]


def test_preprocessed_volumes_are_not_kept(tokens, volumes, small_encoder):
    processed = replace(tokens[0].processed, data=tokens[0].processed.data.copy())
    subject = replace(tokens[0], processed=processed)
    data = weakref.ref(processed.data)
    maps = NativeMaps(volumes[:1], [subject], small_encoder.preprocessor)
    del subject, processed
    gc.collect()
    assert data() is None
    assert maps[0].get_fdata().any()
