import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from brainfeat.reporting.figures import encode_png, scatter_svg


def test_a_picture_survives(rng):
    pixels = rng.integers(0, 256, (13, 17), dtype=np.uint8)
    text = encode_png(pixels)
    content = base64.b64decode(text.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def test_each_point_is_a_named_mark_inside_the_frame(rng):
    points = rng.normal(size=(9, 2)) * [1, 1000]
    labels = ["b", "a", "b"] * 3
    names = [f"<{index}>" for index in range(9)]
    root = ElementTree.fromstring(scatter_svg(points, labels, names, ("x & y", "z")))
    titles = [title.text for title in root.iter("title")]
    assert titles == names
    circles = list(root.iter("circle"))
    assert len(circles) == 3
    assert len({circle.get("fill") for circle in circles}) == 1
    assert all(
        0 < float(c.get("cx")) < 480 and 0 < float(c.get("cy")) < 360 for c in circles
    )
    assert [text.text for text in root.iter("text")] == ["x & y", "z"]


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.ones((1, 2))])
def test_equal_points_do_not_divide_by_zero(points):
    svg = scatter_svg(points, ["a"] * len(points), ["n"] * len(points), ("x", "y"))
    assert "nan" not in svg
