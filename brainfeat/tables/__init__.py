"""Tables of embeddings: formats, runs, merging, derivatives."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainfeat.tables.embedding_table import read_embeddings

__all__ = ["read_embeddings"]


def __getattr__(name: str) -> Any:
    # On first use: `brainfeat --help` needs no table.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from brainfeat.tables import embedding_table

    return getattr(embedding_table, name)


def __dir__() -> list[str]:
    return sorted(__all__)
