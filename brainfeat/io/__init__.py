"""Files: volumes, tables, JSON, hashes, locks and atomic writes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainfeat.io.volumes import read_volume, write_volume

__all__ = ["read_volume", "write_volume"]


def __getattr__(name: str) -> Any:
    # On first use: the JSON files of a training need no nibabel.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from brainfeat.io import volumes

    return getattr(volumes, name)


def __dir__() -> list[str]:
    return sorted(__all__)
