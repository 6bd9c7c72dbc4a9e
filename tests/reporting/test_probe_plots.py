import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from brainfeat.evaluation import RocCurve
from brainfeat.evaluation.scores import Calibration
from brainfeat.reporting.figures import legend_html
from brainfeat.reporting.probe_plots import (
    calibrations_svg,
    confusion_html,
    identity_svg,
    roc_svg,
)


def lines(svg):
    """Points of each polyline, by its colour."""
    found = {}
    for element in ET.fromstring(svg).iter("polyline"):
        pairs = [pair.split(",") for pair in element.get("points").split()]
        found[element.get("stroke")] = np.array(pairs, float)
    return found


def circles(svg):
    found = ET.fromstring(svg).iter("circle")
    return np.array([[float(e.get("cx")), float(e.get("cy"))] for e in found])


def test_perfect_calibration_lies_on_the_diagonal():
    values = np.array([0.0, 0.25, 1.0])
    calibration = Calibration(values, values, 0.1, 0.2, 0.0)
    points = circles(calibrations_svg([calibration], ["AD"]))
    slope = np.diff(points[:, 1]) / np.diff(points[:, 0])
    np.testing.assert_allclose(slope, slope[0], rtol=0.01)


def test_curves_have_the_colours_of_the_legend():
    rates = np.linspace(0, 1, 900)
    curves = [
        RocCurve(name, rates, rates**power, 1 - rates)
        for name, power in (("MCI", 0.7), ("AD", 0.2), ("CN", 0.5))
    ]
    found = lines(roc_svg(curves, None))
    assert len(found) == 3
    assert all(len(points) <= 400 for points in found.values())
    legend = legend_html([curve.label for curve in curves])
    highest = min(found, key=lambda color: found[color][:, 1].mean())  # y is down
    assert legend.index(highest) < legend.index("AD") < legend.index("CN")


def test_operating_point_is_marked():
    curve = RocCurve("AD", np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.ones(2))
    assert "operating point" in roc_svg([curve], (0.2, 0.9))
    assert "operating point" not in roc_svg([curve], None)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 4e4])
def test_equal_numbers_lie_on_the_identity_line(rng, scale):
    values = rng.uniform(50, 90, 30) * scale
    svg = identity_svg(values, values, [f"<{i}>" for i in range(30)])
    ends = re.search(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg).groups()
    x0, y0, x1, y1 = map(float, ends)
    points = circles(svg)
    expected = y0 + (points[:, 0] - x0) * (y1 - y0) / (x1 - x0)
    np.testing.assert_allclose(points[:, 1], expected, atol=0.3)
    n_ticks = sum(
        e.get("text-anchor") == "end" for e in ET.fromstring(svg).iter("text")
    )
    assert 3 <= n_ticks <= 7


def test_confusion_has_counts_and_recalls():
    html = confusion_html(np.array([[8.0, 2.0], [0.0, 5.0]]), ["<CN>", "AD"])
    assert "<td>&lt;CN&gt;</td>" in html
    assert "8.0 (80 %)" in html
    assert "5.0 (100 %)" in html
