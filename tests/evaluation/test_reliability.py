import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation.reliability import evaluate_reliability
from brainfeat.exceptions import InputError
from brainfeat.metrics import intraclass_correlation, retrieval_accuracy


@pytest.fixture
def travellers(rng):
    """12 subjects at 3 sites, by site; each site shifts a feature."""
    subjects = np.tile(np.arange(12), 3)
    site = np.repeat(["river", "north", "summit"], 12)
    rows = rng.normal(size=(12, 8))[subjects] + 0.1 * rng.normal(size=(36, 8))
    rows[:, 0] += 3.0 * (site == "north")
    rows[:, 2] += 3.0 * (site == "summit")
    return rows, subjects, site


def test_scans_are_compared_in_the_order_of_their_sites(travellers, rng):
    rows, subjects, site = travellers
    result = evaluate_reliability(rows, subjects, site=site, predictions=rows[:, 1])
    assert (result.n_subjects, result.n_scans) == (12, 3)
    by_site = np.stack([rows[site == name] for name in sorted(set(site))], axis=1)
    expected = intraclass_correlation(by_site)
    np.testing.assert_allclose(result.feature_icc, expected)
    assert result.prediction_icc == pytest.approx(expected[1])
    assert result.feature_icc[0] < 0.5 < 0.9 < result.feature_icc[1]
    order = rng.permutation(36)
    shuffled = evaluate_reliability(rows[order], subjects[order], site=site[order])
    np.testing.assert_allclose(shuffled.feature_icc, expected)


def test_site_and_subject_are_decoded_from_the_features(travellers):
    rows, subjects, site = travellers
    result = evaluate_reliability(rows, subjects, site=site)
    assert result.retrieval == retrieval_accuracy(rows, subjects)
    assert result.retrieval > 0.5
    assert result.retrieval_chance == pytest.approx(2 / 35)
    assert result.site_decoding.value > 0.9
    assert result.site_chance == pytest.approx(1 / 3)


def test_chance_counts_subjects_with_repeat_scans_only(rng):
    # Twelve subjects with repeat scans, and 60 without.
    subjects = np.r_[np.tile(np.arange(12), 2), np.arange(12, 72)]
    result = evaluate_reliability(rng.normal(size=(84, 5)), subjects)
    assert result.retrieval_chance == pytest.approx(1 / 83)
    noise = [
        evaluate_reliability(rng.normal(size=(84, 5)), subjects).retrieval
        for _ in range(60)
    ]
    assert np.mean(noise) == pytest.approx(1 / 83, abs=4 * np.std(noise) / 60**0.5)


def test_subjects_are_compared_by_the_smallest_number_of_scans(travellers):
    rows, subjects, _ = travellers
    keep = np.ones(36, dtype=bool)
    keep[[24, 35]] = False  # two subjects have two scans
    keep[[1, 13]] = False  # and one has one
    result = evaluate_reliability(rows[keep], subjects[keep])
    assert (result.n_subjects, result.n_scans) == (11, 2)
    assert result.site_decoding is None


def test_predictions_of_other_rows_are_refused(rng):
    X = pd.DataFrame(rng.normal(size=(4, 3)), index=list("abcd"))
    predictions = pd.Series([0.1, 0.2, 0.3, 0.4], index=list("dcba"))
    with pytest.raises(InputError, match=r"predictions: expected the index of X"):
        evaluate_reliability(X, [0, 0, 1, 1], predictions=predictions)


def test_repeat_scans_are_needed():
    with pytest.raises(InputError, match="at least two with repeat scans, got 1"):
        evaluate_reliability(np.ones((4, 2)), ["a", "a", "b", "c"])


@pytest.mark.parametrize("n_subjects", [2, 3])
def test_few_subjects_are_compared_without_decoding_the_site(travellers, n_subjects):
    rows, subjects, site = travellers
    few = subjects < n_subjects
    result = evaluate_reliability(rows[few], subjects[few], site=site[few])
    assert (result.n_subjects, result.n_scans) == (n_subjects, 3)
    assert np.isnan(result.site_decoding.value)


def test_site_with_one_subject_is_not_decoded(travellers):
    rows, subjects, site = travellers
    keep = (site != "summit") | (subjects == 0)
    result = evaluate_reliability(rows[keep], subjects[keep], site=site[keep])
    assert (result.n_subjects, result.n_scans) == (12, 2)
    assert np.isnan(result.site_decoding.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjects": ["a", "a", "b", "b", None, np.nan]}, "6 values, 2 of them miss"),
        ({"subjects": list("aabb")}, "subjects: expected a value for each of 6 rows"),
        ({"site": list("xyxyx")}, "site: expected a value for each of 6 rows, got 5"),
        ({"site": ["x", "y", "x", "y", "x", np.nan]}, "site: .* 1 of them missing"),
        (
            {"predictions": np.ones(7)},
            r"predictions: expected a number .*got shape \(7",
        ),
    ],
)
def test_columns_of_another_length_are_refused(rng, changes, message):
    given = {"X": rng.normal(size=(6, 3)), "subjects": list("aabbcc"), **changes}
    with pytest.raises(InputError, match=message):
        evaluate_reliability(**given)
