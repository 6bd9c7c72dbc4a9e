"""Every example runs, is short, and reads as a script of cells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path, tmp_path):
    # Examples write beside the reader's notebook: here, an empty folder.
    result = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_short_script_of_cells(path):
    lines = path.read_text().splitlines()
    assert len(lines) < 80
    assert any(line.startswith("# %%") for line in lines)


def test_there_are_examples():
    assert EXAMPLES
