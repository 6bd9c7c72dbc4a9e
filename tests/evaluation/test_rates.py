import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from brainfeat.evaluation.rates import rates_at, roc_curve
from brainfeat.exceptions import ConfigError


def test_roc_curve_is_that_of_scikit_learn(rng):
    is_class = rng.random(83) < 0.3
    probabilities = np.round(rng.random(83) * 0.5 + 0.3 * is_class, 2)  # with ties
    ours = roc_curve("AD", is_class, probabilities)
    theirs = metrics.roc_curve(is_class, probabilities, drop_intermediate=False)
    for found, expected in zip(ours[1:], theirs, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)
    area = metrics.roc_auc_score(is_class, probabilities)
    found = metrics.auc(ours.false_positive_rate, ours.true_positive_rate)
    assert found == pytest.approx(area)


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.9, 1.0])
def test_rates_of_single_rows_are_wilsons(rng, threshold):
    is_positive = rng.random(47) < 0.4
    probabilities = rng.random(47) * 0.5 + 0.3 * is_positive
    point = rates_at(threshold, is_positive, probabilities, np.arange(47), 0.9)
    decided = probabilities >= threshold
    recalls = metrics.recall_score(
        is_positive, decided, average=None, labels=[True, False]
    )
    for rate, rows, expected in zip(
        point[1:3], (is_positive, ~is_positive), recalls, strict=True
    ):
        assert rate.value == pytest.approx(expected)
        n_right = int((decided == is_positive)[rows].sum())
        interval = binomtest(n_right, int(rows.sum())).proportion_ci(0.9, "wilson")
        assert rate[1:] == pytest.approx(interval, abs=1e-9)
    assert point[3:] == (is_positive.sum(), (~is_positive).sum())


def test_identical_repeats_do_not_narrow_the_interval(rng):
    is_positive, probabilities = np.arange(40) % 2 == 0, rng.random(40)
    once = rates_at(0.5, is_positive, probabilities, np.arange(40), 0.95)
    rows = np.repeat(np.arange(40), 3)
    thrice = rates_at(0.5, is_positive[rows], probabilities[rows], rows, 0.95)
    assert thrice.sensitivity == pytest.approx(once.sensitivity)
    assert thrice.specificity == pytest.approx(once.specificity)


def test_intervals_over_subjects_cover_the_rate(rng):
    # Two scans of a subject mostly agree; as independent rows, 86 % would be covered.
    n, truth, covered = 40, 0.8, []
    groups = np.repeat(np.arange(n), 2)
    for _ in range(500):
        first = rng.random(n) < truth
        second = np.where(rng.random(n) < 0.8, first, rng.random(n) < truth)
        right = np.column_stack([first, second]).ravel()
        rows = np.append(right, 0.0), np.append(groups, n)
        is_positive = np.arange(2 * n + 1) < 2 * n
        rate = rates_at(0.5, is_positive, *rows, 0.95).sensitivity
        covered.append(rate.low <= truth <= rate.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_threshold_must_be_a_probability():
    with pytest.raises(ConfigError, match=r"threshold: expected a number in \[0, 1\]"):
        rates_at(50, np.array([True, False]), np.ones(2), np.arange(2), 0.95)
