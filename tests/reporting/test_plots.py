import re
from xml.etree import ElementTree as ET

import numpy as np

from brainfeat.evaluation.scores import LearningPoint, Score
from brainfeat.reporting.plots import learning_curve_svg

CURVE = (
    LearningPoint(10, Score(0.40, 0.05)),
    LearningPoint(20, Score(0.70, 0.02)),
    LearningPoint(40, Score(0.90, 0.01)),
)


def circles(svg):
    elements = [e for e in ET.fromstring(svg).iter() if e.tag == "circle"]
    return np.array([[float(e.get("cx")), float(e.get("cy"))] for e in elements])


def test_better_scores_are_higher_and_all_is_inside():
    points = circles(learning_curve_svg(CURVE))
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) < 0).all()
    assert (points > 0).all()
    assert (points < [480, 320]).all()


def test_bars_are_as_long_as_standard_errors():
    svg = learning_curve_svg(CURVE)
    bars = re.findall(r'd="M[\d.]+ ([\d.]+)V([\d.]+)" stroke="#', svg)
    lengths = [float(bottom) - float(top) for top, bottom in bars]
    np.testing.assert_allclose(np.array(lengths) / lengths[1], [2.5, 1, 0.5], rtol=0.05)
    assert "10 labels: AUC 0.40 +- 0.05" in svg


def test_single_point_is_drawn():
    assert len(circles(learning_curve_svg(CURVE[:1]))) == 1


def test_scores_of_numbers_may_be_negative():
    curve = (LearningPoint(10, Score(-0.3, 0.1)), LearningPoint(20, Score(0.2, 0.1)))
    svg = learning_curve_svg(curve, "R2")
    assert "10 labels: R2 -0.30" in svg
    assert (circles(svg) > 0).all()
