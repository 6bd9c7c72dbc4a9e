"""From a volume in scanner space to the encoder's grid."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainfeat.preprocessing.preprocessor import Preprocessor

__all__ = ["Preprocessor"]


def __getattr__(name: str) -> Any:
    # On first use: training from a store needs no SimpleITK.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from brainfeat.preprocessing import preprocessor

    return getattr(preprocessor, name)
