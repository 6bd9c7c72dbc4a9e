import numpy as np
import pandas as pd
import pytest

from brainfeat.exceptions import InputError
from brainfeat.reporting.cohort import Cohort, find_column, join_participants

METADATA = pd.DataFrame(
    {"participant_id": ["sub-2", "sub-1", "sub-9"], "age": ["1", "2", "3"]}
)
LINES = pd.DataFrame(
    {"participant_id": ["1", "2"], "age": [50, 60], "dx": ["CN", "AD"]}
)


def build(known, label=None):
    rows = len(known)
    names = [f"sub-{i}" for i in range(rows)]
    return Cohort.build(np.zeros((rows, 2)), names, names, known, label=label)


def test_participants_join_by_name_with_or_without_prefix():
    joined = join_participants(METADATA, LINES, "p.tsv")
    assert joined["participant_id"].tolist() == ["sub-2", "sub-1", "sub-9"]
    assert joined["age"].tolist()[:2] == [60, 50]
    assert joined["dx"].tolist()[:2] == ["AD", "CN"]
    assert joined.iloc[2][["age", "dx"]].isna().all()


def test_rows_without_a_line_are_counted(caplog):
    names = [f"sub-{number:02d}" for number in range(1, 13)]
    lines = pd.DataFrame({"participant_id": map(str, range(1, 13)), "dx": ["CN"] * 12})
    joined = join_participants(pd.DataFrame({"participant_id": names}), lines, "p.csv")
    assert joined["dx"].notna().sum() == 3
    expected = "p.csv: no line for 9 of 12 rows, such as 01."
    assert caplog.messages == [expected]


def test_lines_of_sessions_join_by_session():
    rows = pd.DataFrame({"participant_id": ["sub-1", "sub-1", "sub-2"]})
    rows["session_id"] = ["ses-a", "ses-b", "ses-a"]
    lines = pd.DataFrame(
        {
            "participant_id": ["sub-2", "1", "1"],
            "session_id": ["a", "ses-b", "a"],
            "dx": ["CN", "AD", "MCI"],
        }
    )
    joined = join_participants(rows, lines, "p.tsv")
    assert joined["dx"].tolist() == ["MCI", "AD", "CN"]
    assert joined["session_id"].tolist() == rows["session_id"].tolist()
    # One line a participant is of all sessions, whichever it names.
    joined = join_participants(rows, lines[:2], "p.tsv")
    assert joined["dx"].tolist() == ["AD", "AD", "CN"]
    assert joined["session_id"].tolist() == rows["session_id"].tolist()
    with pytest.raises(InputError, match="participant 1, session a has more than"):
        join_participants(rows, pd.concat([lines, lines[2:]]), "p.tsv")


def test_sessions_without_a_line_are_counted(caplog):
    lines = pd.DataFrame({"participant_id": ["1", "1", "2"]})
    lines["session_id"] = pd.Series(["a", "b", None], dtype=object)
    lines["dx"] = ["MCI", "AD", "CN"]
    rows = pd.DataFrame({"participant_id": ["sub-1", "sub-1", "sub-2"]})
    rows["session_id"] = pd.Series(["ses-a", "ses-c", float("nan")], dtype=object)
    joined = join_participants(rows, lines, "p.tsv")
    assert joined["dx"].fillna("").tolist() == ["MCI", "", "CN"]
    expected = "no line for 1 of 3 rows, such as 1, session c."
    assert expected in caplog.text
    expected = "expected the participant_id with its session_id .* as 1, session none"
    with pytest.raises(InputError, match=expected):
        join_participants(rows[:1].assign(session_id=None), lines, "p.tsv")


def test_lines_without_a_name_are_ignored():
    empty = pd.DataFrame({"participant_id": [None, None], "age": [None, 7]})
    joined = join_participants(METADATA, pd.concat([LINES, empty]), "p.tsv")
    assert joined["age"].tolist()[:2] == [60, 50]


def test_capped_ages_are_numbers():
    cohort = build(pd.DataFrame({"age": ["61.5", "89+", None, "70"]}))
    np.testing.assert_array_equal(cohort.known["age"], [61.5, 89.0, np.nan, 70.0])
    known = pd.DataFrame({"age": ["old", "89+", None]})
    assert build(known).texts("age").tolist() == ["old", "89+", "unknown"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            LINES.rename(columns={"participant_id": "id"}),
            "a column participant_id, got",
        ),
        (pd.concat([LINES, LINES]), "participant 1 has more than one line"),
        (
            LINES.assign(participant_id=["7", "8"]),
            "expected the participant_id of the table",
        ),
    ],
)
def test_table_that_does_not_match_is_named(lines, message):
    with pytest.raises(InputError, match=rf"^p\.tsv: .*{message}"):
        join_participants(METADATA, lines, "p.tsv")


def test_columns_are_found_by_their_usual_names():
    known = pd.DataFrame(
        {"Scanner": ["a"], "AGE": [60], "sex": ["F"], "Diagnosis": [1], "site": [None]}
    )
    cohort = build(known)
    assert cohort.label == "Diagnosis"
    assert cohort.site == "Scanner"  # the column site is empty
    assert cohort.confounds == ["AGE", "sex"]
    assert find_column(known, ("weight",)) is None


def test_label_may_be_named():
    known = pd.DataFrame({"sex": ["F", "M"], "diagnosis": [0, 1]})
    cohort = build(known, "sex")
    assert cohort.label == "sex"
    assert cohort.confounds == []
    with pytest.raises(InputError, match="a column 'iq' of labels, got sex, diagnosis"):
        build(known, "iq")


def test_whole_numbers_have_no_decimal_point():
    known = pd.DataFrame({"diagnosis": [1.0, np.nan, 0.5]})
    assert build(known).texts("diagnosis").tolist() == ["1", "unknown", "0.5"]


def test_label_is_not_its_own_site():
    known = pd.DataFrame({"site": ["a", "b"], "scanner": ["x", "y"], "age": [50, 60]})
    assert build(known, "site").site == "scanner"
    assert build(known[["site", "age"]], "site").site is None
    assert build(known, "age").age is None


def test_given_confounds_replace_the_usual_ones():
    known = pd.DataFrame(
        {"group": [0, 1], "bmi": [20, 30], "site": ["a", "b"], "sex": ["F", "M"]}
    )
    names = ["sub-1", "sub-2"]
    confounds = ["group", "bmi", "site"]
    cohort = Cohort.build(np.zeros((2, 2)), names, names, known, confounds=confounds)
    assert cohort.label is None  # a confound is no label
    assert cohort.site == "site"
    assert cohort.confounds == ["group", "bmi"]
