import numpy as np
import pytest

from brainfeat.evaluation.resampling import (
    adjust_by_holm,
    draw_subjects,
    inflate,
    summarise_draws,
)


def test_subjects_are_drawn_with_all_their_rows_within_strata():
    groups = np.repeat(np.arange(13), 3)
    strata = (groups % 4 == 0).astype(int)
    weights = draw_subjects(groups, strata, 50, seed=0)
    by_subject = weights.reshape(50, 13, 3)
    assert (by_subject == by_subject[:, :, :1]).all()
    counts = by_subject[:, :, 0]
    assert set(counts[:, ::4].sum(axis=1)) == {4}
    assert set(counts.sum(axis=1)) == {13}
    assert (counts == 0).any()
    assert (counts > 1).any()


def test_spread_of_drawn_means_is_that_of_theory(rng):
    values = rng.normal(size=200)
    weights = draw_subjects(np.arange(200), np.zeros(200, int), 4000, seed=1)
    means = weights @ values / 200
    assert np.std(means) == pytest.approx(values.std() / np.sqrt(200), rel=0.05)


@pytest.mark.parametrize(("n_folds", "factor"), [(5, 2.25), (2, 3.0)])
def test_variance_is_inflated_as_by_nadeau_and_bengio(rng, n_folds, factor):
    draws = rng.normal(3.0, 0.5, 1000)
    widened = inflate(draws, 2.0, n_folds)
    assert widened.mean() == pytest.approx(2.0)
    assert widened.var() == pytest.approx(factor * draws.var())


def test_interval_and_p_value_of_draws():
    draws = np.arange(-10, 90) / 100
    interval = summarise_draws(draws, 0.4, 0.8)
    assert (interval.low, interval.high) == pytest.approx((-0.001, 0.791))
    assert interval.p_value == pytest.approx(2 * 12 / 101)
    assert np.isnan(summarise_draws(np.full(5, np.nan), 0.1, 0.9).low)
    assert summarise_draws(np.zeros(9), 0.0, 0.9).p_value == 1.0


def test_adjusted_p_values_are_those_of_holm():
    given = [0.01, 0.04, 0.03, 0.005, 0.6]
    expected = [0.04, 0.09, 0.09, 0.025, 0.6]
    np.testing.assert_allclose(adjust_by_holm(given), expected)
    with_gap = adjust_by_holm([np.nan, 0.02, 0.03])
    assert np.isnan(with_gap[0])
    np.testing.assert_allclose(with_gap[1:], [0.04, 0.04])


def test_adjusted_p_values_are_those_of_statsmodels(rng):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    given = rng.random(11) ** 3
    expected = multitest.multipletests(given, method="holm")[1]
    np.testing.assert_allclose(adjust_by_holm(given), expected)
