import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.exceptions import ConfigError
from brainfeat.reporting.decisions import decide, slope


@pytest.fixture
def rows(rng):
    return rng.normal(size=(30, 4)) * [1, 10, 0.1, 3]


def test_slope_of_a_linear_head_is_its_weights(rows):
    y = (rows @ [1, 0.1, 3, 0] > 0).astype(int)
    head = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, y)
    expected = head[1].coef_[0] / head[0].scale_
    found = slope(head, rows, rows[:3])
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(decide(head, rows), head.decision_function(rows))


def test_probabilities_become_log_odds(rows):
    y = np.arange(30) % 2
    head = GaussianNB().fit(rows, y)
    share = head.predict_proba(rows)[:, 1]
    np.testing.assert_allclose(decide(head, rows), np.log(share / (1 - share)))
    forest = RandomForestClassifier(5, random_state=0).fit(rows, y)
    assert np.isfinite(decide(forest, rows)).all()


def test_numbers_are_decisions(rows):
    head = LinearRegression().fit(rows, rows[:, 0])
    np.testing.assert_allclose(decide(head, rows), rows[:, 0])


def test_three_classes_are_refused(rows):
    y = np.arange(30) % 3
    for head in (LogisticRegression(max_iter=1000), GaussianNB()):
        with pytest.raises(ConfigError, match=r"one decision a subject.*got 3"):
            decide(head.fit(rows, y), rows)
