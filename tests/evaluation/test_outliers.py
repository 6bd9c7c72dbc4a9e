import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from brainfeat.evaluation.outliers import cohort_distances
from brainfeat.exceptions import InputError


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
    np.testing.assert_allclose(result.distance, expected)
    assert result.is_outlier.any()
    assert abs(np.median(cohort_distances(cohort).score)) < 1e-9


def test_cohort_must_be_large_enough_and_of_equal_width(rng):
    with pytest.raises(InputError, match=r"at least 10 rows.*\(9, 4\)"):
        cohort_distances(rng.normal(size=(9, 4)))
    with pytest.raises(InputError, match=r"\(20, 4\) and \(2, 3\)"):
        cohort_distances(np.ones((2, 3)), np.ones((20, 4)))
