from types import SimpleNamespace

import numpy as np
import pytest

from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.preview import (
    PREVIEW_GRID,
    draw_picture,
    read_picture,
    template_strip,
)
from brainfeat.preprocessing.template import load_template
from brainfeat.volume import Geometry


def make(geometry, n_modalities=2, shift=0):
    """The template's brain on a grid, brighter in each further modality."""
    template = load_template("T1w")
    i, j, k = np.indices(geometry.shape).reshape(3, -1)
    points = geometry.affine @ np.stack([i, j, k, np.ones_like(i)])
    to_voxel = np.linalg.inv(template.geometry.affine)
    voxels = np.rint((to_voxel @ points)[:3]).astype(int)
    inside = ((voxels.T >= 0) & (template.data.shape > voxels.T)).all(axis=1)
    values = np.zeros(i.size, np.float32)
    values[inside] = template.data[tuple(voxels[:, inside])]
    data = np.roll(values.reshape(geometry.shape), shift, axis=1)
    return SimpleNamespace(
        data=np.stack([data * (n + 1) for n in range(n_modalities)]),
        present=np.ones(n_modalities, bool),
        foreground=data > 0,
        geometry=geometry,
    )


def test_grid_is_that_of_the_default_preprocessing():
    assert Preprocessor().geometry.is_close(PREVIEW_GRID)


def test_picture_has_a_strip_of_each_present_modality():
    subject = make(PREVIEW_GRID, 3)
    subject.present[1] = False
    picture = draw_picture(subject, ("T1w", "T2w", "FLAIR"))
    assert picture.modalities == ("T1w", "FLAIR")
    assert (picture.width, picture.height) == (264, 208)
    assert picture.overlap > 0.97
    assert read_picture(picture.png) == picture
    assert len(picture.png) < 30_000


@pytest.mark.parametrize("spacing", [1.5, 4.0])
def test_another_grid_shows_the_same_planes(spacing):
    size = [int(2 * n / spacing) for n in PREVIEW_GRID.shape]
    affine = PREVIEW_GRID.affine @ np.diag([spacing / 2] * 3 + [1.0])
    other = draw_picture(make(Geometry(tuple(size), affine), 1), ["T1w"])
    assert other.overlap > 0.9
    shifted = draw_picture(make(PREVIEW_GRID, 1, shift=20), ["T1w"])
    assert shifted.overlap < 0.85


def test_planes_have_left_on_the_left_and_superior_up():
    strip = template_strip("brain_mask") >= 0.5
    assert strip.shape == (104, 264)
    coronal, axial, sagittal = np.split(strip, [80, 160], axis=1)
    for plane in (coronal, axial, sagittal):
        assert plane.any()
    # The cerebellum is low and behind; frontal lobes end higher up.
    rows = np.flatnonzero(sagittal.any(axis=1))
    lowest = np.flatnonzero(sagittal[rows[-1]]).mean()
    assert lowest < 60


@pytest.mark.parametrize("content", [b"", b"text", "cut", "flipped", "plain"])
def test_damaged_files_are_refused(content):
    png = draw_picture(make(PREVIEW_GRID, 1), ["T1w"]).png
    if content == "cut":
        content = png[:-40]
    elif content == "flipped":
        content = png[:100] + bytes([png[100] ^ 1]) + png[101:]
    elif content == "plain":
        from brainfeat.display.png_file import write_png

        content = write_png((2, 1, 8, 0), np.zeros((1, 2), np.uint8), {})
    with pytest.raises(ValueError, match=r"PNG|preview"):
        read_picture(content)


def test_scan_without_foreground_is_drawn():
    subject = make(PREVIEW_GRID, 1)
    subject.foreground[:] = False
    assert draw_picture(subject, ["T1w"]).overlap == 0.0
