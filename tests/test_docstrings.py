"""Docstrings: numpydoc in full for what users call, a summary line for the rest."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest
from numpydoc.validate import validate

import brainfeat

ROOT = Path(brainfeat.__file__).parent
# Beside the names in `brainfeat`, modules whose listed names users meet.
USER_MODULES = sorted(
    {
        "brainfeat.models.config",
        "brainfeat.models.encoder",
        "brainfeat.models.resnet",
        "brainfeat.models.volume_encoder",
        "brainfeat.checkpoint.config",
        "brainfeat.reporting",
        "brainfeat.metrics",
        "brainfeat.slabs.grid",
    }
)
# Extended summary, "See Also" and examples are written where they help.
OPTIONAL = {"ES01", "SA01", "EX01", "SA04", "RT02"}


def user_names():
    listed = [(m, name) for m in USER_MODULES for name in import_module(m).__all__]
    public = [(home, name) for name, home in brainfeat._HOMES.items()]
    for module_name, name in sorted({*listed, *public}):
        thing = getattr(import_module(module_name), name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        yield f"{module_name}.{name}"
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (
                    inspect.isfunction(value)
                    or isinstance(value, property | classmethod)
                ):
                    yield f"{module_name}.{name}.{member}"


@pytest.mark.parametrize("name", list(user_names()))
def test_docstring_is_valid_numpydoc(name):
    report = validate(name)
    assert report["docstring"], "no docstring"
    optional = set(OPTIONAL)
    if is_named_tuple(name):
        # Results, not something that a caller builds: they have attributes.
        assert "Attributes\n----------" in inspect.cleandoc(report["docstring"])
        optional.add("PR01")
    problems = [
        f"{code}: {text}" for code, text in report["errors"] if code not in optional
    ]
    assert problems == []


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_public_name_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    silent = [node.name for node in public_nodes(tree) if not ast.get_docstring(node)]
    assert silent == []


def public_nodes(parent):
    for node in parent.body:
        kinds = (ast.FunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_nodes(node)


def is_named_tuple(name):
    module, _, last = name.rpartition(".")
    try:
        thing = getattr(import_module(module), last)
    except ModuleNotFoundError:  # a member of a class
        return False
    return inspect.isclass(thing) and issubclass(thing, tuple)
