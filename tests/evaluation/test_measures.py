import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from brainfeat.evaluation.measures import (
    weighted_accuracy,
    weighted_auc,
    weighted_correlation,
    weighted_error,
    weighted_r2,
)

N = 47


@pytest.fixture
def weights(rng):
    return np.vstack([np.ones(N), rng.integers(0, 4, (3, N))]).astype(float)


def each(weights, function):
    return [function(w) for w in weights]


def test_auc_is_that_of_scikit_learn(rng, weights):
    positive = rng.random(N) < 0.4
    scores = np.round(rng.normal(size=N) + positive, 1)  # with ties
    found = weighted_auc(scores, positive, np.zeros(N, int), weights)
    expected = each(
        weights, lambda w: metrics.roc_auc_score(positive, scores, sample_weight=w)
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_auc_in_blocks_compares_rows_of_one_block_only(rng, weights):
    positive, blocks = rng.random(N) < 0.4, np.arange(N) % 3
    scores = rng.normal(size=N) + positive
    won = total = 0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            pair = weights[:, i] * weights[:, j] * (blocks[i] == blocks[j])
            won, total = won + pair * (scores[i] > scores[j]), total + pair
    found = weighted_auc(scores, positive, blocks, weights)
    np.testing.assert_allclose(found, won / total)
    shifted = weighted_auc(scores + 9.0 * blocks, positive, blocks, weights)
    np.testing.assert_allclose(shifted, found)


def test_balanced_accuracy_is_that_of_scikit_learn(rng, weights):
    labels, predicted = rng.integers(0, 3, (2, N))
    found = weighted_accuracy(predicted, labels, 3, weights)
    expected = each(
        weights,
        lambda w: metrics.balanced_accuracy_score(labels, predicted, sample_weight=w),
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert weighted_accuracy(labels, labels, 4, weights)[0] == 1.0  # one never occurs


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_scores_of_numbers_are_those_of_scikit_learn(rng, weights, offset):
    values = rng.normal(size=N) + offset
    predicted = values + rng.normal(size=N)
    one_block = np.zeros(N, int)
    options = {"rtol": 1e-6}
    np.testing.assert_allclose(
        weighted_r2(predicted, values, one_block, weights),
        each(weights, lambda w: metrics.r2_score(values, predicted, sample_weight=w)),
        **options,
    )
    np.testing.assert_allclose(
        weighted_error(predicted, values, weights),
        each(
            weights,
            lambda w: metrics.mean_absolute_error(values, predicted, sample_weight=w),
        ),
        **options,
    )
    rows = [np.repeat(np.arange(N), w.astype(int)) for w in weights]
    np.testing.assert_allclose(
        weighted_correlation(predicted, values, weights),
        [stats.pearsonr(predicted[r], values[r]).statistic for r in rows],
        **options,
    )


def test_r2_within_blocks_ignores_what_blocks_differ_in(rng, weights):
    blocks = np.arange(N) % 2
    values = rng.normal(size=N) + 5.0 * blocks
    predicted = values + rng.normal(size=N)
    found = weighted_r2(predicted, values, blocks, weights[:1])
    moved = weighted_r2(predicted + 7.0 * blocks, values - blocks, blocks, weights[:1])
    np.testing.assert_allclose(found, moved)
    centred = values - np.array([values[blocks == b].mean() for b in (0, 1)])[blocks]
    ours = predicted - np.array([predicted[blocks == b].mean() for b in (0, 1)])[blocks]
    np.testing.assert_allclose(found, metrics.r2_score(centred, ours))


def test_undefined_scores_are_nan(weights):
    ones = np.ones(N)
    one_block = np.zeros(N, int)
    assert np.isnan(weighted_auc(ones, ones > 0, one_block, weights)).all()
    assert np.isnan(weighted_r2(ones, ones, one_block, weights)).all()
    assert np.isnan(weighted_correlation(np.arange(N) * 1.0, ones, weights)).all()
