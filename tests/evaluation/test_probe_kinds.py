"""Several classes and numbers through all parts of `evaluate_probe`."""

import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation import evaluate_probe
from brainfeat.exceptions import ConfoundingWarning

FAST = {"n_repeats": 1, "n_permutations": 19}


@pytest.fixture
def cohort(rng):
    """Ages, sites of other ages, and features that show both."""
    site = np.array(["east", "north", "river"])[np.arange(78) % 3]
    age = rng.uniform(40, 70, 78) + 25.0 * (site == "river")
    X = rng.normal(size=(78, 7))
    X[:, 0] += 3.0 * (site == "river")
    return X, age, site


def test_number_that_goes_with_the_site_is_reported_and_corrected_for(cohort):
    X, age, site = cohort
    with pytest.warns(ConfoundingWarning) as record:
        result = evaluate_probe(X, age, site=site, **FAST)
    text = " ".join(str(warning.message) for warning in record)
    assert "site and label are confounded" in text
    means = [age[site == name].mean() for name in np.unique(site)]
    assert f"mean by site: east {means[0]:.4g}, north {means[1]:.4g}" in text
    assert "confounds and site alone reach an R2 of" in text
    assert result.r2.value > 0.2 > result.corrected_auc.value
    assert len(result.leave_one_site_out) == 3
    assert "AUC" not in result.summary()


def test_number_that_features_show_survives_the_correction(cohort):
    X, age, site = cohort
    X[:, 1] += 0.2 * age
    with pytest.warns(ConfoundingWarning):
        result = evaluate_probe(X, age, site=site, **FAST)
    assert result.corrected_auc.value > 0.4
    assert result.corrected_p_value == 1 / 20
    assert all(point.auc.value < 1.0 for point in result.learning_curve)


def test_modalities_that_go_with_the_site_give_a_common_subset(cohort):
    X, age, _ = cohort
    y = np.array(["low", "middle", "high"])[np.digitize(age, [55, 70])]
    X[:, 1] += 0.3 * age
    modalities = np.where(np.arange(78) % 2, "T1w", "T1w+FLAIR")
    site = np.where(np.arange(78) % 2, "a", "b")
    with pytest.warns(ConfoundingWarning) as record:
        result = evaluate_probe(
            X,
            y,
            site=site,
            modalities=modalities,
            confounds=pd.DataFrame({"x": X[:, 6]}),
            **FAST,
        )
    assert "which modalities a row has" in str(record[0].message)
    assert result.common.n_rows == 39
    assert result.auc.value > 0.8
    assert result.corrected_auc.value > 0.7
