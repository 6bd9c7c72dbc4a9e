import re
from html.parser import HTMLParser

import numpy as np
import pytest

from brainfeat.reporting.demo_report import DemoReport, SliceView, write_demo_report
from brainfeat.reporting.probe import ProbeScores


class Reader(HTMLParser):
    """Collects addresses, and checks that tags are closed in order."""

    void = frozenset({"meta", "img", "br", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in {"src", "href"}]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(tmp_path, rng):
    report = DemoReport(
        facts=[("output", "/tmp/<demo> & co")],
        caveats=["Simulated data."],
        views=[SliceView("sub-01, control", np.full((5, 7), 9, np.uint8))],
        scores=[ProbeScores("embedding", 192, np.full((10, 5), 0.754))],
        projection=rng.normal(size=(4, 2)),
        explained=(0.31, 0.12),
        labels=["control", "disease"] * 2,
        names=["sub-01", "sub-02", "sub-03", "sub-04"],
    )
    path = write_demo_report(tmp_path / "report.html", report)
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_complete(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    text = "".join(reader.text)
    for part in ("/tmp/<demo> & co", "Simulated data.", "sub-01, control", "0.75"):
        assert part in text
    assert "31 %" in text
    assert "5-fold cross-validation, 10 times" in re.sub(r"\s+", " ", text)


def test_the_page_needs_nothing_from_outside(page):
    reader = Reader()
    reader.feed(page)
    assert reader.addresses
    assert all(address.startswith("data:") for address in reader.addresses)
    assert "<script" not in page
    assert "http" not in page
    assert 'name="viewport"' in page
