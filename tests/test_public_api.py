import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import brainfeat

ROOT = Path(brainfeat.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "nibabel", "SimpleITK", "pandas", "sklearn", "nilearn", "pyarrow"}


def test_public_names_are_these():
    assert brainfeat.__all__ == [
        "BrainFoundClassifier",
        "BrainFoundEmbedder",
        "BrainFoundRegressor",
        "Checkpoint",
        "Geometry",
        "Preprocessor",
        "PretrainingConfig",
        "SegmentationEstimator",
        "Volume",
        "load_bids",
        "pretrain",
        "read_embeddings",
        "read_volume",
        "simulate_cohort",
        "write_volume",
    ]


@pytest.mark.parametrize("name", brainfeat.__all__)
def test_public_name_is_public_in_its_home(name):
    home = import_module(brainfeat._HOMES[name])
    assert name in home.__all__
    assert getattr(brainfeat, name) is getattr(home, name)


def test_type_checkers_see_the_names_that_load_lazily():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("brainfeat.")
        if node.module != "brainfeat._version"
        for alias in node.names
    }
    assert seen == brainfeat._HOMES


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'brain'"):
        _ = brainfeat.brain


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_begins_with_docstring_and_public_names(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.name == "__main__.py":
        return
    imports = (ast.Import, ast.ImportFrom, ast.If)
    first = next(node for node in tree.body[1:] if not isinstance(node, imports))
    target = first.target if isinstance(first, ast.AnnAssign) else first.targets[0]
    assert target.id == "__all__"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_listed_names_exist_and_others_are_private(path):
    tree = ast.parse(path.read_text())
    if path.name in {"__init__.py", "__main__.py", "app.py"}:
        return  # the commands of the command line are reached through its app
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }
    name = ".".join(("brainfeat", *path.relative_to(ROOT).with_suffix("").parts))
    module = import_module(name)
    assert set(module.__all__) >= defined
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("__init__.py")), ids=lambda p: p.parent.name
)
def test_tab_completion_shows_the_public_names_of_a_package(path):
    name = ".".join(path.parent.relative_to(ROOT.parent).parts)
    package = import_module(name)
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, public) for public in package.__all__)


@pytest.mark.parametrize("module", ["brainfeat", "brainfeat.cli.app"])
def test_import_costs_no_heavy_library(module):
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert HEAVY.isdisjoint(result.stdout.split())


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint.Checkpoint",
        "checkpoint.CheckpointConfig",
        "io.read_volume",
        "io.write_volume",
        "preprocessing.Preprocessor",
        "slabs.SlabGrid",
        "tables.read_embeddings",
    ],
)
def test_rooms_have_the_names_of_the_modules_that_they_were(name):
    room, _, attribute = name.partition(".")
    assert attribute in import_module(f"brainfeat.{room}").__all__
    assert hasattr(import_module(f"brainfeat.{room}"), attribute)
