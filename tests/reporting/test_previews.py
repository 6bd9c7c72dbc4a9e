import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from brainfeat.preprocessing.quality import Quality
from brainfeat.reporting.previews import (
    Outline,
    Preview,
    draw_preview,
    preview_html,
    rank_previews,
)


@pytest.fixture(scope="module")
def outline(small_encoder):
    return Outline.draw(small_encoder.preprocessor.geometry)


def preview(name="a", similarity=0.8, overlap=0.9, doubt=""):
    quality = Quality(similarity, 1432.1, doubt)
    return Preview(name, np.zeros((4, 6), np.uint8), quality, overlap)


def test_aligned_brain_overlaps_the_template(tokens, outline):
    drawn = draw_preview("sub-00", tokens[0].processed, outline)
    assert drawn.overlap > 0.9
    assert drawn.pixels.shape == (56, 40 + 40 + 56)
    assert np.ptp(drawn.pixels) == 255
    moved = np.roll(tokens[0].processed.foreground, 8, axis=1)
    shifted = draw_preview("x", replace(tokens[0].processed, foreground=moved), outline)
    assert shifted.overlap < drawn.overlap - 0.1


def test_outline_lies_on_the_edge_of_the_brain(tokens, outline):
    pixels = draw_preview("sub-00", tokens[0].processed, outline).pixels
    text = outline.symbol[outline.symbol.rindex("<path") :]
    numbers = np.array(re.findall(r"[\d.]+ [\d.]+(?=[ML\"])", text))
    points = np.array([value.split() for value in numbers], float)
    assert len(points) > 100
    assert points.min() >= 0
    assert (points.max(axis=0) <= pixels.shape[::-1]).all()
    x, y = np.floor(points).astype(int).clip(0, np.array(pixels.shape[::-1]) - 1).T
    near = np.stack(
        [
            pixels[(y + dy).clip(0, pixels.shape[0] - 1), (x + dx).clip(0, 135)]
            for dy in (-2, 0, 2)
            for dx in (-2, 0, 2)
        ]
    )
    # Brain on one side of the line, none on the other.
    assert (np.ptp(near, axis=0) > 60).mean() > 0.9


def test_suspect_previews_come_first():
    usual = [preview(f"sub-{i}", 0.8 + 0.005 * i, 0.9) for i in range(9)]
    poor, lost = preview("poor", 0.65), preview("lost", float("nan"))
    small, doubtful = preview("small", overlap=0.3), preview("doubtful", doubt="why")
    ranked = rank_previews([*usual, poor, small, lost, doubtful])
    names = [item.name for item, _ in ranked[:4]]
    assert names == ["doubtful", "lost", "small", "poor"]
    assert [suspect for _, suspect in ranked] == [True] * 4 + [False] * 9


def test_equal_scans_are_not_suspect():
    ranked = rank_previews([preview(str(i)) for i in range(5)])
    assert not any(suspect for _, suspect in ranked)


def test_doubtful_alignments_are_suspect_in_any_cohort():
    ranked = rank_previews([preview("b", 0.61), preview("a", 0.69, doubt="why")])
    assert [(item.name, suspect) for item, suspect in ranked] == [
        ("a", True),
        ("b", False),
    ]


def test_figure_has_name_and_quality():
    html = preview_html(preview("<a>", doubt="a < b"), is_suspect=True)
    figure = ET.fromstring(html.replace("class=suspect", 'class="suspect"'))
    assert "".join(figure.itertext()) == (
        "<a>: similarity 0.80, overlap 0.90, brain 1432 ml; in doubt: a < b"
    )
    assert 'href="data:image/png;base64,' in html
    lost = preview_html(preview(similarity=float("nan")), is_suspect=False)
    assert "not aligned" in lost
    assert "suspect" not in lost
