"""``brainfeat merge`` on the tables of ``brainfeat embed --shard``."""

import gzip
import json

import numpy as np
from typer.testing import CliRunner

from brainfeat.cli import app as cli
from brainfeat.subjects.subject import Subject
from brainfeat.tables.embedding_table import EmbeddingTable


def _run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_merged_shards_equal_the_whole_run(small_scans, small_checkpoint, tmp_path):
    bad = tmp_path / "sub-bad_T1w.nii.gz"
    bad.write_bytes(gzip.compress(b"no image"))
    inputs = [small_scans, bad, tmp_path / "absent.nii"]
    options = ["--checkpoint", small_checkpoint]
    whole = _run("embed", *inputs, "-o", tmp_path / "whole.parquet", *options)
    assert whole.exit_code == 1
    parts = [tmp_path / f"{index}.parquet" for index in range(1, 5)]
    for index, part in enumerate(parts, start=1):
        _run("embed", *inputs, "-o", part, "--shard", f"{index}/4", *options)
    result = _run("merge", *parts, *parts, "-o", tmp_path / "merged.parquet")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "12 rows, 2 failed"
    merged, expected = (tmp_path / f"{n}.parquet" for n in ("merged", "whole"))
    assert merged.read_bytes() == expected.read_bytes()
    merged, expected = (
        json.loads(path.with_suffix(".json").read_text()) for path in (merged, expected)
    )
    assert expected.pop("seconds_per_volume") > 0
    assert merged == expected
    failed = [
        sorted((tmp_path / f"{name}.failures.tsv").read_text().splitlines())
        for name in ("merged", "whole")
    ]
    assert failed[0] == failed[1]


def test_malformed_shard_is_a_usage_error(tmp_path):
    result = _run("embed", "a.nii", "-o", tmp_path / "a.csv", "--shard", "0/4")
    assert result.exit_code == 2
    assert "--shard: expected I/N" in result.stderr


def test_shard_without_a_table_is_reported(tmp_path):
    provenance = {"checkpoint_sha256": "c0ffee", "preprocessing_sha256": "facade"}
    provenance |= {"pooling": "mean", "modalities": ["T1w"], "n_features": 3}
    for index in (1, 2, 4):
        row = Subject(participant_id=f"{index}", images={"T1w": f"/{index}.nii"})
        part = {**provenance, "shard": f"{index}/4"}
        with EmbeddingTable(tmp_path / f"{index}.csv", part) as table:
            table.append(row, "sha", np.zeros(3, np.float32))
            table.finish([row])
    parts, output = [*tmp_path.glob("*.csv")], tmp_path / "all.parquet"
    result = _run("merge", *parts, "-o", output)
    assert result.exit_code == 2
    message = "shard 3/4 has no table (no rows, all failed, or not ended)"
    (line,) = result.stderr.splitlines()
    assert line == f"error: {message}; merge the others with --allow-missing."
    assert not output.exists()
    result = _run("merge", *parts, "-o", output, "--allow-missing")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [message]
    assert result.stdout.splitlines()[0] == "3 rows, 0 failed"
    # Many jobs of an array may be absent: one line lists them for a resubmission.
    result = _run(
        "merge", tmp_path / "2.csv", "-o", tmp_path / "one.csv", "--allow-missing"
    )
    message = "shards 1,3-4 of 4 have no table (no rows, all failed, or not ended)"
    assert result.stderr.splitlines() == [message]


