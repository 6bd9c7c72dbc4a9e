import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation.shared_rows import find_shared_rows, read_features
from brainfeat.exceptions import InputError


def table(names, **columns):
    return pd.DataFrame({"participant_id": names, **columns})


def test_rows_of_all_tables_are_joined_whatever_their_order():
    shared = find_shared_rows(
        {
            "a": table(["sub-03", "sub-01", "sub-02"]),
            "b": table(["01", "04", "03"]),
        }
    )
    assert shared.participants == ["03", "01"]
    assert shared.positions["a"].tolist() == [0, 1]
    assert shared.positions["b"].tolist() == [2, 0]
    assert shared.n_others == {"a": 1, "b": 1}


def test_sessions_and_runs_tell_rows_apart():
    names, sessions = ["1", "1", "1"], ["ses-a", "ses-a", "b"]
    one = table(names, session_id=sessions, run=[1.0, 2.0, np.nan])
    other = one.iloc[[2, 1]].assign(run=[None, "2"])
    shared = find_shared_rows({"one": one, "other": other})
    assert shared.keys == [("1", "a", "2"), ("1", "b", "")]
    assert shared.positions["other"].tolist() == [1, 0]


def test_file_names_tell_repeats_apart():
    files = ["/x/1_T1w.nii", "/x/2_T1w.nii"]
    one = table(["1", "1"], image=files)
    other = table(["1"], image=["/y/2_T1w.nii"])
    shared = find_shared_rows({"one": one, "other": other})
    assert shared.positions["one"].tolist() == [1]
    with pytest.raises(InputError, match=r"b: expected one row .* got 2 of 1"):
        find_shared_rows({"a": one, "b": table(["1", "1"])})


def test_tables_without_common_rows_are_refused():
    with pytest.raises(InputError, match="none: a has 1 and 1 more; b has 7"):
        find_shared_rows({"a": table(["1", "2"]), "b": table(["7"])})


def test_values_are_aligned_by_name_or_by_position():
    shared = find_shared_rows({"a": table(["1", "2", "3"]), "b": table(["3", "1"])})
    assert shared.align("y", ["x", "y", "z"]) == ["x", "z"]
    by_name = pd.Series(["c", "a"], index=["sub-3", "sub-1"])
    assert shared.align("y", by_name) == ["a", "c"]
    assert shared.align("y", by_name.iloc[:1]) == [None, "c"]
    with pytest.raises(InputError, match="y: expected a Series by participant"):
        shared.align("y", ["x", "z"])
    with pytest.raises(InputError, match="such as 1, got none"):
        shared.align("y", pd.Series([1], index=["nobody"]))
    with pytest.raises(InputError, match="several of sub-1"):
        shared.align("y", pd.Series([1, 2], index=["sub-1", "sub-1"]))


def test_values_by_session():
    rows = table(["1", "1"], session_id=["a", "b"])
    shared = find_shared_rows({"one": rows, "two": rows})
    index = pd.MultiIndex.from_tuples([("sub-1", "ses-b"), ("sub-1", "ses-a")])
    assert shared.align("y", pd.Series([2, 1], index=index)) == [1, 2]


def test_features_are_the_columns_of_embeddings():
    rows = table(["1", "2"], emb_000=[1, 2], emb_001=[3, 4])
    np.testing.assert_array_equal(read_features("a", rows), [[1, 3], [2, 4]])
    plain = pd.DataFrame({"x": [1.0, 2.0]})
    assert read_features("a", plain).shape == (2, 1)
    with pytest.raises(
        InputError, match=r"a: .*\(n_rows, n_features\), got shape \(3,"
    ):
        read_features("a", [1, 2, 3])
    with pytest.raises(InputError, match="a: expected numeric"):
        read_features("a", pd.DataFrame({"x": ["u", "v"]}))
