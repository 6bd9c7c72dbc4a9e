import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation.confounds import ConfoundRegressor
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.exceptions import InputError, LeakageWarning

Y = ["AD", "CN", "AD", "CN", "AD", "CN"]
SITE = ["b", "a", "b", "a", "a", "b"]


def test_classes_sites_and_confounds_are_encoded(rng):
    confounds = pd.DataFrame({"age": [50, 60, 70, 80, 90, 55], "sex": list("FMFMFM")})
    data = LabelledFeatures.check(rng.normal(size=(6, 3)), Y, None, SITE, confounds)
    assert data.classes == ("CN", "AD")
    np.testing.assert_array_equal(data.labels, [True, False] * 3)
    assert data.site_names == ("a", "b")
    np.testing.assert_array_equal(data.confounds[0], [50, 1, 0, 0, 1])
    assert len(set(data.groups)) == 6


@pytest.mark.parametrize("name", ["y", "groups", "site", "confounds"])
def test_columns_in_another_order_are_refused(rng, name):
    X = pd.DataFrame(rng.normal(size=(6, 3)), index=list("abcdef"))
    columns = {"y": Y, "groups": list("uvwxyz"), "site": SITE, "confounds": SITE}
    columns[name] = pd.Series(columns[name], index=list("abcdef"))
    LabelledFeatures.check(X, **columns)
    LabelledFeatures.check(X.reset_index(drop=True), **columns)
    columns[name] = columns[name].iloc[::-1]
    with pytest.raises(InputError, match=rf"{name}: expected the index of X"):
        LabelledFeatures.check(X, **columns)
    LabelledFeatures.check(X.to_numpy(), **columns)


def test_adjustment_is_fitted_on_training_rows(rng):
    X = rng.normal(size=(6, 3))
    data = LabelledFeatures.check(X, Y, None, None, [[1], [2], [4], [8], [3], [5]])
    train = np.array([0, 1, 2, 3])
    table = np.hstack([X, data.confounds])
    expected = ConfoundRegressor([-1]).fit(table[train]).transform(table)
    np.testing.assert_allclose(data.adjust(train), expected)


def test_subjects_with_equal_rows_are_merged_with_a_warning(rng):
    X = rng.normal(size=(6, 3))
    X[4] = X[1]
    with pytest.warns(LeakageWarning, match="2 rows have the same features"):
        data = LabelledFeatures.check(X, Y, list("abcdef"), None, None)
    assert data.groups[4] == data.groups[1]
    assert "2 rows" in data.findings[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": ["a.nii.gz"] * 6}, "X: expected features.*BrainFoundEmbedder"),
        ({"X": np.ones(6)}, r"X: expected finite features.*\(6,\)"),
        ({"X": np.full((6, 2), np.nan)}, "with NaN or infinity"),
        ({"y": ["AD", "CN", "MCI"] * 2}, "y: expected two classes, got 3"),
        ({"y": Y[:5]}, "y: expected a value for each of 6 rows, got 5"),
        ({"site": [None, *SITE[1:]]}, "site: expected a value.*1 of them missing"),
        ({"groups": [1, 2]}, "groups: expected a value for each of 6 rows, got 2"),
        ({"confounds": [[1.0]] * 5}, "confounds: expected a value.*got 5 rows"),
        ({"confounds": [[np.nan]] * 6}, "confounds: .*6 of them with missing"),
    ],
)
def test_invalid_arguments_are_named(changes, message):
    values = {"X": np.eye(6), "y": Y, "groups": None, "site": SITE, "confounds": None}
    with pytest.raises(InputError, match=message):
        LabelledFeatures.check(**(values | changes))


def test_numbers_in_a_list_of_mixed_confounds_stay_numbers():
    X, y = np.arange(6.0)[:, None], ["a", "b"] * 3
    rows = [[40 + i, "mf"[i % 2]] for i in range(6)]
    confounds = LabelledFeatures.check(X, y, None, None, rows).confounds
    assert confounds.shape == (6, 3)
    np.testing.assert_array_equal(confounds[:, 0], 40 + np.arange(6))
