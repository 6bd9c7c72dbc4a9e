import warnings

import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation import evaluate_probe
from brainfeat.exceptions import ConfigError, ConfoundingWarning, LeakageWarning

FAST = {"n_repeats": 1, "n_permutations": 39}


def draw_sites(rng, share):
    """90 rows of two sites; the label follows the site by a share, the features too."""
    site = np.where(np.arange(90) % 2, "north", "river")
    north = site == "north"
    y = np.where(rng.random(90) < share, north, ~north).astype(int)
    X = rng.normal(size=(90, 8)) + 2.5 * north[:, None]
    return X, y, site


def test_site_that_gives_the_label_away_is_told_and_corrected_for(rng):
    X, y, site = draw_sites(rng, 0.88)
    with pytest.warns(ConfoundingWarning) as told:
        found = evaluate_probe(X, y, site=site, **FAST)
    assert found.auc.value > 0.75
    assert found.p_value <= 0.05
    assert found.corrected_auc.value < 0.65
    assert found.corrected_p_value > 0.05
    assert found.confound_auc.value > 0.75
    assert found.site_association > 0.5
    text = " ".join(str(warning.message) for warning in told)
    assert "site and label are confounded" in text
    assert "confounds and site alone reach" in text
    assert "the AUC falls from" in text
    assert len(found.findings) == 3


def test_effect_that_few_rows_cannot_show_is_not_said_to_fall():
    rng = np.random.default_rng(11)
    site, y = np.arange(36) % 6, rng.permutation(np.arange(36) // 6 % 2)
    X = rng.normal(size=(36, 4))
    X[:, 0] += y
    with pytest.warns(ConfoundingWarning, match="AUC goes from .* too few rows"):
        found = evaluate_probe(X, y, site=site, **FAST)
    assert found.p_value <= 0.05 < found.corrected_p_value
    assert found.corrected_auc.value > found.auc.value


def test_balanced_sites_give_no_warning_and_keep_the_effect(rng):
    X, y, site = draw_sites(rng, 0.5)
    X[:, 0] += 2.0 * y
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate_probe(X, y, site=site, **FAST)
    assert found.corrected_auc.value > 0.75
    assert found.corrected_p_value <= 0.05
    assert found.site_decoding.value > 0.9
    assert [site.site for site in found.leave_one_site_out] == ["north", "river"]
    assert found.findings == ()


def test_full_confounding_is_beyond_correction(rng):
    X, _, site = draw_sites(rng, 0.5)
    with pytest.warns(ConfoundingWarning) as told:
        found = evaluate_probe(X, (site == "north").astype(int), site=site, **FAST)
    assert "nothing can tell disease and site apart" in str(told[-1].message)
    assert np.isnan(found.corrected_auc.value)
    assert np.isnan(found.corrected_p_value)
    assert "corrected for them: AUC cannot be told, p cannot" in found.summary()
    assert all(np.isnan(site.auc) for site in found.leave_one_site_out)


def test_confounds_without_sites(rng):
    age = rng.uniform(50, 90, 80)
    y = np.where(age + rng.normal(0, 8, 80) > 70, "old", "new")
    X = rng.normal(size=(80, 6)) + 0.2 * age[:, None]
    with pytest.warns(ConfoundingWarning) as told:
        found = evaluate_probe(X, y, confounds=pd.DataFrame({"age": age}), **FAST)
    assert "confounds and site alone reach" in str(told[0].message)
    assert found.classes == ("new", "old")
    assert found.auc.value > 0.75 > found.corrected_auc.value
    assert found.site_decoding is None
    assert found.leave_one_site_out == ()


def test_confound_among_the_features_is_corrected_for(rng):
    sex = rng.integers(0, 2, 120)
    y = np.where(rng.random(120) < 0.95, sex, 1 - sex)
    X = np.column_stack([rng.normal(size=120), np.where(sex, -0.36, 0.13)])
    with pytest.warns(ConfoundingWarning):
        found = evaluate_probe(X, y, confounds=pd.DataFrame({"sex": sex}), **FAST)
    assert found.auc.value > 0.8
    assert found.corrected_auc.value < 0.65


def test_repeat_scans_do_not_confound_site_and_label(rng):
    y = np.repeat([0, 1], 10)
    site = np.array(["north"] * 6 + ["river"] * 8 + ["north"] * 4 + ["river"] * 2)
    once = evaluate_probe(rng.normal(size=(20, 4)), y, site=site, **FAST)
    people = np.repeat(np.arange(20), 12)
    found = evaluate_probe(
        rng.normal(size=(240, 4)), y[people], people, site[people], **FAST
    )
    assert found.site_association == pytest.approx(once.site_association)
    assert not [text for text in found.findings if "are confounded" in text]


def test_plain_evaluation_has_no_corrected_score(rng):
    y = np.repeat(np.arange(30) % 2, 2)
    X = rng.normal(size=(60, 5)) + y[:, None]
    found = evaluate_probe(X, y, np.repeat(np.arange(30), 2), **FAST)
    assert (found.n_rows, found.n_subjects) == (60, 30)
    assert found.corrected_auc is found.confound_auc is found.site_association is None
    assert [point.n_labels for point in found.learning_curve] == [10, 20]
    assert found.calibration.brier < found.calibration.brier_of_share


def test_duplicates_are_told(rng):
    X, y = rng.normal(size=(30, 4)), np.arange(30) % 2
    X[3] = X[1]
    with pytest.warns(LeakageWarning, match="2 rows have the same features"):
        found = evaluate_probe(X, y, **FAST)
    assert found.n_subjects == 29
    assert "2 rows" in found.findings[0]


@pytest.mark.parametrize("name", ["n_repeats", "n_permutations"])
def test_numbers_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"{name}=0"):
        evaluate_probe(np.eye(4), [0, 1, 0, 1], **{name: 0})
