import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from brainfeat.evaluation.harmonization import SiteHarmonizer
from brainfeat.exceptions import InputError

SITE = list("aabbabcbc")
AGE = [61.0, 70.0, 55.0, 68.0, 77.0, 59.0, 72.0, 80.0, 66.0]
FEATURES = [
    [0.42, -1.43, 1.1, 1.64],
    [2.54, 1.62, 1.12, 0.62],
    [2.85, 6.37, 1.54, -1.13],
    [1.4, 6.56, 1.76, -1.37],
    [1.46, -0.79, 1.23, 1.05],
    [1.47, 4.29, 1.45, -0.41],
    [1.85, 3.1, 0.62, 1.18],
    [1.62, 3.25, 1.26, 0.62],
    [1.28, 0.71, 0.8, 0.92],
]
# What neuroCombat 0.2.12 gives for these, with age preserved; it iterates to 1e-4.
REFERENCE = [
    [0.86621, 1.28196, 1.16471, 0.9165],
    [2.46883, 3.61526, 1.1742, 0.17465],
    [2.48534, 3.92605, 1.27672, -0.33371],
    [1.27384, 4.00691, 1.43589, -0.44577],
    [1.64485, 1.67122, 1.26026, 0.55793],
    [1.33614, 2.18771, 1.20203, 0.26573],
    [2.06234, 3.92128, 1.06282, 0.6135],
    [1.45129, 1.20776, 1.03145, 1.21681],
    [1.30605, 1.31477, 1.28016, 0.32237],
]


@pytest.fixture
def table():
    frame = pd.DataFrame(FEATURES, columns=["f0", "f1", "f2", "f3"])
    return frame.assign(site=SITE, age=AGE)


@pytest.fixture
def cohort(rng):
    """60 rows of three sites that shift and scale 12 features."""
    site = np.arange(60) % 3
    rows = rng.normal(size=(60, 12)) * (1.0 + 0.5 * site[:, None])
    rows += site[:, None] * rng.normal(2.0, 0.3, size=12)
    return pd.DataFrame(rows).assign(site=site.astype(str)).rename(columns=str)


def test_equals_the_reference_implementation(table):
    harmonised = SiteHarmonizer("site", ["age"]).fit_transform(table)
    np.testing.assert_allclose(harmonised, REFERENCE, atol=1e-3)


def test_harmonised_sites_have_one_location_and_scale(cohort):
    harmonised = SiteHarmonizer("site").fit_transform(cohort)
    parts = [harmonised[cohort["site"] == name] for name in "012"]
    means = np.stack([part.mean(axis=0) for part in parts])
    spreads = np.stack([part.std(axis=0) for part in parts])
    assert np.ptp(means, axis=0).max() < 0.7
    assert np.ptp(np.log(spreads.mean(axis=1))) < 0.1
    before = cohort.groupby("site").mean()
    assert np.ptp(before.to_numpy(), axis=0).min() > 2


def test_test_rows_are_harmonised_by_training_rows(cohort):
    model = SiteHarmonizer("site").fit(cohort.head(45))
    together = model.transform(cohort.tail(15))
    alone = [model.transform(cohort.iloc[[i]])[0] for i in range(45, 60)]
    np.testing.assert_allclose(together, alone)


def test_works_in_a_cross_validated_pipeline(cohort, rng):
    flips = rng.random(60) < 0.1
    y = np.where(flips, cohort["site"] != "2", cohort["site"] == "2").astype(int)
    plain = make_pipeline(LogisticRegression(max_iter=1000))
    model = make_pipeline(SiteHarmonizer("site"), LogisticRegression(max_iter=1000))
    naive = cross_val_score(plain, cohort.drop(columns="site"), y, cv=4).mean()
    assert cross_val_score(model, cohort, y, cv=4).mean() < naive - 0.1


def test_constant_features_give_finite_values():
    table = np.column_stack([np.ones(6), np.arange(6), [0, 0, 0, 1, 1, 1]])
    assert np.isfinite(SiteHarmonizer(-1).fit_transform(table)).all()


def test_feature_that_encodes_the_site_changes_no_other(cohort):
    alone = SiteHarmonizer("site").fit_transform(cohort)
    encoding = 0.6 * (cohort["site"] == "1") + 0.1  # not exact in binary
    harmonised = SiteHarmonizer("site").fit_transform(cohort.assign(encoding=encoding))
    np.testing.assert_allclose(harmonised[:, :-1], alone, atol=1e-9)
    np.testing.assert_allclose(harmonised[:, -1], encoding.mean(), atol=1e-9)


def test_one_varying_feature_is_enough(cohort):
    table = cohort[["0", "site"]].assign(constant=0.3)
    harmonised = SiteHarmonizer("site").fit_transform(table)
    parts = [harmonised[cohort["site"] == name, 0] for name in "012"]
    np.testing.assert_allclose([part.mean() for part in parts], harmonised[:, 0].mean())


@pytest.mark.parametrize(
    ("site", "message"),
    [(list("aabbabcbb"), "two rows of each site, got 4 features and 1 of c")],
)
def test_site_with_a_single_row_is_refused(table, site, message):
    with pytest.raises(InputError, match=message):
        SiteHarmonizer("site", ["age"]).fit(table.assign(site=site))


def test_unseen_site_is_refused(table):
    model = SiteHarmonizer("site", ["age"]).fit(table)
    with pytest.raises(InputError, match=r"site: expected one of a, b, c.*got d"):
        model.transform(table.assign(site="d"))


def test_output_names_are_the_features(table):
    model = SiteHarmonizer("site", ["age"]).set_output(transform="pandas")
    assert list(model.fit_transform(table)) == ["f0", "f1", "f2", "f3"]


def test_features_must_be_those_that_were_fitted(table):
    model = SiteHarmonizer("site", ["age"]).fit(table)
    moved = table[["age", "f0", "f1", "site", "f2", "f3"]]
    np.testing.assert_array_equal(model.transform(moved), model.transform(table))
    with pytest.raises(InputError, match="f0 at position 0, got f1"):
        model.transform(table[["f1", "f0", "f2", "f3", "site", "age"]])
    with pytest.raises(InputError, match="age: expected finite numbers"):
        model.transform(table.assign(age=-np.inf))
