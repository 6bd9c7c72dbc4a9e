import warnings

import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation import evaluate_probe
from brainfeat.exceptions import ConfigError, ConfoundingWarning, LeakageWarning

FAST = {"n_repeats": 1, "n_permutations": 39}


def draw_sites(rng, fraction):
    """90 rows of two sites; a fraction of the labels equals the site."""
    site = np.where(np.arange(90) % 2, "north", "river")
    north = site == "north"
    y = np.where(rng.random(90) < fraction, north, ~north).astype(int)
    X = rng.normal(size=(90, 8)) + 2.5 * north[:, None]
    return X, y, site


def test_confounded_site_is_reported_and_corrected_for(rng):
    X, y, site = draw_sites(rng, 0.88)
    with pytest.warns(ConfoundingWarning) as record:
        result = evaluate_probe(X, y, site=site, **FAST)
    assert result.auc.value > 0.75
    assert result.p_value <= 0.05
    assert result.corrected_auc.value < 0.65
    assert result.corrected_p_value > 0.05
    assert result.confound_auc.value > 0.75
    assert result.site_association > 0.5
    text = " ".join(str(warning.message) for warning in record)
    assert "site and label are confounded" in text
    assert "confounds and site alone reach" in text
    assert "the AUC falls from" in text
    assert len(result.findings) == 3


def test_rise_of_the_auc_is_not_reported_as_a_fall():
    rng = np.random.default_rng(11)
    site, y = np.arange(36) % 6, rng.permutation(np.arange(36) // 6 % 2)
    X = rng.normal(size=(36, 4))
    X[:, 0] += y
    with pytest.warns(ConfoundingWarning, match="AUC changes from .* too few rows"):
        result = evaluate_probe(X, y, site=site, **FAST)
    assert result.p_value <= 0.05 < result.corrected_p_value
    assert result.corrected_auc.value > result.auc.value


def test_balanced_sites_give_no_warning_and_keep_the_effect(rng):
    X, y, site = draw_sites(rng, 0.5)
    X[:, 0] += 2.0 * y
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_probe(X, y, site=site, **FAST)
    assert result.corrected_auc.value > 0.75
    assert result.corrected_p_value <= 0.05
    assert result.site_decoding.value > 0.9
    assert [site.site for site in result.leave_one_site_out] == ["north", "river"]
    assert result.findings == ()


def test_full_confounding_cannot_be_corrected(rng):
    X, _, site = draw_sites(rng, 0.5)
    with pytest.warns(ConfoundingWarning) as record:
        result = evaluate_probe(X, (site == "north").astype(int), site=site, **FAST)
    assert "class and site cannot be separated" in str(record[-1].message)
    assert np.isnan(result.corrected_auc.value)
    assert np.isnan(result.corrected_p_value)
    assert "corrected for them: AUC undefined, p undefined" in result.summary()
    assert all(np.isnan(site.auc) for site in result.leave_one_site_out)


def test_confounds_without_sites(rng):
    age = rng.uniform(50, 90, 80)
    y = np.where(age + rng.normal(0, 8, 80) > 70, "old", "new")
    X = rng.normal(size=(80, 6)) + 0.2 * age[:, None]
    with pytest.warns(ConfoundingWarning) as record:
        result = evaluate_probe(X, y, confounds=pd.DataFrame({"age": age}), **FAST)
    assert "confounds and site alone reach" in str(record[0].message)
    assert result.classes == ("new", "old")
    assert result.auc.value > 0.75 > result.corrected_auc.value
    assert result.site_decoding is None
    assert result.leave_one_site_out == ()


def test_confound_among_the_features_is_corrected_for(rng):
    sex = rng.integers(0, 2, 120)
    y = np.where(rng.random(120) < 0.95, sex, 1 - sex)
    X = np.column_stack([rng.normal(size=120), np.where(sex, -0.36, 0.13)])
    with pytest.warns(ConfoundingWarning):
        result = evaluate_probe(X, y, confounds=pd.DataFrame({"sex": sex}), **FAST)
    assert result.auc.value > 0.8
    assert result.corrected_auc.value < 0.65


def test_repeat_scans_do_not_confound_site_and_label(rng):
    y = np.repeat([0, 1], 10)
    site = np.array(["north"] * 6 + ["river"] * 8 + ["north"] * 4 + ["river"] * 2)
    once = evaluate_probe(rng.normal(size=(20, 4)), y, site=site, **FAST)
    subjects = np.repeat(np.arange(20), 12)
    result = evaluate_probe(
        rng.normal(size=(240, 4)), y[subjects], subjects, site[subjects], **FAST
    )
    assert result.site_association == pytest.approx(once.site_association)
    assert not [text for text in result.findings if "are confounded" in text]


def test_plain_evaluation_has_no_corrected_score(rng):
    y = np.repeat(np.arange(30) % 2, 2)
    X = rng.normal(size=(60, 5)) + y[:, None]
    result = evaluate_probe(X, y, np.repeat(np.arange(30), 2), **FAST)
    assert (result.n_rows, result.n_subjects) == (60, 30)
    assert (
        result.corrected_auc is result.confound_auc is result.site_association is None
    )
    assert [point.n_labels for point in result.learning_curve] == [10, 20]
    assert result.calibration.brier < result.calibration.brier_of_share


def test_duplicates_are_reported(rng):
    X, y = rng.normal(size=(30, 4)), np.arange(30) % 2
    X[3] = X[1]
    with pytest.warns(LeakageWarning, match="2 rows have the same features"):
        result = evaluate_probe(X, y, **FAST)
    assert result.n_subjects == 29
    assert "2 rows" in result.findings[0]


@pytest.mark.parametrize("name", ["n_repeats", "n_permutations"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"{name}=0"):
        evaluate_probe(np.eye(4), [0, 1, 0, 1], **{name: 0})
