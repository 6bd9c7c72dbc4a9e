"""The command is tested with the shards that it merges."""

import gzip

import numpy as np
from typer.testing import CliRunner

from brainfeat import cli
from brainfeat.tables import EmbeddingTable, TableRow


def _run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_shards_of_a_run_merge_to_the_run(small_scans, small_checkpoint, tmp_path):
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
    for suffix in (".parquet", ".json"):
        merged, expected = (
            (tmp_path / name).with_suffix(suffix).read_bytes()
            for name in ("merged", "whole")
        )
        assert merged == expected
    failed = [
        sorted((tmp_path / f"{name}.failures.tsv").read_text().splitlines())
        for name in ("merged", "whole")
    ]
    assert failed[0] == failed[1]


def test_a_shard_that_is_none_is_wrong_usage(tmp_path):
    result = _run("embed", "a.nii", "-o", tmp_path / "a.csv", "--shard", "0/4")
    assert result.exit_code == 2
    assert "--shard: expected I/N" in result.stderr


def test_a_shard_without_a_table_is_told_of(tmp_path):
    provenance = {"checkpoint_sha256": "c0ffee", "preprocessing_sha256": "facade"}
    provenance |= {"pooling": "mean", "modalities": ["T1w"], "n_features": 3}
    for index in (1, 2, 4):
        row = TableRow(participant_id=f"{index}", images={"T1w": f"/{index}.nii"})
        part = {**provenance, "shard": f"{index}/4"}
        with EmbeddingTable(tmp_path / f"{index}.csv", part) as table:
            table.append(row, "sha", np.zeros(3, np.float32))
            table.finish([row])
    result = _run("merge", *tmp_path.glob("*.csv"), "-o", tmp_path / "all.parquet")
    assert result.exit_code == 1
    message = "shard 3/4 has no table (no rows, or all failed)"
    assert result.stderr.splitlines() == [message]
    assert result.stdout.splitlines()[0] == "3 rows, 0 failed"
