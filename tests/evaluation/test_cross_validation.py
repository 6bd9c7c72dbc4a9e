import numpy as np
import pytest

from brainfeat.evaluation.cross_validation import (
    calibrate,
    cross_validate,
    decode_site,
    leave_one_site_out,
    measure_learning_curve,
)
from brainfeat.evaluation.folds import repeat_folds
from brainfeat.evaluation.labelled import LabelledFeatures


def make(rng, effect=1.0, n=60, site=True):
    y = np.arange(n) % 2
    codes = np.arange(n) // 2 % 3
    X = rng.normal(size=(n, 6)) + effect * y[:, None] * np.array([1, 1, 0, 0, 0, 0])
    X[:, 5] += 4.0 * codes
    return LabelledFeatures.check(X, y, None, codes if site else None, None)


def run(data, probe_input="features", **options):
    options = {"n_permutations": 39, "seed": 0} | options
    repeats = repeat_folds(data.labels, data.groups, 2, options["seed"])
    return cross_validate(data, probe_input=probe_input, repeats=repeats, **options)


def test_effect_is_detected_and_no_effect_is_at_chance(rng):
    result = run(make(rng))
    assert result.auc.value > 0.8
    assert result.p_value == 1 / 40
    assert 0 < result.auc.standard_error < 0.15
    without = run(make(rng, effect=0.0))
    assert 0.25 < without.auc.value < 0.75
    assert without.p_value > 0.05


def test_probabilities_are_of_held_out_rows(rng):
    result = run(make(rng))
    assert result.probabilities.shape == (60,)
    labels = np.arange(60) % 2
    assert result.probabilities[labels == 1].mean() > 0.6
    assert result.probabilities[labels == 0].mean() < 0.4


def test_seed_determines_the_result(rng):
    data = make(rng)
    assert run(data).auc == run(data).auc
    assert run(data).auc != run(data, seed=3).auc


def test_rows_of_a_subject_do_not_help_each_other(rng):
    # Each subject twice, with a random label: only recognition helps.
    rows = np.repeat(rng.normal(size=(30, 40)), 2, axis=0)
    rows += 0.01 * rng.normal(size=rows.shape)
    y = np.repeat(rng.permutation(np.arange(30) % 2), 2)
    grouped = LabelledFeatures.check(rows, y, np.repeat(np.arange(30), 2), None, None)
    leaky = LabelledFeatures.check(rows, y, None, None, None)
    honest = run(grouped).auc.value
    assert honest < 0.7 < honest + 0.2 < run(leaky).auc.value


def test_adjusted_features_do_not_encode_the_site(rng):
    site = np.arange(80) % 2
    y = np.where(rng.random(80) < 0.9, site, 1 - site)
    X = rng.normal(size=(80, 5)) + 3.0 * site[:, None]
    data = LabelledFeatures.check(X, y, None, site, None)
    assert run(data).auc.value > 0.8
    assert run(data, "confounds").auc.value > 0.8
    adjusted = run(data, "adjusted")
    assert abs(adjusted.auc.value - 0.5) < 0.25
    assert adjusted.p_value > 0.05


def test_calibration_compares_bins_of_equal_counts():
    probabilities = np.array([0.1] * 10 + [0.9] * 10)
    labels = np.array([True] + [False] * 9 + [True] * 9 + [False])
    result = calibrate(labels, probabilities)
    np.testing.assert_allclose(result.predicted[[0, -1]], [0.1, 0.9])
    assert result.brier == pytest.approx((18 * 0.01 + 2 * 0.81) / 20)
    assert result.brier_of_share == 0.25
    perfect = calibrate(labels, labels.astype(float))
    assert perfect.brier == perfect.expected_error == 0.0


def test_left_out_site_is_not_trained_on(rng):
    data = make(rng)
    result = leave_one_site_out(data, seed=0)
    assert [site.site for site in result] == ["0", "1", "2"]
    assert [site.n_rows for site in result] == [20, 20, 20]
    assert all(site.auc > 0.6 for site in result)
    labels = np.where(data.site == 2, True, data.labels)
    one_class = LabelledFeatures.check(data.features, labels, None, data.site, None)
    assert np.isnan(leave_one_site_out(one_class, seed=0)[2].auc)


def test_auc_grows_with_the_number_of_labels(rng):
    curve = measure_learning_curve(make(rng, n=120), seed=0)
    assert [point.n_labels for point in curve] == [10, 20, 40, 80]
    assert curve[-1].auc.value > curve[0].auc.value
    assert all(0 < point.auc.standard_error < 0.1 for point in curve)


def test_site_is_decoded_from_affected_features_only(rng):
    data = make(rng)
    assert decode_site(data.features, data.site, data.groups, seed=0).value > 0.6
    blind = decode_site(data.features[:, :5], data.site, data.groups, seed=0)
    assert blind.value < 0.55


def test_site_decoding_needs_enough_subjects(rng):
    X = rng.normal(size=(11, 3))
    two_subjects = np.array([0, 0, 1, 1])
    assert np.isnan(decode_site(X[:4], np.arange(4) % 2, two_subjects, seed=0).value)
    one_at_a_site = np.array([0, 1, 1, 1, 1])
    assert np.isnan(decode_site(X[:5], one_at_a_site, np.arange(5), seed=0).value)
    # One has so many rows that all others are in the other fold.
    subjects = np.array([0, 0, 0, 0, 0, 1, 2, 2, 2, 3, 4])
    site = np.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1])
    assert np.isnan(decode_site(X, site, subjects, seed=0).value)
    four_subjects = np.repeat(np.arange(4), 2)
    assert decode_site(X[:8], np.arange(8) % 2, four_subjects, seed=0).value >= 0.0


def test_undefined_score_has_no_p_value(rng):
    site = np.arange(40) % 2
    data = LabelledFeatures.check(rng.normal(size=(40, 3)), site, None, site, None)
    result = run(data, "adjusted")
    assert np.isnan(result.auc.value)
    assert np.isnan(result.p_value)
