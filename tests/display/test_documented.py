"""Parameters are explained in scikit-learn's display of an estimator."""

from html.parser import HTMLParser

import pytest
import sklearn
from sklearn.utils.fixes import parse_version

from brainfeat import (
    BrainFoundClassifier,
    BrainFoundEmbedder,
    BrainFoundRegressor,
    SegmentationEstimator,
)
from brainfeat.evaluation import ConfoundRegressor, SiteHarmonizer


class Descriptions(HTMLParser):
    """Collects what a pointer on a parameter shows."""

    def __init__(self):
        super().__init__()
        self.texts, self.is_open = [], False

    def handle_starttag(self, tag, attributes):
        if tag == "span":
            self.is_open = ("class", "param-doc-description") in attributes
            if self.is_open:
                self.texts.append("")

    def handle_data(self, data):
        if self.is_open:
            self.texts[-1] += data

    def handle_endtag(self, tag):
        self.is_open = self.is_open and tag != "span"


@pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.8"),
    reason="shows no descriptions",
)
@pytest.mark.parametrize(
    "estimator",
    [
        BrainFoundEmbedder(),
        SegmentationEstimator(),
        BrainFoundClassifier(),
        BrainFoundRegressor(),
        ConfoundRegressor(["age"]),
        SiteHarmonizer("site"),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_pointer_on_a_parameter_shows_its_help(estimator):
    shown = Descriptions()
    shown.feed(estimator._repr_html_())
    named = dict(text.strip().split(": ", 1) for text in shown.texts)
    assert named.keys() == estimator.get_params(deep=False).keys()
    for name, text in named.items():
        assert len(text) > 20, name
        assert "..." not in text
