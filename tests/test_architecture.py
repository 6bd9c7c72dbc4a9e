"""Imports run one way, and every module has its tests."""

import subprocess
import sys
from pathlib import Path

import brainfeat

ROOT = Path(brainfeat.__file__).parent
TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent


def test_imports_keep_their_contracts():
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert result.returncode == 0, result.stdout


def test_every_module_has_a_test_file_of_its_name():
    missing = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.stem in {"__init__", "__main__"}:
            continue
        folder = TESTS / path.relative_to(ROOT).parent
        if not (folder / f"test_{path.stem.lstrip('_')}.py").exists():
            missing.append(str(path.relative_to(ROOT)))
    assert missing == []


def test_top_level_holds_nothing_else():
    allowed = {"brainfeat", "examples", "tests"}
    allowed |= {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
    listing = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY
    )
    names = {line.split("/")[0] for line in listing.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= allowed
