"""Pages and figures about results; estimators never draw."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainfeat.reporting.importance import Attribution, attribution

__all__ = ["Attribution", "attribution"]


def __getattr__(name: str) -> Any:
    # On first use, so that a figure costs no torch.
    if name not in __all__:
        raise AttributeError(f"module 'brainfeat.reporting' has no attribute {name!r}")
    return getattr(import_module("brainfeat.reporting.importance"), name)
