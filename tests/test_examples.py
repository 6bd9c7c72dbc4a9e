"""Examples run, are short, and import only names that exist."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))
# By the first digits of their names.
LONG = {"00", "02", "04", "05", "06", "07", "08", "13", "15"}
SCRIPTS = sorted(FOLDER.rglob("*.py"))


def relative(path):
    return str(path.relative_to(FOLDER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder for all examples: most of them use the same cohort."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.release] * (path.name[:2] in LONG))
        for path in EXAMPLES
    ],
    ids=relative,
)
def test_example_runs_and_saves_a_picture(path, folder):
    # Examples write to the working directory.
    before = set(folder.glob("*.png"))
    result = subprocess.run(
        [sys.executable, path],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    assert set(folder.glob("*.png")) > before


@pytest.mark.parametrize("path", EXAMPLES, ids=relative)
def test_example_is_a_short_script_of_cells(path):
    lines = path.read_text().splitlines()
    assert len(lines) < 80
    assert any(line.startswith("# %%") for line in lines)


@pytest.mark.parametrize("path", SCRIPTS, ids=relative)
def test_imported_names_exist(path):
    """Without running the script, so that a renamed module is noticed early."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.ImportFrom) and node.module):
            continue
        if node.module.split(".")[0] == "brainfeat":
            module = import_module(node.module)
            missing = [n.name for n in node.names if not hasattr(module, n.name)]
            assert missing == [], node.module


def test_there_are_examples():
    assert len(EXAMPLES) >= 9
