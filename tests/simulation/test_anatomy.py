import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from brainfeat.exceptions import InputError
from brainfeat.preprocessing.template import load_template
from brainfeat.simulation.anatomy import (
    BRAIN_CLASSES,
    CLASSES,
    BaseAnatomy,
    _match_boxes,
)
from brainfeat.volume import Geometry, Volume


def millilitres(base, name):
    return float(base.named(name).sum()) * np.prod(base.lattice.spacing) / 1000


def test_fractions_are_between_zero_and_one(base):
    assert base.maps.shape[0] == len(CLASSES)
    assert base.maps.min() >= 0
    assert base.maps.sum(0).max() <= 1.0001


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("ventricle", 12, 35),
        ("medial_temporal", 7, 18),
        ("deep_gray", 25, 70),
        ("white_matter", 450, 800),
    ],
)
def test_structures_have_volumes_of_a_human_brain(base, name, low, high):
    assert low < millilitres(base, name) < high


def test_left_and_right_have_similar_volumes(base):
    left = base.lattice.points()[..., 0] < 0
    for name in ("ventricle", "medial_temporal", "deep_gray"):
        fraction = base.named(name)
        assert 0.85 < float(fraction[left].sum() / fraction[~left].sum()) < 1.18


def test_label_is_the_largest_fraction(base):
    voxel = (base.named("medial_temporal") > 0.7).nonzero()[0]
    expected = BRAIN_CLASSES.index("medial_temporal") + 1
    assert base.labels[tuple(voxel)] == expected
    assert (base.labels[base.brain == 0] == 0).all()


def test_saving_and_loading_keeps_a_base(base, tmp_path):
    again = BaseAnatomy.load(base.save(tmp_path / "base.safetensors"))
    torch.testing.assert_close(again.maps, base.maps, atol=0.003, rtol=0)
    torch.testing.assert_close(again.detail, base.detail, atol=1e-3, rtol=0)
    np.testing.assert_array_equal(again.lattice.affine, base.lattice.affine)


def test_other_tensors_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"maps": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"other\.safetensors: expected a base"):
        BaseAnatomy.load(path)


@pytest.fixture(scope="module")
def from_stripped():
    t1 = load_template("T1w")
    return BaseAnatomy.from_t1(t1, load_template("brain_mask"), spacing=4.0)


def test_a_head_is_built_around_a_stripped_brain(from_stripped):
    assert millilitres(from_stripped, "fat") > 200
    assert millilitres(from_stripped, "bone") > 200


def test_boxes_are_matched_without_registration(from_stripped, base):
    shared = (from_stripped.brain > 0.5) & (base.brain > 0.5)
    either = (from_stripped.brain > 0.5) | (base.brain > 0.5)
    assert shared.sum() > 0.9 * either.sum()


def test_an_existing_head_is_kept():
    mask = np.zeros((40, 48, 44), dtype=np.uint8)
    mask[12:28, 14:34, 16:34] = 1
    rng = np.random.default_rng(0)
    t1 = rng.choice([20.0, 60.0, 100.0], mask.shape) * mask
    t1[4:36, 6:42, 8:40] += 45 * (mask == 0)[4:36, 6:42, 8:40]
    geometry = Geometry(mask.shape, np.diag([4.0, 4.0, 4.0, 1.0]))
    base = BaseAnatomy.from_t1(
        Volume(t1, geometry), Volume(mask, geometry), spacing=8.0
    )
    assert millilitres(base, "soft_tissue") > 100
    assert millilitres(base, "bone") == 0


def test_empty_mask_is_refused():
    geometry = Geometry((4, 5, 6), np.eye(4))
    volume = Volume(np.ones((4, 5, 6)), geometry)
    empty = Volume(np.zeros((4, 5, 6)), geometry)
    with pytest.raises(InputError, match="expected a brain mask"):
        BaseAnatomy.from_t1(volume, empty)


def test_box_of_the_template_matches_itself():
    matrix = _match_boxes(load_template("brain_mask"))
    np.testing.assert_allclose(matrix, np.eye(4), atol=3.5)
