"""From a volume in scanner space to the encoder's grid."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainfeat.preprocessing.preprocessor import Preprocessor
    from brainfeat.preprocessing.recipes import InputRecipe, input_recipe

__all__ = ["InputRecipe", "Preprocessor", "input_recipe"]


def __getattr__(name: str) -> Any:
    # On first use: training from a store needs no SimpleITK.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from brainfeat.preprocessing import preprocessor, recipes

    return getattr(preprocessor if name == "Preprocessor" else recipes, name)


def __dir__() -> list[str]:
    return sorted(__all__)