def test_status_has_a_line_a_shard(tmp_path):
    provenance = {"checkpoint_sha256": "c0ffee", "preprocessing_sha256": "facade"}
    provenance |= {"pooling": "mean", "modalities": ["T1w"], "n_features": 3}
    provenance |= {"n_listed": 15}  # shards of 3 rows

    def table(index, rows, *, ends):
        part = {**provenance, "shard": f"{index}/5"}
        table = EmbeddingTable(tmp_path / f"{index}.csv", part)
        rows = [Subject(f"{n}", {"T1w": f"/{index}-{n}.nii"}) for n in range(rows)]
        for row in rows:
            table.append(row, "sha", np.zeros(3, np.float32))
        if ends:
            table.finish(rows)
        return table

    table(1, 3, ends=True)
    table(2, 2, ends=True)
    header = "participant_id\tfile\treason\n"
    (tmp_path / "2.failures.tsv").write_text(f"{header}a\ta.nii\tcut.\n")
    table(3, 1, ends=False).close()
    with table(4, 2, ends=False):
        result = _run("merge", "--status", *tmp_path.glob("*.csv"), tmp_path / "6.csv")
    assert result.stdout.splitlines() == [
        f"{tmp_path / '6.csv'}: missing",
        f"{tmp_path / '1.csv'}, shard 1/5: 3 of 3 rows done, 0 failed",
        f"{tmp_path / '2.csv'}, shard 2/5: 2 of 3 rows done, 1 failed",
        f"{tmp_path / '3.csv'}, shard 3/5: 1 of 3 rows done, 0 failed, stopped",
        f"{tmp_path / '4.csv'}, shard 4/5: 2 of 3 rows done, 0 failed, running",
        "shard 5/5: missing",
        "6 shards: 2 done, 1 running, 1 stopped, 2 missing",
    ]
    assert result.exit_code == 1
    for index in (3, 4, 5):
        table(index, 3, ends=True)
    (tmp_path / "2.failures.tsv").unlink()
    table(2, 3, ends=True)
    result = _run("merge", "--status", *tmp_path.glob("*.csv"))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("5 shards: 5 done, ")


def test_glob_may_include_tables_of_failures(small_scans, small_checkpoint, tmp_path):
    inputs = [small_scans, tmp_path / "absent.nii"]
    for index in (1, 2):
        table, shard = tmp_path / f"part-{index}.tsv", f"{index}/2"
        options = ["--shard", shard, "--checkpoint", small_checkpoint]
        _run("embed", *inputs, "-o", table, *options)
    found = sorted(tmp_path.glob("part-*.tsv"))
    assert found[0].name == "part-1.failures.tsv"
    result = _run("merge", *found, "-o", tmp_path / "all.csv")
    assert result.stdout.splitlines()[0] == "12 rows, 1 failed"


def test_failures_of_a_shard_without_a_table_are_listed(
    small_scans, small_checkpoint, tmp_path
):
    scan, *_ = sorted(small_scans.rglob("*_T1w.nii.gz"))
    bad = tmp_path / "sub-bad_T1w.nii.gz"
    bad.write_bytes(gzip.compress(b"no image"))
    for index in (1, 2):
        table, shard = tmp_path / f"part-{index}.tsv", f"{index}/2"
        options = ["--shard", shard, "--checkpoint", small_checkpoint]
        _run("embed", scan, bad, "-o", table, *options)
    assert not (tmp_path / "part-2.tsv").exists()
    for _ in range(2):  # the second time, with the output of the first
        found, output = sorted(tmp_path.glob("*.tsv")), tmp_path / "all.tsv"
        result = _run("merge", *found, "-o", output, "--overwrite")
        assert result.stdout.splitlines()[0] == "1 rows, 1 failed"


def test_shards_of_a_list_that_grew_are_refused(
    small_scans, small_checkpoint, tmp_path
):
    scans = sorted(small_scans.rglob("*_T1w.nii*"))
    parts = [tmp_path / f"{index}.csv" for index in (1, 2)]

    def embed(part, inputs):
        options = ["--shard", f"{part.stem}/2", "--checkpoint", small_checkpoint]
        assert _run("embed", *inputs, "-o", part, *options).exit_code == 0

    # The first half of four scans is two, and so is that of five.
    embed(parts[0], scans[:4])
    embed(parts[1], scans[:5])
    result = _run("merge", *parts, "-o", tmp_path / "all.csv")
    assert result.exit_code == 2
    assert "lists of several lengths: 1.csv (4), 2.csv (5)" in result.stderr
    embed(parts[0], scans[:5])
    result = _run("merge", *parts, "-o", tmp_path / "all.csv")
    assert result.stdout.splitlines()[0] == "5 rows, 0 failed"
