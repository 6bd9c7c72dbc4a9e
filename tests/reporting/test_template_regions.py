import numpy as np
import pytest

from brainfeat.checkpoint.encoder_grid import SlabTokens
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.reporting.template_regions import template_regions
from brainfeat.slabs.grid import SlabGrid

pytestmark = pytest.mark.slow  # the template's tissue maps are resampled


@pytest.fixture(scope="module")
def atlas():
    return template_regions()


def test_regions_have_their_names(atlas):
    labels = np.asarray(atlas["maps"].dataobj)
    assert atlas["lut"]["index"].tolist() == list(np.unique(labels)[1:])
    assert len(set(atlas["lut"]["name"])) == 18


@pytest.mark.parametrize(
    ("position", "name"),
    [
        ((-26, -16, -18), "medial_temporal_l"),
        ((26, -16, -18), "medial_temporal_r"),
        ((-14, 4, 20), "ventricle_l"),
        ((30, 50, 30), "anterior_superior_r"),
        ((-30, -70, -40), "posterior_inferior_l"),
    ],
)
def test_regions_lie_at_their_named_position(atlas, position, name):
    labels, affine = np.asarray(atlas["maps"].dataobj), atlas["maps"].affine
    index = dict(zip(atlas["lut"]["name"], atlas["lut"]["index"], strict=True))[name]
    positions = np.argwhere(labels == index) @ affine[:3, :3].T + affine[:3, 3]
    assert np.linalg.norm(positions - position, axis=1).min() < 5


def test_both_sides_have_similar_sizes(atlas):
    counts = np.bincount(np.asarray(atlas["maps"].dataobj).ravel())[1:]
    left, right = counts[::2], counts[1::2]
    np.testing.assert_allclose(left, right, rtol=0.1)


def test_regions_pool_on_the_default_grid(atlas):
    regions = RegionAtlas.load(atlas)
    weights = regions.weights(
        Preprocessor().geometry, SlabTokens(SlabGrid(thickness=4), 8)
    )
    assert weights.shape == (18, 20, 13, 10)
