"""What is known of a public encoder: an entry of the table in `known`."""

__all__ = ["KnownEncoder", "Licence"]

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Licence:
    """A licence with what it asks for or forbids, in words."""

    name: str
    brief: str = ""  # what most need to know
    terms: str = ""  # the rest
    is_free: bool = False  # allows any use, also commercial

    def __str__(self) -> str:
        """Return name and all terms, for a card."""
        terms = "; ".join(filter(None, (self.brief, self.terms)))
        return f"{self.name}: {terms}" if terms else self.name

    @property
    def summary(self) -> str:
        """Name and the most important term, for a list."""
        return f"{self.name}: {self.brief}" if self.brief else self.name


@dataclass(frozen=True, kw_only=True)
class KnownEncoder:
    """A public encoder, and what has to be known to use its weights well."""

    name: str
    title: str
    licence: Licence
    page: str  # where the weights and their licence are explained
    network: str
    trained_on: str
    takes: str  # the images
    recipe: str  # how images become its input
    prepared: str  # the same, in words
    feature: str  # what pooling="default" gives
    layout: str = ""  # of the file; "" for a checkpoint folder of ours
    hub: str = ""  # organisation/name[:path]; "" if it is not on the hub
    is_gated: bool = False
    copies: tuple[str, ...] = ()  # of others, on the hub
    revision: str = ""
    files: tuple[str, ...] = ()  # names that the file has; the first is the usual one
    sha256: Mapping[str, str] = field(default_factory=dict)  # by the file's name
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the released network
    poolings: tuple[str, ...] = ("mean",)
    reported: str = ""
    caveats: tuple[str, ...] = ()
