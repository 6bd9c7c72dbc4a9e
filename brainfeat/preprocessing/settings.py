"""The preprocessing that a checkpoint stores: ours, or the recipe of its authors."""

__all__ = ["preprocessing_from_dict"]

from collections.abc import Mapping
from typing import Any

from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.recipes import InputRecipe


def preprocessing_from_dict(values: Mapping[str, Any]) -> SubjectPreprocessing:
    """Build a `Preprocessor` or, where ``kind`` is "recipe", an `InputRecipe`."""
    if values.get("kind") == "recipe":
        return InputRecipe.from_dict(values)
    return Preprocessor.from_dict(values)
