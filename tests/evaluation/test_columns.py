import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation.columns import Encoding, as_codes, check_order, split_columns
from brainfeat.exceptions import ConfigError, InputError

TABLE = pd.DataFrame(
    {"emb_000": [1.0, 2.0, 3.0], "site": ["b", "a", "b"], "age": [50, 60, 70]}
)


def test_named_columns_are_separated():
    features, selected, names = split_columns(TABLE, ["age", "site"])
    np.testing.assert_array_equal(features, [[1.0], [2.0], [3.0]])
    assert list(selected) == ["age", "site"]
    assert names == ["emb_000"]


@pytest.mark.parametrize("position", [2, -1])
def test_array_columns_are_separated_by_position(position):
    features, selected, _ = split_columns(np.arange(12.0).reshape(4, 3), [position])
    np.testing.assert_array_equal(features[:, 0], [0, 3, 6, 9])
    np.testing.assert_array_equal(selected.to_numpy()[:, 0], [2, 5, 8, 11])


@pytest.mark.parametrize(
    ("table", "columns", "error", "message"),
    [
        (TABLE, "age", ConfigError, "expected a list of columns, got 'age'"),
        (TABLE, ["sex"], InputError, "one column 'sex', got 0 among 3"),
        (TABLE, ["age"], InputError, "expected numeric features"),
        (TABLE.assign(age=[50, None, 70]), ["age", "site"], InputError, "row of age"),
        (TABLE.assign(emb_000=np.nan), ["age", "site"], InputError, "finite features"),
    ],
)
def test_invalid_columns_are_named(table, columns, error, message):
    with pytest.raises(error, match=message):
        split_columns(table, columns)


def test_numbers_are_kept_and_text_is_one_hot():
    encoding = Encoding.learn(TABLE[["age", "site"]])
    expected = [[50, 0, 1], [60, 1, 0], [70, 0, 1]]
    np.testing.assert_array_equal(encoding.apply(TABLE[["age", "site"]]), expected)


def test_numeric_categories_are_one_hot():
    scanner = pd.DataFrame({"scanner": pd.Categorical([3, 1, 3])})
    expected = [[0, 1], [1, 0], [0, 1]]
    np.testing.assert_array_equal(Encoding.learn(scanner).apply(scanner), expected)
    one = pd.DataFrame({"country": pd.Categorical(["PE", "PE"])})
    np.testing.assert_array_equal(Encoding.learn(one).apply(one), [[1], [1]])


def test_numpy_numbers_in_an_object_column_are_numeric():
    ages = pd.DataFrame({"age": pd.Series([np.int64(61), np.float32(70)], dtype="O")})
    np.testing.assert_array_equal(Encoding.learn(ages).apply(ages), [[61], [70]])


def test_columns_may_share_a_name():
    twice = pd.DataFrame([["a", 2.0], ["b", 3.0]], columns=["c", "c"])
    expected = [[1, 0, 2], [0, 1, 3]]
    np.testing.assert_array_equal(Encoding.learn(twice).apply(twice), expected)


def test_booleans_are_numeric():
    flags = pd.DataFrame({"left_handed": [True, False]})
    np.testing.assert_array_equal(Encoding.learn(flags).apply(flags), [[1], [0]])


def test_unknown_level_is_refused():
    encoding = Encoding.learn(TABLE[["site"]])
    with pytest.raises(InputError, match=r"site: expected one of a, b.*got c"):
        encoding.apply(pd.DataFrame({"site": ["c"]}))


def test_other_columns_are_refused():
    encoding = Encoding.learn(TABLE[["age", "site"]])
    message = "X: expected the columns that were fitted, in their order: age at"
    with pytest.raises(InputError, match=message):
        encoding.apply(TABLE[["site", "age"]])
    with pytest.raises(InputError, match="2 columns that were fitted, got 1"):
        encoding.apply(TABLE[["age"]])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.inf, "age: expected finite numbers"),
        ("old", r"age: expected numbers, as in the rows that were fitted \(could not"),
    ],
)
def test_values_that_are_not_finite_numbers_are_refused(value, message):
    with pytest.raises(InputError, match=message):
        Encoding.learn(TABLE[["age"]]).apply(pd.DataFrame({"age": [value]}))


def test_codes_index_the_sorted_names():
    codes, names = as_codes("site", pd.Series(["b", "a", "b"], index=[7, 8, 9]), 3)
    assert names == ("a", "b")
    np.testing.assert_array_equal(codes, [1, 0, 1])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_value_is_refused(missing):
    with pytest.raises(InputError, match=r"site: .* 3 rows, got 3 values, 1 of"):
        as_codes("site", ["a", "b", missing], 3)


def test_order_is_compared_across_index_dtypes():
    table = TABLE.set_index(pd.Index([7, 3, 5], dtype="Int64"))
    y = pd.Series(["AD", "CN", "CN"], index=[7, 3, 5])
    check_order(table, y=y)
    check_order(y, confounds=table)
    with pytest.raises(InputError, match="y: expected the index of X"):
        check_order(table, y=y.sort_index())
