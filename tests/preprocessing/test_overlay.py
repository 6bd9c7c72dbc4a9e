from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from brainfeat.preprocessing import preprocessor as preprocessor_module
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.volume import Geometry, Volume

TOOL = Preprocessor(shape=(40, 52, 40), spacing=4.0)
MODALITIES = ("T1w", "T2w", "FLAIR")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def in_place(monkeypatch):
    """The template brain needs no alignment."""
    known = Alignment(np.eye(4), np.eye(4), similarity=1.0)
    monkeypatch.setattr(preprocessor_module, "align_to_template", lambda *_: known)


@pytest.fixture
def brain(small_brain, rng):
    """The template at 3 mm with five lesions on the right, as in no mirrored brain."""
    data = small_brain.data.astype(np.float32)
    inside = data > 0.5 * data.max()
    for center in rng.permutation(np.argwhere(inside[36:])[::97])[:5]:
        i, j, k = np.add(center, (36, 0, 0))
        data[i - 2 : i + 3, j - 3 : j + 4, k - 2 : k + 3] *= 0.4
    return Volume(data, small_brain.geometry)


def to_t2w(brain, rng, thickness=1):
    """Invert the contrast, add noise, and average slices."""
    head = brain.data > 0
    data = np.where(head, 1.3 * brain.data.max() - brain.data, 0).astype(np.float32)
    data += rng.normal(0, 0.03 * data.max(), data.shape).astype(np.float32)
    n_slices = data.shape[2] // thickness * thickness
    data = data[..., :n_slices].reshape(*data.shape[:2], -1, thickness).mean(axis=3)
    affine = brain.geometry.affine @ np.diag([1.0, 1.0, thickness, 1.0])
    affine[2, 3] += brain.geometry.affine[2, 2] * (thickness - 1) / 2
    return Volume(data, Geometry(data.shape, affine))


def moved(volume, shift=(0, 0, 0), degrees=0.0):
    """Move a volume in scanner space."""
    move = np.eye(4)
    move[:3, :3] = Rotation.from_rotvec([degrees, 0, 0], degrees=True).as_matrix()
    move[:3, 3] = shift
    return Volume(
        volume.data, Geometry(volume.data.shape, move @ volume.geometry.affine)
    )


def flipped(volume, axis):
    return Volume(np.flip(volume.data, axis), volume.geometry)


def doubt(first, second, tool=TOOL):
    subject = tool.apply({"T1w": first, "T2w": second}, MODALITIES)
    return subject.quality.doubt


@pytest.mark.parametrize("thickness", [1, 2])
def test_another_contrast_in_place_is_not_in_doubt(brain, rng, thickness):
    second = to_t2w(brain, rng, thickness)
    assert doubt(brain, second) == ""
    assert doubt(second, brain) == ""


def test_a_slab_in_place_is_not_in_doubt(brain, rng):
    second = to_t2w(brain, rng)
    affine = second.geometry.affine.copy()
    affine[:3, 3] += 20 * affine[:3, 2]
    slab = second.data[..., 20:34]
    assert doubt(brain, Volume(slab, Geometry(slab.shape, affine))) == ""


@pytest.mark.parametrize(
    "shift", [(20, 30, 40), *map(slow, [(35, 0, 0), (0, -60, 0), (0, 0, 100)])]
)
def test_a_shift_is_in_doubt_with_its_distance(brain, rng, shift):
    text = doubt(brain, moved(to_t2w(brain, rng), shift))
    assert text.startswith("T2w lies ")
    assert text.endswith(" from T1w (coregister aligns it)")
    assert float(text.split()[2]) == pytest.approx(np.linalg.norm(shift), abs=3)


def test_a_rotation_is_in_doubt(brain, rng):
    text = doubt(brain, moved(to_t2w(brain, rng), degrees=25.0))
    assert float(text.partition(" degrees")[0].split()[-1]) == pytest.approx(25, abs=2)


@pytest.mark.parametrize(
    ("axis", "name"),
    [(0, "left to right"), slow(1, "front to back"), slow(2, "upside down")],
)
def test_a_flip_is_in_doubt(brain, rng, axis, name):
    assert doubt(brain, flipped(to_t2w(brain, rng), axis)) == (
        f"T2w seems to be flipped {name} against T1w"
    )


@pytest.mark.parametrize("shift", [(9, -50, 30), slow((0, 0, 0)), slow((0, 0, 120))])
def test_coregistration_puts_volumes_on_the_first(brain, rng, shift):
    second = to_t2w(brain, rng)
    away = moved(second, shift, degrees=12.0 if any(shift) else 0.0)
    tool = replace(TOOL, coregister=True)
    expected = TOOL.apply({"T1w": brain, "T2w": second}, MODALITIES)
    subject = tool.apply({"T1w": brain, "T2w": away}, MODALITIES)
    assert subject.quality.doubt == ""
    np.testing.assert_array_equal(subject.data[0], expected.data[0])
    inside = subject.foreground
    pair = subject.data[1][inside], expected.data[1][inside]
    assert np.corrcoef(*pair)[0, 1] > 0.97
    corners = np.array([[0, 50, -40], [-18, 30, -70], [10, 40, -10], [1, 1, 1]])
    found = subject.modality_to_scanner("T2w") @ corners
    true = away.geometry.affine @ np.linalg.inv(second.geometry.affine) @ corners
    assert np.linalg.norm((found - true)[:3], axis=0).max() < 2.0


def test_coregistration_does_not_hide_a_flip(brain, rng):
    second = flipped(to_t2w(brain, rng), 2)
    text = doubt(brain, second, replace(TOOL, coregister=True))
    assert text == "T2w seems to be flipped upside down against T1w"


def test_coregistration_is_part_of_the_fingerprint_only_if_used():
    tool = replace(TOOL, coregister=True)
    assert "coregister" not in TOOL.to_dict()
    assert tool.fingerprint != TOOL.fingerprint
    assert Preprocessor.from_dict(tool.to_dict()) == tool


@pytest.mark.parametrize("shape", [(60, 50, 1), (9, 10, 11)])
@pytest.mark.parametrize("coregister", [False, True])
def test_volumes_that_show_too_little_are_no_error(rng, shape, coregister):
    affine = np.eye(4)
    affine[:3, 3] = TOOL.geometry.affine[:3] @ (20, 20, 20, 1)
    volumes = {
        name: Volume(rng.normal(size=shape), Geometry(shape, affine))
        for name in MODALITIES
    }
    tool = replace(TOOL, coregister=coregister)
    assert tool.apply(volumes, MODALITIES).quality.doubt == ""
