import numpy as np

from brainfeat.reporting.probe import cross_validate_probe


def _cohort(rng, *, n_subjects=24, n_features=7, effect=0.0):
    labels = np.arange(n_subjects) % 2
    features = rng.normal(size=(n_subjects, n_features)) + effect * labels[:, None]
    return features, labels


def test_clear_features_are_read_and_noise_is_chance(rng):
    features, labels = _cohort(rng, effect=3.0)
    clear = cross_validate_probe("clear", features, labels, np.arange(24), n_repeats=3)
    assert clear.auc.shape == (3, 5)
    assert clear.mean > 0.95
    assert clear.n_features == 7
    features, labels = _cohort(rng, n_subjects=80)
    noise = cross_validate_probe("noise", features, labels, np.arange(80), n_repeats=3)
    assert 0.25 < noise.mean < 0.75
    assert noise.spread > 0


def test_scans_of_one_subject_stay_together(rng):
    # Each subject has two nearly equal scans and a label that means nothing: only
    # a leak between the folds could read it.
    features, labels = _cohort(rng, n_subjects=60, n_features=90)
    twice = np.concatenate([features, features + 1e-3])
    groups = np.tile(np.arange(60), 2)
    scores = cross_validate_probe("x", twice, np.tile(labels, 2), groups, n_repeats=2)
    assert scores.mean < 0.75


def test_the_spread_is_over_repeats(rng):
    features, labels = _cohort(rng)
    one = cross_validate_probe("x", features, labels, np.arange(24), n_repeats=1)
    assert one.spread == 0.0
