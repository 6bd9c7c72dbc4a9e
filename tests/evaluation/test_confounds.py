import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from brainfeat.evaluation.confounds import ConfoundRegressor
from brainfeat.exceptions import InputError


@pytest.fixture
def table(rng):
    frame = pd.DataFrame(rng.normal(size=(40, 3)), columns=["emb_0", "emb_1", "emb_2"])
    frame["age"] = rng.uniform(50, 90, 40)
    frame["site"] = rng.choice(["north", "river"], 40)
    frame["emb_0"] += 0.3 * frame["age"] + 2.0 * (frame["site"] == "river")
    return frame


def test_equals_residuals_of_linear_regression(table):
    adjusted = ConfoundRegressor(["age", "site"]).fit_transform(table)
    confounds = np.column_stack([table["age"], table["site"] == "river"])
    features = table[["emb_0", "emb_1", "emb_2"]].to_numpy()
    model = LinearRegression().fit(confounds, features)
    expected = features - model.predict(confounds) + features.mean(axis=0)
    np.testing.assert_allclose(adjusted, expected, atol=1e-9)


def test_fully_explained_feature_becomes_constant(table):
    """Rounding residues would encode the site."""
    table["emb_1"] = np.where(table["site"] == "river", 0.7, -0.9)
    adjusted = ConfoundRegressor(["age", "site"]).fit(table[:30]).transform(table)
    assert np.ptp(adjusted[:, 1]) == 0


def test_test_rows_are_adjusted_by_training_rows(table):
    model = ConfoundRegressor(["age", "site"]).fit(table.head(25))
    together = model.transform(table.tail(15))
    alone = np.concatenate([model.transform(table.iloc[[i]]) for i in range(25, 40)])
    np.testing.assert_allclose(together, alone)
    other = clone(model).fit(table).transform(table.tail(15))
    assert not np.allclose(other, together)


def test_output_names_are_the_features(table):
    model = ConfoundRegressor(["site", "age"]).set_output(transform="pandas")
    assert list(model.fit_transform(table)) == ["emb_0", "emb_1", "emb_2"]


def test_works_in_a_cross_validated_pipeline_and_on_arrays(table):
    y = np.arange(40) % 2
    model = make_pipeline(ConfoundRegressor(["age", "site"]), LogisticRegression())
    scores = cross_val_score(model, table, y, cv=4)
    array = table.assign(site=(table["site"] == "river").astype(float)).to_numpy()
    model = make_pipeline(ConfoundRegressor([3, -1]), LogisticRegression())
    np.testing.assert_allclose(scores, cross_val_score(model, array, y, cv=4))


def test_features_must_be_those_that_were_fitted(table):
    model = ConfoundRegressor(["age", "site"]).fit(table)
    moved = table[["site", "emb_0", "age", "emb_1", "emb_2"]]
    np.testing.assert_array_equal(model.transform(moved), model.transform(table))
    for other, message in (
        (table[["emb_1", "emb_0", "emb_2", "age", "site"]], "emb_0 at position 0"),
        (table.rename(columns={"emb_2": "thickness"}), "got thickness"),
        (table.drop(columns="emb_2"), "the 3 features that were fitted, got 2"),
    ):
        with pytest.raises(InputError, match=message):
            model.transform(other)


def test_confounds_by_position_must_be_those_that_were_fitted(table):
    table["weight"] = 70.0
    model = ConfoundRegressor([-1]).fit(table.drop(columns="site"))
    swapped = table[["emb_0", "emb_1", "emb_2", "weight", "age"]]
    with pytest.raises(InputError, match="age at position 3, got weight"):
        model.transform(swapped)


def test_infinite_confounds_are_refused(table):
    table.loc[3, "age"] = np.inf
    with pytest.raises(InputError, match="age: expected finite numbers"):
        ConfoundRegressor(["age"]).fit(table.drop(columns="site"))
