import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import LedoitWolf

from brainfeat.evaluation.covariance import SubjectCovariance, subject_weights
from brainfeat.evaluation.outliers import cohort_distances
from brainfeat.exceptions import InputError


def make_visits(rng, n_subjects=40, n_features=30, n_visits=2, noise=0.1):
    """Rows of subjects with repeat scans, and the subject of each row."""
    mixing = rng.normal(size=(n_features, n_features))
    people = rng.normal(size=(n_subjects, n_features)) @ mixing
    people = np.repeat(people, n_visits, axis=0)
    rows = people + noise * rng.normal(size=people.shape) @ mixing
    return rows, np.repeat(np.arange(n_subjects), n_visits)


def test_atypical_row_is_an_outlier(rng):
    rows = rng.normal(size=(60, 20)) @ rng.normal(size=(20, 20))
    rows[7] = 6 * rng.normal(size=20)
    result = cohort_distances(rows)
    assert result.distance.argmax() == 7
    assert result.is_outlier[7]
    assert result.is_outlier.sum() <= 3


def test_units_of_features_do_not_matter(rng):
    rows = rng.normal(size=(30, 5))
    scaled = rows * [1, 10, 1e3, 1e-4, 1] + 7
    np.testing.assert_allclose(
        cohort_distances(rows).distance, cohort_distances(scaled).distance
    )


def test_new_rows_are_compared_with_the_reference(rng):
    cohort, rows = rng.normal(size=(80, 6)), rng.normal(3, 1, size=(4, 6))
    result = cohort_distances(rows, cohort)
    mean, scale = cohort.mean(axis=0), cohort.std(axis=0)
    model = LedoitWolf().fit((cohort - mean) / scale)
    expected = np.sqrt(model.mahalanobis((rows - mean) / scale) / 6)
    np.testing.assert_allclose(result.distance, expected, rtol=1e-8)
    assert result.is_outlier.any()
    assert abs(np.median(cohort_distances(cohort).score)) < 1e-9


@pytest.mark.parametrize("shape", [(40, 7), (13, 50)])
def test_covariance_of_single_rows_is_that_of_scikit_learn(rng, shape):
    rows = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1]))
    rows /= rows.std(axis=0)
    ours = SubjectCovariance.fit(rows, rng.permutation(len(rows)))
    theirs = LedoitWolf().fit(rows)
    assert ours.shrinkage == pytest.approx(theirs.shrinkage_, abs=1e-9)
    others = rng.normal(size=(5, shape[1]))
    expected = np.sqrt(theirs.mahalanobis(others) / shape[1])
    np.testing.assert_allclose(ours.distance(others), expected, rtol=1e-6)


def test_identical_repeats_change_nothing(rng):
    rows = rng.normal(size=(25, 9))
    groups = np.arange(25)
    chosen = np.concatenate([groups, [3, 3, 3, 8, 24]])
    once, often = (SubjectCovariance.fit(rows[i], i) for i in (groups, chosen))
    assert often.shrinkage == pytest.approx(once.shrinkage)
    np.testing.assert_allclose(often.distance(rows), once.distance(rows))
    assert subject_weights(chosen).sum() == pytest.approx(1.0)


def test_row_is_not_judged_against_its_own_repeat(rng):
    is_kept = np.arange(60) % 6 != 1  # ten of 30 subjects have no repeat
    rows, groups = (array[is_kept] for array in make_visits(rng, 30, 300))
    is_alone = np.bincount(groups)[groups] == 1
    # Taken as subjects, rows with a repeat are close to it, and the others look far.
    np.testing.assert_array_equal(cohort_distances(rows).is_outlier, is_alone)
    result = cohort_distances(rows, groups=groups)
    assert result.is_outlier.sum() <= 1
    again = cohort_distances(rows, rows, groups=groups, reference_groups=groups)
    np.testing.assert_allclose(again.score, result.score)


def test_moving_a_repeat_does_not_move_the_distance_of_the_other(rng):
    rows, groups = make_visits(rng)
    moved = rows.copy()
    moved[1] += 50.0
    before, after = (cohort_distances(x, groups=groups).distance for x in (rows, moved))
    assert after[0] == before[0]
    assert after[1] > 2 * before[1]


@pytest.mark.parametrize("n_visits", [1, 2, 5])
def test_few_rows_of_a_homogeneous_cohort_are_outliers(rng, n_visits):
    found = []
    for _ in range(20):
        rows, groups = make_visits(rng, 40, 60, n_visits)
        found.append(cohort_distances(rows, groups=groups).is_outlier.mean())
    assert np.mean(found) < 0.01


def test_equal_rows_of_different_names_are_of_one_subject(rng):
    rows = rng.normal(size=(40, 12))
    copied = np.vstack([rows, rows[:8]])
    result = cohort_distances(copied, groups=[f"sub-{i}" for i in range(48)])
    np.testing.assert_allclose(result.distance[40:], result.distance[:8])
    assert not result.is_outlier.any()


def test_cohort_must_be_large_enough_and_of_equal_width(rng):
    with pytest.raises(InputError, match=r"at least 10 rows.*\(9, 4\)"):
        cohort_distances(rng.normal(size=(9, 4)))
    with pytest.raises(InputError, match=r"\(20, 4\) and \(2, 3\)"):
        cohort_distances(np.ones((2, 3)), np.ones((20, 4)))
    rows = rng.normal(size=(20, 4))
    with pytest.raises(InputError, match="at least 5 subjects, got 4"):
        cohort_distances(rows, groups=np.arange(20) % 4)
    with pytest.raises(InputError, match="groups: expected a value for each of 20"):
        cohort_distances(rows, groups=np.arange(19))
    with pytest.raises(InputError, match="reference_groups: expected with"):
        cohort_distances(rows, reference_groups=np.arange(20))
    table = pd.DataFrame(rows, index=[f"sub-{i}" for i in range(20)])
    with pytest.raises(InputError, match="groups: expected the index of X"):
        cohort_distances(table, groups=pd.Series(np.arange(20), table.index)[::-1])
    with pytest.raises(InputError, match="finite"):
        cohort_distances(np.full((20, 4), np.nan))
