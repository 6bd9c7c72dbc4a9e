"""Imports run one way, and every room has its tests."""

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


def test_every_room_has_its_tests():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == {path.name for path in TESTS.iterdir() if any(path.glob("*.py"))}


def test_few_modules_lie_beside_the_rooms():
    flat = {"__init__", "__main__", "_version", "exceptions", "volume", "metrics"}
    flat |= {"configs", "progress", "workers"}
    assert {path.stem for path in ROOT.glob("*.py")} == flat


def test_top_level_holds_nothing_else():
    allowed = {"brainfeat", "examples", "tests"}
    allowed |= {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
    listing = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY
    )
    names = {line.split("/")[0] for line in listing.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= allowed
