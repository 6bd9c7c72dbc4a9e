import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation.columns import Design, as_codes, check_order, split_columns
from brainfeat.exceptions import ConfigError, InputError

TABLE = pd.DataFrame(
    {"emb_000": [1.0, 2.0, 3.0], "site": ["b", "a", "b"], "age": [50, 60, 70]}
)


def test_named_columns_are_taken_out():
    features, chosen, names = split_columns(TABLE, ["age", "site"])
    np.testing.assert_array_equal(features, [[1.0], [2.0], [3.0]])
    assert list(chosen) == ["age", "site"]
    assert names == ["emb_000"]


@pytest.mark.parametrize("place", [2, -1])
def test_columns_of_an_array_are_taken_by_position(place):
    features, chosen, _ = split_columns(np.arange(12.0).reshape(4, 3), [place])
    np.testing.assert_array_equal(features[:, 0], [0, 3, 6, 9])
    np.testing.assert_array_equal(chosen.to_numpy()[:, 0], [2, 5, 8, 11])


@pytest.mark.parametrize(
    ("table", "columns", "error", "message"),
    [
        (TABLE, "age", ConfigError, "expected a list of columns, got 'age'"),
        (TABLE, ["sex"], InputError, "one column 'sex', got 0 among 3"),
        (TABLE, ["age"], InputError, "expected features that are numbers"),
        (TABLE.assign(age=[50, None, 70]), ["age", "site"], InputError, "row of age"),
        (TABLE.assign(emb_000=np.nan), ["age", "site"], InputError, "finite features"),
    ],
)
def test_what_cannot_be_used_is_named(table, columns, error, message):
    with pytest.raises(error, match=message):
        split_columns(table, columns)


def test_numbers_stay_and_text_becomes_a_column_a_level():
    design = Design.learn(TABLE[["age", "site"]])
    expected = [[50, 0, 1], [60, 1, 0], [70, 0, 1]]
    np.testing.assert_array_equal(design.apply(TABLE[["age", "site"]]), expected)


def test_categories_are_no_numbers_whatever_they_are_called():
    scanner = pd.DataFrame({"scanner": pd.Categorical([3, 1, 3])})
    expected = [[0, 1], [1, 0], [0, 1]]
    np.testing.assert_array_equal(Design.learn(scanner).apply(scanner), expected)
    one = pd.DataFrame({"country": pd.Categorical(["PE", "PE"])})
    np.testing.assert_array_equal(Design.learn(one).apply(one), [[1], [1]])


def test_numbers_of_numpy_in_a_column_of_objects_are_numbers():
    ages = pd.DataFrame({"age": pd.Series([np.int64(61), np.float32(70)], dtype="O")})
    np.testing.assert_array_equal(Design.learn(ages).apply(ages), [[61], [70]])


def test_columns_may_have_one_name():
    twice = pd.DataFrame([["a", 2.0], ["b", 3.0]], columns=["c", "c"])
    expected = [[1, 0, 2], [0, 1, 3]]
    np.testing.assert_array_equal(Design.learn(twice).apply(twice), expected)


def test_flags_are_numbers():
    flags = pd.DataFrame({"left_handed": [True, False]})
    np.testing.assert_array_equal(Design.learn(flags).apply(flags), [[1], [0]])


def test_level_that_was_not_learnt_is_refused():
    design = Design.learn(TABLE[["site"]])
    with pytest.raises(InputError, match=r"site: expected one of a, b.*got c"):
        design.apply(pd.DataFrame({"site": ["c"]}))


def test_other_columns_than_the_learnt_ones_are_refused():
    design = Design.learn(TABLE[["age", "site"]])
    message = "X: expected the columns that were fitted, in their order: age at"
    with pytest.raises(InputError, match=message):
        design.apply(TABLE[["site", "age"]])
    with pytest.raises(InputError, match="2 columns that were fitted, got 1"):
        design.apply(TABLE[["age"]])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.inf, "age: expected finite numbers"),
        ("old", r"age: expected numbers, as in the rows that were fitted \(could not"),
    ],
)
def test_what_is_no_finite_number_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        Design.learn(TABLE[["age"]]).apply(pd.DataFrame({"age": [value]}))


def test_codes_count_the_names_in_their_order():
    codes, names = as_codes("site", pd.Series(["b", "a", "b"], index=[7, 8, 9]), 3)
    assert names == ("a", "b")
    np.testing.assert_array_equal(codes, [1, 0, 1])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_value_is_no_name(missing):
    with pytest.raises(InputError, match=r"site: .* 3 rows, got 3 values, 1 of"):
        as_codes("site", ["a", "b", missing], 3)


def test_one_order_of_rows_may_come_in_two_types_of_index():
    table = TABLE.set_index(pd.Index([7, 3, 5], dtype="Int64"))
    y = pd.Series(["AD", "CN", "CN"], index=[7, 3, 5])
    check_order(table, y=y)
    check_order(y, confounds=table)
    with pytest.raises(InputError, match="y: expected the rows of X in their order"):
        check_order(table, y=y.sort_index())
