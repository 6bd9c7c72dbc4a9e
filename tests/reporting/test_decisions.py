import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat.exceptions import ConfigError
from brainfeat.reporting.decisions import decision_function, decision_gradient


@pytest.fixture
def rows(rng):
    return rng.normal(size=(30, 4)) * [1, 10, 0.1, 3]


def test_gradient_of_a_linear_head_is_its_weights(rows):
    y = (rows @ [1, 0.1, 3, 0] > 0).astype(int)
    head = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, y)
    expected = head[1].coef_[0] / head[0].scale_
    gradient = decision_gradient(head, rows, rows[:3])
    np.testing.assert_allclose(gradient, np.tile(expected, (3, 1)), rtol=1e-6)
    expected = head.decision_function(rows)
    np.testing.assert_allclose(decision_function(head, rows), expected)


def test_probabilities_become_log_odds(rows):
    y = np.arange(30) % 2
    head = GaussianNB().fit(rows, y)
    probability = head.predict_proba(rows)[:, 1]
    log_odds = np.log(probability / (1 - probability))
    np.testing.assert_allclose(decision_function(head, rows), log_odds)
    forest = RandomForestClassifier(5, random_state=0).fit(rows, y)
    assert np.isfinite(decision_function(forest, rows)).all()


def test_prediction_of_a_number_is_the_decision(rows):
    head = LinearRegression().fit(rows, rows[:, 0])
    np.testing.assert_allclose(decision_function(head, rows), rows[:, 0])


def test_three_classes_are_rejected(rows):
    y = np.arange(30) % 3
    for head in (LogisticRegression(max_iter=1000), GaussianNB()):
        with pytest.raises(ConfigError, match=r"one decision a subject.*got 3"):
            decision_function(head.fit(rows, y), rows)
