import numpy as np
import pytest

from brainfeat.evaluation.leakage import (
    duplicate_rows,
    site_association,
    warn_of_leakage,
)
from brainfeat.exceptions import InputError, LeakageWarning


def test_subject_on_both_sides_is_told():
    with pytest.warns(LeakageWarning, match="1 subjects on both sides.*first sub-2"):
        assert warn_of_leakage(
            [0, 1], [2, 3], groups=["sub-1", "sub-2", "sub-2", "sub-3"]
        )


def test_content_on_both_sides_is_told():
    with pytest.warns(LeakageWarning, match="1 images of the same content"):
        assert warn_of_leakage([0], [1], groups=["a", "b"], hashes=["c0ffee"] * 2)


def test_row_on_both_sides_is_told():
    with pytest.warns(LeakageWarning, match="1 rows on both sides.*first 1"):
        assert warn_of_leakage([0, 1], [1, 2], hashes=["a", "b", "c"]) is True


def test_clean_split_is_silent():
    assert warn_of_leakage(
        [0, 2], [1, 3], groups=list("abab"), hashes=list("wxyz")
    ) is (False)


def test_something_to_compare_is_needed():
    with pytest.raises(InputError, match="groups or hashes"):
        warn_of_leakage([0], [1])


def test_first_row_is_the_lowest_one():
    with pytest.warns(LeakageWarning, match="2 rows on both sides.*first 9:"):
        warn_of_leakage([9, 10, 3], [10, 9], groups=range(12))


def test_empty_side_shares_nothing():
    assert warn_of_leakage([0, 1], [], groups=["a", "b"]) is False


@pytest.mark.parametrize(
    ("train", "groups", "hashes", "message"),
    [
        ([0, -1], list("aabc"), None, "train: expected rows from 0 to 3, got -1"),
        ([4], None, list("abcd"), "train: expected rows from 0 to 3, got 4"),
        ([True, False], list("abcd"), None, "from 0 to 3, got a mask"),
        ([0], list("abcd"), list("abc"), "hashes: expected a value for each of 4 rows"),
        ([0], ["a", None, "b", float("nan")], None, "4 values, 2 of them missing"),
    ],
)
def test_rows_that_are_not_told_of_are_refused(train, groups, hashes, message):
    with pytest.raises(InputError, match=message):
        warn_of_leakage(train, [3], groups=groups, hashes=hashes)


def test_subjects_with_equal_rows_are_joined():
    features = np.array([[1.0, 2], [3, 4], [1, 2], [5, 6], [3, 4], [7, 8]])
    joined, n_duplicates = duplicate_rows(features, np.array([0, 1, 2, 3, 1, 2]))
    assert n_duplicates == 2  # rows 0 and 2; row 4 is told as subject 1 already
    assert joined[0] == joined[2] == joined[5]
    assert len(set(joined)) == 3


def test_association_is_that_of_the_table():
    labels = np.array([0, 0, 1, 1])
    assert site_association(labels, labels) == pytest.approx((1.0, 0.0455), abs=1e-4)
    assert site_association(labels, np.array([0, 1, 0, 1])) == (0.0, 1.0)
