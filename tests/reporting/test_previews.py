import re
from xml.etree import ElementTree as ET

import numpy as np

from brainfeat.preprocessing.preview import SubjectPicture
from brainfeat.preprocessing.quality import Quality
from brainfeat.reporting.previews import (
    Preview,
    outline_symbol,
    preview_html,
    rank_previews,
)


def preview(name="a", similarity=0.8, overlap=0.9, doubt="", modalities=("T1w",)):
    picture = SubjectPicture(b"png", 264, 104 * len(modalities), modalities, overlap)
    return Preview(name, picture, Quality(similarity, 1432.1, doubt))


def test_outline_is_drawn_within_a_strip():
    text = outline_symbol()
    assert 'viewBox="0 0 264 104"' in text
    points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", text), float)
    assert len(points) > 500
    assert points.min() > 0
    assert (points.max(axis=0) < [264, 104]).all()


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
        "T1w<a>: similarity 0.80, overlap 0.90, brain 1432 ml; in doubt: a < b"
    )
    assert 'href="data:image/png;base64,' in html
    lost = preview_html(preview(similarity=float("nan")), is_suspect=False)
    assert "not aligned" in lost
    assert "suspect" not in lost


def test_each_modality_has_its_own_strip():
    html = preview_html(preview(modalities=("T1w", "FLAIR")), is_suspect=False)
    assert 'viewBox="0 0 264 208"' in html
    assert re.findall(
        r'<use href="#template" y="(\d+)" width="264" height="104"', html
    ) == ["0", "104"]
    assert [text.text for text in ET.fromstring(html).iter("text")] == ["T1w", "FLAIR"]
