"""Public docstrings follow numpydoc, with parameters, returns and errors."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from numpydoc.validate import validate

import brainfeat

ROOT = Path(brainfeat.__file__).parent
# Extended summary, "See Also" and examples are written where they help.
OPTIONAL = {"ES01", "SA01", "EX01", "SA04", "RT02"}
# Python's own generic descriptions and dataclass fields carry no docstring.
WAIVED = {"GL08"}


def public_objects():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1].startswith("_") or parts == ("cli",):
            continue
        module = import_module(".".join(("brainfeat", *parts)))
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            full = f"{module.__name__}.{name}"
            yield full
            if inspect.isclass(thing):
                for member, value in vars(thing).items():
                    if not member.startswith("_") and (
                        inspect.isfunction(value)
                        or isinstance(value, property | classmethod)
                    ):
                        yield f"{full}.{member}"


@pytest.mark.parametrize("name", list(public_objects()))
def test_docstring_is_valid(name):
    report = validate(name)
    problems = [
        f"{code}: {text}"
        for code, text in report["errors"]
        if code not in OPTIONAL | WAIVED
    ]
    assert report["docstring"], "no docstring"
    assert problems == []
