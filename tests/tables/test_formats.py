import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainfeat.exceptions import TableError
from brainfeat.tables.delimited import sidecar_path
from brainfeat.tables.formats import find_format

COLUMNS = {
    "participant_id": ["01", "02", 'a,b\n"c"', "sub-ä\r"],
    "session_id": [None, None, None, None],
    "age": ["71", None, "64", "-3"],
    "score": ["0.5", "1e-3", "7", None],
    "site": ["01", "2", None, "3"],
    "empty": [None, None, None, None],
}
SUFFIXES = [".parquet", ".csv", ".tsv"]


def _write(path, vectors):
    provenance = {"n_features": vectors.shape[1], "pooling": "mean"}
    find_format(path).write(path, COLUMNS, iter(vectors), provenance)
    sidecar_path(path).write_text(json.dumps(provenance))
    return provenance


def _all_kinds_of_floats(n_features):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (4, n_features), dtype=np.uint32)
    return np.nan_to_num(bits.view(np.float32))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_table_survives_writing_and_reading_to_the_last_bit(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    vectors = _all_kinds_of_floats(1003)
    provenance = _write(path, vectors)
    table_format = find_format(path)
    read = np.concatenate(list(table_format.iterate_vectors(path)))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read.view(np.uint32), vectors.view(np.uint32))
    assert table_format.read_provenance(path) == provenance
    columns = table_format.read_columns(path).to_pydict()
    assert columns == {
        "participant_id": ["01", "02", 'a,b\n"c"', "sub-ä\r"],
        "session_id": [None] * 4,
        "age": [71, None, 64, -3],
        "score": [0.5, 1e-3, 7.0, None],
        "site": ["01", "2", None, "3"],
        "empty": [None] * 4,
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_long_integers_keep_all_digits(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    columns = {
        "subject": ["1234567890123456789", "-9223372036854775807"],
        "scan": ["12345678901234567890", "1"],
        "gaps": ["1234567890123456789", None],
        "mixed": ["1234567890123456789", "0.5"],
        "long": ["9" * 5000, "7"],
        "age": ["123456789012345", "70.5"],
    }
    vectors = _all_kinds_of_floats(3)[:2]
    table_format = find_format(path)
    table_format.write(path, columns, iter(vectors), {"n_features": 3})
    assert table_format.read_texts(path) == columns
    frame = table_format.read_columns(path).to_pandas()
    assert frame["subject"].tolist() == [1234567890123456789, -9223372036854775807]
    assert frame["age"].tolist() == [123456789012345.0, 70.5]
    for name in ("scan", "gaps", "mixed", "long"):
        assert frame[name][0] == columns[name][0]


def test_parquet_splits_bytes_of_embeddings_only(tmp_path):
    path = tmp_path / "table.parquet"
    _write(path, _all_kinds_of_floats(5))
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    for chunk in chunks:
        is_feature = chunk.path_in_schema.startswith("emb_")
        assert ("BYTE_STREAM_SPLIT" in chunk.encodings) == is_feature
        assert chunk.has_dictionary_page != is_feature
        assert chunk.compression == "ZSTD"


def test_single_row_is_not_compressed(tmp_path):
    path = tmp_path / "table.parquet"
    columns = {name: values[:1] for name, values in COLUMNS.items()}
    find_format(path).write(path, columns, iter([np.ones(5)]), {"n_features": 5})
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    assert {chunk.compression for chunk in chunks} == {"UNCOMPRESSED"}


def test_unknown_suffix_is_named(tmp_path):
    with pytest.raises(TableError, match=r"table\.xlsx: expected a name"):
        find_format(tmp_path / "table.xlsx")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_table_is_named(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    path.write_bytes(b"participant_id,emb_000\nsub-01\n\xff,1,2\n")
    with pytest.raises(TableError, match=f"table{suffix}: "):
        list(find_format(path).iterate_vectors(path))
    with pytest.raises(TableError, match=f"table{suffix}: "):
        find_format(path).read_columns(path)


def test_row_without_embedding_that_another_program_added_is_refused(tmp_path):
    path = tmp_path / "table.parquet"
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    table_format = find_format(path)
    table_format.write(path, COLUMNS, iter(vectors), {"n_features": 3})
    table = pq.read_table(path)
    names = [name for name in table.column_names if name.startswith("emb")]
    other = table.cast(
        pa.schema(
            pa.field(field.name, pa.float64()) if field.name in names else field
            for field in table.schema
        )
    )
    pq.write_table(other, path)
    (block,) = find_format(path).iterate_vectors(path)
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block, vectors)
    fifth = pa.table({"participant_id": ["05"]})
    pq.write_table(pa.concat_tables([table, fifth], promote_options="default"), path)
    with pytest.raises(TableError, match="got rows without"):
        list(find_format(path).iterate_vectors(path))


def _rewrite(path, change):
    """Write a table again with other columns, as pandas does."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        pq.write_table(table.select(change(table.column_names)), path)
        return
    delimiter = "," if path.suffix == ".csv" else "\t"
    with path.open(newline="") as file:
        header, *rows = csv.reader(file, delimiter=delimiter)
    indices = [header.index(name) for name in change(header)]
    with path.open("w", newline="") as file:
        lines = ([row[index] for index in indices] for row in [header, *rows])
        csv.writer(file, delimiter=delimiter).writerows(lines)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sorted_columns_keep_the_order_of_features(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    vectors = _all_kinds_of_floats(1003)
    _write(path, vectors)
    _rewrite(path, sorted)  # emb_1000 comes before emb_101 then
    (block,) = find_format(path).iterate_vectors(path)
    np.testing.assert_array_equal(block, vectors)
    if suffix == ".parquet":
        pq.write_table(pq.read_table(path).replace_schema_metadata(), path)
    else:
        sidecar_path(path).unlink()
    assert not find_format(path).read_provenance(path)
    (block,) = find_format(path).iterate_vectors(path)
    np.testing.assert_array_equal(block, vectors)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_table_that_lost_a_feature_is_refused(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    _write(path, np.zeros((4, 3), np.float32))
    _rewrite(path, lambda names: [name for name in names if name != "emb_001"])
    message = f"table{suffix}: expected the 3 columns emb_000 to emb_002 .* got 2 "
    with pytest.raises(TableError, match=message):
        list(find_format(path).iterate_vectors(path))
    # Without provenance, nothing tells.
    sidecar_path(path).unlink()
    if suffix != ".parquet":
        (block,) = find_format(path).iterate_vectors(path)
        assert block.shape == (4, 2)
