import csv

import pytest

from brainfeat.io.delimited_rows import (
    DelimitedError,
    read_records,
    read_rows,
    read_value,
    write_rows,
)


@pytest.mark.parametrize("delimiter", [",", "\t"], ids=["comma", "tab"])
def test_rows_survive_writing_and_reading(tmp_path, delimiter):
    path = tmp_path / "table.txt"
    rows = [
        ["a\rb", "sub-01\r", "c\nd", "e\r\nf", "\r\n"],
        ['"', ",", "\t", "", " x "],
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, iter(rows), delimiter)
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file, delimiter=delimiter)) == rows
    assert [cells for _, cells in read_rows(path, delimiter)] == rows


def test_lines_end_in_a_line_feed_alone(tmp_path):
    path = tmp_path / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, [("a", 1), (None, 2)], ",")
    assert path.read_bytes() == b"a,1\n,2\n"


@pytest.mark.parametrize("text", ["", "  ", "n/a", "NA", " NaN ", "None", "#N/A"])
def test_missing_value_is_none(text):
    assert read_value(text) is None
    assert read_value(f"x{text}x") == f"x{text}x"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "id, age ,site\n01,71,n/a\n\n02,,A"),
        ("a.CSV", "id;age;site\n01;71;n/a\n\n02;;A\n"),
        ("a.tsv", "\ufeffid\tage\tsite\t\n01\t71\tn/a\t\n\n02\tNaN\t A\n"),
    ],
)
def test_records_have_a_value_per_named_column(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    names, records = read_records(path, unique=["id"])
    assert names == ["id", "age", "site"]
    assert records == {
        2: {"id": "01", "age": "71", "site": None},
        4: {"id": "02", "age": None, "site": "A"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"id,id\n1,2\n", "2 columns are named id"),
        (b"id,age\n1,2,3\n", "line 2: expected 2 cells, got 3"),
        (b'id,age\n1,"2\n3,4\n', "unexpected end of data"),
        (b"id,age\n\xff,2\n", "'utf-8' codec can't decode"),
        ("id,site\n1,Zürich\n".encode("cp1252"), "save the table as UTF-8 CSV"),
        ("id,age\n1,2\n".encode("utf-16"), "text in UTF-16; save the table as UTF-8"),
        ("id,age\n1,2\n".encode("utf-16-le"), "text in UTF-16; save the table"),
        (b"PK\x03\x04\0\0", "expected text, got a spreadsheet; save the table as UTF"),
        (b"\xd0\xcf\x11\xe0\0", "got a spreadsheet; save the table as UTF-8 CSV"),
        (b"PAR1\x15\0", "got a binary file; save the table as UTF-8 CSV"),
        (b"/annex/objects/MD5E-s9--0a.csv\n", "got a pointer of git-annex"),
        (b"<!DOCTYPE html>", "got a web page"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{value[:2]!r}",
)
def test_damaged_table_is_refused(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(DelimitedError, match=message):
        read_records(path, unique=["id"])


def test_empty_file_has_no_records(tmp_path):
    path = tmp_path / "a.tsv"
    path.touch()
    assert read_records(path) == ([], {})
