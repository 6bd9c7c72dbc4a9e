import csv

import pytest

from brainfeat.io.delimited_rows import read_value, write_rows


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_what_is_read_is_what_was_written(tmp_path, delimiter):
    path = tmp_path / "table.txt"
    rows = [
        ["a\rb", "sub-01\r", "c\nd", "e\r\nf", "\r\n"],
        ['"', ",", "\t", "", " x "],
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, iter(rows), delimiter)
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file, delimiter=delimiter)) == rows


def test_lines_end_in_a_line_feed_alone(tmp_path):
    path = tmp_path / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(file, [("a", 1), (None, 2)], ",")
    assert path.read_bytes() == b"a,1\n,2\n"


@pytest.mark.parametrize("text", ["", "  ", "n/a", "NA", " NaN ", "None", "#N/A"])
def test_a_gap_is_no_value(text):
    assert read_value(text) is None
    assert read_value(f"x{text}x") == f"x{text}x"
