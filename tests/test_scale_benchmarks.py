"""Small runs of the benchmarks that kill, damage and count."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "benchmarks"


def run(name, *arguments):
    result = subprocess.run(
        [sys.executable, FOLDER / name, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_kills_and_damaged_files_cost_no_row(tmp_path):
    sizes = ("--subjects", 40, "--kills", 2, "--damaged", 40)
    said = run("resilience.py", tmp_path, *sizes)
    assert "100 of 100 good rows, 0 tracebacks" in said
    assert "same bytes: True; files: table.json, table.parquet" in said
    assert said.count("rows kept") == 2
