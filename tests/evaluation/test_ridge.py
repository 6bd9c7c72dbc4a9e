import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from brainfeat.evaluation.ridge import (
    PENALTIES,
    pair_auc,
    ridge_scores,
    select_and_score,
)


@pytest.mark.parametrize("n_features", [4, 30])
def test_scores_equal_those_of_scikit_learn(rng, n_features):
    train, test = rng.normal(2, 3, (17, n_features)), rng.normal(size=(5, n_features))
    targets = rng.normal(size=(17, 3))
    predictions = ridge_scores(train, test, targets)
    assert predictions.shape == (len(PENALTIES), 5, 3)
    scaler = StandardScaler().fit(train)
    for penalty, scores in zip(PENALTIES, predictions, strict=True):
        model = Ridge(penalty * n_features).fit(scaler.transform(train), targets)
        np.testing.assert_allclose(scores, model.predict(scaler.transform(test)))


def test_constant_feature_gives_finite_scores(rng):
    train = np.column_stack([rng.normal(size=9), np.ones(9)])
    assert np.isfinite(ridge_scores(train, train, rng.normal(size=(9, 1)))).all()


def test_feature_that_is_constant_in_training_has_no_effect(rng):
    train, test = np.full((7, 3), 0.1), rng.normal(size=(5, 3))
    train[:, :2] = rng.normal(size=(7, 2))
    targets = rng.normal(size=(7, 1))
    scores = ridge_scores(train, test, targets)
    test[:, 2] += 9.0
    np.testing.assert_allclose(ridge_scores(train, test, targets), scores)


def test_each_target_gets_the_penalty_of_least_error(rng):
    train, targets = rng.normal(size=(12, 6)), rng.normal(size=(12, 4))
    rows = np.arange(12)
    inner = [(rows[rows % 3 != fold], rows[rows % 3 == fold]) for fold in range(3)]
    scores, held_out = select_and_score(train, train[:2], targets, inner)
    everything = ridge_scores(train, train[:2], targets)
    for target in range(4):
        by_hand = np.zeros((len(PENALTIES), 12))
        for kept, out in inner:
            predicted = ridge_scores(
                train[kept], train[out], targets[kept, target, None]
            )
            by_hand[:, out] = predicted[..., 0]
        best = np.square(by_hand - targets[:, target]).sum(axis=1).argmin()
        np.testing.assert_allclose(held_out[:, target], by_hand[best])
        np.testing.assert_allclose(scores[:, target], everything[best, :, target])


def test_auc_in_one_block_equals_that_of_scikit_learn(rng):
    scores = rng.integers(0, 6, (40, 3)).astype(float)  # with ties
    labels = rng.random((40, 3)) < 0.4
    auc = pair_auc(scores, labels, np.zeros(40, dtype=int))
    expected = [roc_auc_score(labels[:, i], scores[:, i]) for i in range(3)]
    np.testing.assert_allclose(auc, expected)


def test_only_pairs_in_one_block_count(rng):
    scores, labels = rng.normal(size=(30, 1)), rng.random((30, 1)) < 0.5
    blocks = rng.integers(0, 3, 30)
    won = total = 0.0
    for i in np.flatnonzero(labels[:, 0]):
        for j in np.flatnonzero(~labels[:, 0]):
            if blocks[i] == blocks[j]:
                won += float(scores[i, 0] > scores[j, 0])
                total += 1
    np.testing.assert_allclose(pair_auc(scores, labels, blocks), won / total)


def test_auc_without_pairs_is_nan():
    labels = np.array([[True], [True], [False]])
    auc = pair_auc(np.zeros((3, 1)), labels, np.array([0, 0, 1]))
    assert np.isnan(auc).all()
