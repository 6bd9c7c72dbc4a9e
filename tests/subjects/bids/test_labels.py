import pytest

from brainfeat.subjects.bids.labels import (
    join_participants,
    read_participants,
    read_sessions,
)


def test_participants_are_read_with_and_without_prefix(tmp_path):
    (tmp_path / "participants.tsv").write_text(
        "\ufeffparticipant_id\tage\tsite\nsub-01\t71\tn/a\n02\t64\nsub-09\t1\tx\ty\n"
    )
    assert read_participants(tmp_path) == {
        "sub-01": {"age": "71", "site": None},
        "sub-02": {"age": "64", "site": None},
        "sub-09": {"age": "1", "site": "x"},
    }


def test_blanks_around_cells_are_stripped(tmp_path):
    (tmp_path / "participants.tsv").write_text(
        "participant_id \tage\t sex\t\nsub-01 \t71 \tF\t\n\n02\t n/a\n"
    )
    assert read_participants(tmp_path) == {
        "sub-01": {"age": "71", "sex": "F"},
        "sub-02": {"age": None, "sex": None},
    }


def test_missing_values_of_r_and_pandas_are_none(tmp_path):
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text("session_id\tage\n1\tnan\n")
    lines = "sub-01\t71\nsub-02\tNA\nsub-NA\tNaN\n"
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\n{lines}")
    ages = {name: line["age"] for name, line in read_participants(tmp_path).items()}
    assert ages == {"sub-01": "71", "sub-02": None, "sub-NA": None}
    assert read_sessions(tmp_path / "sub-01") == {"ses-1": {"age": None}}


@pytest.mark.parametrize(
    ("text", "message", "n_known"),
    [
        ("id\tage\nsub-01\t71\n", "expected a column participant_id, got id, age;", 0),
        ("", "expected a column participant_id, got none;", 0),
        (
            'participant_id\tnote\nsub-01\tx\nsub-02\t"open\nsub-03\tz\n',
            "damaged after sub-01 (a quote that is not closed);",
            1,
        ),
        (
            'participant_id\tnote\nsub-01\t"open\n' + "sub-03\tz\n" * 20_000,
            "damaged after the names of its columns (field larger than field limit",
            0,
        ),
    ],
)
def test_unreadable_participants_are_a_warning(
    tmp_path, caplog, text, message, n_known
):
    path = tmp_path / "participants.tsv"
    path.write_text(text)
    assert len(read_participants(tmp_path)) == n_known
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: {message}")


def test_a_broken_link_to_participants_is_a_warning(tmp_path, caplog):
    (tmp_path / "participants.tsv").symlink_to(tmp_path / "annexed")
    assert read_participants(tmp_path) == {}
    assert "a link to no file" in caplog.text


def test_annexed_participants_without_content_say_datalad_get(tmp_path, caplog):
    (tmp_path / "participants.tsv").symlink_to(".git/annex/objects/x/MD5E-s1--0a")
    assert read_participants(tmp_path) == {}
    assert "fetch the file with datalad get; its columns are left out" in caplog.text


@pytest.mark.parametrize(
    ("encoding", "sites", "message"),
    [
        (
            "cp1252",
            ["K\ufffdln", "M\ufffdnchen", "Bonn"],
            "characters of 2 values were",
        ),
        ("utf-16", [], "text in UTF-16; save the table as UTF-8 CSV"),
    ],
)
def test_participants_that_are_not_utf8_are_a_warning(
    tmp_path, caplog, encoding, sites, message
):
    path = tmp_path / "participants.tsv"
    text = "participant_id\tsite\nsub-1\tKöln\nsub-2\tMünchen\nsub-3\tBonn\n"
    path.write_bytes(text.encode(encoding))
    found = [line["site"] for line in read_participants(tmp_path).values()]
    assert found == sites
    (line,) = caplog.messages
    assert line.startswith(f"{path}: ")
    assert message in line


@pytest.mark.parametrize(
    ("ids", "names", "ages"),
    [
        (["1", "2"], ["sub-001", "sub-002"], {"sub-001": "50", "sub-002": "51"}),
        (["sub-1", "02"], ["sub-01", "sub-2"], {"sub-01": "50", "sub-2": "51"}),
        (["1", "01"], ["sub-001"], {}),
        (["1"], ["sub-1", "sub-01"], {"sub-1": "50"}),
        (["A1"], ["sub-B1"], {}),
    ],
)
def test_ids_are_joined_without_leading_zeros(tmp_path, caplog, ids, names, ages):
    lines = [f"{label}\t{50 + i}" for i, label in enumerate(ids)]
    (tmp_path / "participants.tsv").write_text(
        "\n".join(["participant_id\tage", *lines])
    )
    joined = join_participants(tmp_path, names)
    assert {name: line["age"] for name, line in joined.items()} == ages
    message = f"0 of {len(names)} participants matched"
    assert (message in caplog.text) == (not ages)


def test_repeated_ids_are_a_warning_and_the_last_line_counts(tmp_path, caplog):
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\nsub-01\t20\nsub-02\t30\n01\t40\n")
    assert read_participants(tmp_path) == {
        "sub-01": {"age": "40"},
        "sub-02": {"age": "30"},
    }
    assert "1 lines repeat a participant_id (sub-01)" in caplog.text
