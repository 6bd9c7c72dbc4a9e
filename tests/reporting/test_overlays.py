import base64
import struct

import numpy as np
import pytest

from brainfeat.display.png import encode_palette_png
from brainfeat.exceptions import InputError
from brainfeat.io.volumes import write_volume
from brainfeat.reporting.overlays import class_colors, draw_overlay
from brainfeat.volume import Geometry, Volume


def test_palette_picture_has_its_colours():
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    address = encode_palette_png(indices, [(0, 0, 0, 0), (9, 8, 7, 6), (5, 4, 3, 2)])
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert struct.unpack(">II", content[16:24]) == (3, 2)
    assert bytes([9, 8, 7]) in content[content.index(b"PLTE") :]
    assert content[content.index(b"tRNS") + 4 :][:3] == bytes([0, 6, 2])


def test_neighbours_in_number_differ_in_colour():
    colors = np.array(class_colors(40), float)
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 60


def test_planes_are_where_the_structures_are(tmp_path):
    """A scan of thick slices, stored in another order of axes."""
    affine = np.diag([-2.0, 1.0, 5.0, 1.0])
    geometry = Geometry((30, 70, 9), affine)
    scan = np.random.default_rng(0).random(geometry.shape).astype(np.float32)
    labels = np.zeros(geometry.shape, np.int16)
    labels[4:9, 50:60, 7] = 3
    image = write_volume(Volume(scan, geometry), tmp_path / "scan.nii.gz")
    path = write_volume(Volume(labels, geometry), tmp_path / "labels.nii.gz")
    drawn = draw_overlay(image, path, [3])
    sizes = [round(mm / 1.25) for mm in (60, 70, 45)]
    assert drawn.width == 2 * sizes[0] + sizes[1] + 8
    assert drawn.height == sizes[1]
    assert drawn.labels != draw_overlay(image, path, [4]).labels
    other = write_volume(
        Volume(labels[:-1], Geometry((29, 70, 9), affine)), tmp_path / "other.nii.gz"
    )
    with pytest.raises(InputError, match="expected the grid of"):
        draw_overlay(image, other, [3])
