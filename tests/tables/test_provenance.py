"""Provenance: what the tests of tables do not cover."""

import json

import numpy as np
import pytest

from brainfeat.exceptions import TableError
from brainfeat.tables.formats import find_format
from brainfeat.tables.provenance import (
    check_identity,
    check_sidecar,
    describe_identity,
    read_origin,
    write_table,
)

IDENTITY = {
    "checkpoint_sha256": "c0ffee",
    "preprocessing_sha256": "facade",
    "pooling": "mean",
    "modalities": ["T1w", "FLAIR"],
    "n_features": 5,
}


@pytest.mark.parametrize("name", IDENTITY)
def test_rows_of_a_table_agree_in_every_part_of_the_identity(tmp_path, name):
    provenance = {**IDENTITY, "brainfeat_version": "1.2.3"}
    assert describe_identity(provenance) == IDENTITY
    check_identity(provenance, IDENTITY, tmp_path, advice="")
    old = {**IDENTITY, name: "other"}
    with pytest.raises(TableError, match=r"made with another .*; not merged\."):
        check_identity(old, IDENTITY, tmp_path, advice="not merged.")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_table_and_its_json_file_are_replaced_together(tmp_path, suffix):
    output, folder = tmp_path / f"out{suffix}", tmp_path / "new"
    table_format, columns = find_format(output), {"participant_id": ["01"]}
    for pooling in ("mean", "cls"):
        folder.mkdir()
        origin = {**IDENTITY, "pooling": pooling}
        vectors = [np.arange(5, dtype=np.float32)]
        write_table(output, folder, table_format, columns, vectors, origin)
        folder.rmdir()  # nothing is left in it
        assert read_origin(output, advice="") == origin
        assert json.loads((tmp_path / "out.json").read_text()) == origin
    folder.mkdir()
    (folder / "table.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_table(output, folder, table_format, columns, vectors, IDENTITY)
    assert read_origin(output, advice="") == origin


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"age": {}}'])
def test_json_file_of_something_else_is_refused(tmp_path, content):
    check_sidecar(tmp_path / "a.tsv")
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(TableError, match=r"a\.json: exists and is not ours"):
        check_sidecar(tmp_path / "a.tsv")


def test_message_names_what_differs_and_nothing_else(tmp_path):
    old = {**IDENTITY, "pooling": "cls", "n_features": 7}
    with pytest.raises(TableError) as caught:
        check_identity(old, IDENTITY, tmp_path / "a.csv", advice="stop.")
    assert str(caught.value) == (
        f"{tmp_path / 'a.csv'}: made with another pooling (cls, now mean) and another "
        "number of features (7, now 5); stop."
    )
