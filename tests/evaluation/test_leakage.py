import numpy as np
import pytest

from brainfeat.evaluation.leakage import (
    association,
    duplicate_rows,
    warn_of_leakage,
)
from brainfeat.exceptions import InputError, LeakageWarning


def test_shared_subject_is_reported():
    with pytest.warns(LeakageWarning, match="1 subjects on both sides.*first sub-2"):
        assert warn_of_leakage(
            [0, 1], [2, 3], groups=["sub-1", "sub-2", "sub-2", "sub-3"]
        )


def test_shared_image_is_reported():
    with pytest.warns(LeakageWarning, match="1 identical images"):
        assert warn_of_leakage([0], [1], groups=["a", "b"], hashes=["c0ffee"] * 2)


def test_shared_row_is_reported():
    with pytest.warns(LeakageWarning, match="1 rows on both sides.*first 1"):
        assert warn_of_leakage([0, 1], [1, 2], hashes=["a", "b", "c"]) is True


def test_clean_split_gives_no_warning():
    assert warn_of_leakage(
        [0, 2], [1, 3], groups=list("abab"), hashes=list("wxyz")
    ) is (False)


def test_groups_or_hashes_are_needed():
    with pytest.raises(InputError, match="groups or hashes"):
        warn_of_leakage([0], [1])


def test_lowest_shared_row_is_named():
    with pytest.warns(LeakageWarning, match="2 rows on both sides.*first 9:"):
        warn_of_leakage([9, 10, 3], [10, 9], groups=range(12))


def test_empty_side_has_no_overlap():
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
def test_invalid_rows_and_columns_are_refused(train, groups, hashes, message):
    with pytest.raises(InputError, match=message):
        warn_of_leakage(train, [3], groups=groups, hashes=hashes)


def test_subjects_with_equal_rows_are_merged():
    features = np.array([[1.0, 2], [3, 4], [1, 2], [5, 6], [3, 4], [7, 8]])
    merged, n_duplicates = duplicate_rows(features, np.array([0, 1, 2, 3, 1, 2]))
    assert n_duplicates == 2  # rows 0 and 2; row 4 is subject 1 already
    assert merged[0] == merged[2] == merged[5]
    assert len(set(merged)) == 3


def test_association_is_cramers_v():
    labels = np.array([0, 0, 1, 1])
    assert association(labels, labels) == pytest.approx((1.0, 0.0455), abs=1e-4)
    assert association(labels, np.array([0, 1, 0, 1])) == (0.0, 1.0)
