from xml.etree import ElementTree as ET

import numpy as np
import pytest

from brainfeat.reporting.figures import legend_html, scatter_svg


def test_points_are_named_marks_inside_the_frame(rng):
    points = rng.normal(size=(9, 2)) * [1, 1000]
    labels = ["b", "a", "b"] * 3
    names = [f"<{index}>" for index in range(9)]
    root = ET.fromstring(scatter_svg(points, labels, names, ("x & y", "z")))
    titles = [title.text for title in root.iter("title")]
    assert titles == names
    circles = list(root.iter("circle"))
    assert len(circles) == 3
    assert len({circle.get("fill") for circle in circles}) == 1
    assert all(
        0 < float(c.get("cx")) < 480 and 0 < float(c.get("cy")) < 360 for c in circles
    )
    assert [text.text for text in root.iter("text")] == ["x & y", "z"]


def test_legend_has_the_marks_of_the_plot(rng):
    labels = ["b", "a", "b", "<c>"]
    plot = scatter_svg(rng.normal(size=(4, 2)), labels, labels, ("x", "y"))
    legend = ET.fromstring(f"<p>{legend_html(labels)}</p>")
    keys = {
        key.find("svg")[0].get("fill"): "".join(key.itertext())
        for key in legend.iter("span")
    }
    assert [text[len(text) // 2 :] for text in keys.values()] == ["<c>", "a", "b"]
    for mark in ET.fromstring(plot):
        if mark.find("title") is not None:
            assert keys[mark.get("fill")].endswith(mark.find("title").text)


@pytest.mark.parametrize(
    "ordered",
    [
        ["0.5 to 2", "2 to 50", "50 to 100", "100 to 200", "unknown"],
        ["-20 to -3.5", "-3.5 to -1", "-1 to 0", "0 to 7"],
        ["sub-02", "sub-2", "sub-10", "sub-100_run-1"],
        ["site", "site 9", "site 10", "site 10b"],
    ],
)
def test_classes_are_sorted_by_their_numbers(ordered):
    legend = ET.fromstring(f"<p>{legend_html(sorted(ordered))}</p>")
    titles = [title.text for title in legend.iter("title")]
    assert titles == ordered


@pytest.mark.parametrize("points", [np.zeros((3, 2)), np.ones((1, 2))])
def test_equal_points_do_not_divide_by_zero(points):
    svg = scatter_svg(points, ["a"] * len(points), ["n"] * len(points), ("x", "y"))
    assert "nan" not in svg


def test_sixteen_classes_have_different_marks():
    names = [f"{number:02d}" for number in range(16)]
    marks = legend_html(names).split('<span class="key">')[1:]
    drawn = {mark.split("<title>")[0] for mark in marks}
    assert len(drawn) == 16
