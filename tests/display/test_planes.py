"""The three planes of a volume that a notebook shows."""

import base64
import re
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest

from brainfeat import Geometry, Volume
from brainfeat.display.planes import planes_html


def read_greys(html):
    """Return the pixels of a picture of 16 greys."""
    content = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    width, height, depth, kind = struct.unpack(">IIBB", content[16:26])
    assert (depth, kind) == (4, 0)
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    lines = np.frombuffer(zlib.decompress(content[start : start + length]), np.uint8)
    packed = lines.reshape(height, -1)[:, 1:]
    return np.stack([packed >> 4, packed & 15], axis=2).reshape(height, -1)[:, :width]


def corner(codes="RAS"):
    """Return a volume whose right, anterior, superior eighth is bright."""
    data = np.ones((40, 60, 50), np.float32)
    data[20:, 30:, 25:] = 9.0
    image = nib.Nifti1Image(data, np.diag([2.0, 1.0, 1.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    voxels = np.asarray(turned.dataobj)
    return Volume(voxels, Geometry(voxels.shape, turned.affine))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_planes_have_left_left_and_superior_up_in_any_orientation(codes):
    greys = read_greys(corner(codes)._repr_html_())
    # Coronal, axial and sagittal; 80 x 60 x 50 mm.
    coronal, axial, sagittal = np.split(greys, [164, 328], axis=1)
    assert sagittal.shape[1] == 120
    for plane in (coronal[30:130, :160], axial[20:140, :160]):
        height, width = plane.shape
        assert plane[height // 4, 3 * width // 4] == 15  # up, right
        others = [plane[height // 4, width // 4], plane[3 * height // 4, width // 4]]
        assert max(others) < 4
    assert sagittal[35, 90] == 15  # superior, anterior
    assert max(sagittal[35, 30], sagittal[85, 90]) < 4


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((3, 4, 5), bool),
        np.full((3, 4, 5), np.nan),
        np.ones((1, 1, 1), np.int16),
        np.full((2, 3, 4), -np.inf),
    ],
)
def test_flat_or_empty_volume_has_a_picture(data):
    assert (
        "data:image/png" in Volume(data, Geometry(data.shape, np.eye(4)))._repr_html_()
    )


def test_signed_values_are_blue_below_zero_and_red_above():
    data = np.zeros((2, 2, 2))
    data[1, 1, 1], data[0, 1, 1] = 2.0, -2.0
    html = planes_html(data, (1.0, 1.0, 1.0), is_signed=True)
    content = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    start = content.index(b"PLTE") + 4
    palette = np.frombuffer(content[start : start + 765], np.uint8).reshape(255, 3)
    assert palette[0].argmax() == 2
    assert palette[254].argmax() == 0
    assert len(set(palette[127])) == 1
