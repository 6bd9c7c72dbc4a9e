"""Notes on images whose names were guessed at, or that were left out by them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ContrastNotes"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ContrastNotes:
    """Paths by kind; each kind is logged once with its count."""

    unnamed: list[str] = field(default_factory=list)
    label_maps: list[str] = field(default_factory=list)
    other_contrasts: list[str] = field(default_factory=list)
    agent_used: list[str] = field(default_factory=list)
    agent_left_out: list[str] = field(default_factory=list)

    def log(self, modality: str, option: str) -> None:
        """Log each kind; unnamed images were taken for ``modality``."""
        if self.unnamed:
            _LOGGER.warning(
                "%s taken for %s; use %s",
                _count(self.unnamed, "file whose name gives no modality is"),
                modality,
                option,
            )
        agent, left_out = "T1w image with contrast agent", "left out"
        for paths, what, done in (
            (self.label_maps, "label map", left_out),
            (self.other_contrasts, "image of another contrast", left_out),
            (self.agent_used, agent, "taken for T1w"),
            (self.agent_left_out, agent, f"{left_out}, as the subject has one without"),
        ):
            if paths:
                text = f"{_count(paths, f'{what}, by its name,')} {done}"
                _LOGGER.warning("%s (%s)", text, _first(paths))


_PLURALS = {
    "file whose name gives": "files whose names give",
    "no modality is": "no modality are",
    "label map, by its name,": "label maps, by their names,",
    "image of another contrast, by its name,": (
        "images of other contrasts, by their names,"
    ),
    "image with contrast agent, by its name,": (
        "images with contrast agent, by their names,"
    ),
}


def _count(paths: Sequence[str], what: str) -> str:
    if len(paths) > 1:
        for one, several in _PLURALS.items():
            what = what.replace(one, several)
    return f"{len(paths)} {what}"


def _first(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{Path(paths[0]).name}{more}"
