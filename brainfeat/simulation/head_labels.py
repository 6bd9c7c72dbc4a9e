"""What the labels of whole-head label maps stand for, read from a table."""

__all__ = ["CONTRASTS", "HeadLabels"]

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.delimited_rows import DelimitedError, read_records

# How bright the labels of a brain are; others are outside of it.
CONTRASTS = ("white", "cortex", "nucleus", "deep", "fluid")
_SIDES = ("_left", "_right")


@dataclass(frozen=True)
class HeadLabels:
    """Structures and contrast of each label of a brain."""

    structures: Mapping[int, frozenset[str]]
    contrasts: Mapping[int, str]  # one of `CONTRASTS`

    @classmethod
    def read(cls, path: Path) -> "HeadLabels":
        """Read a table with columns index, name and contrast.

        A label may have several rows, one for each structure that it is part of; one
        with a contrast but without a name is part of none.
        """
        try:
            columns, lines = read_records(path, convert=str.strip)
        except (OSError, DelimitedError) as error:
            raise InputError(
                f"{path}: not a readable table of labels ({brief_reason(error)})."
            ) from error
        structures: dict[int, set[str]] = defaultdict(set)
        contrasts = {}
        for number, line in lines.items():
            index, contrast = line.get("index") or "", line.get("contrast") or ""
            if not re.fullmatch(r"[1-9]\d*", index) or contrast not in CONTRASTS:
                raise InputError(
                    f"{path}: expected columns index, name and contrast, and a label "
                    f"above 0 with one of {', '.join(CONTRASTS)}, got columns "
                    f"{', '.join(columns)}, and {index!r}, {contrast!r} in line "
                    f"{number}."
                )
            contrasts[int(index)] = contrast
            if name := line.get("name"):
                structures[int(index)].add(name)
        return cls({k: frozenset(v) for k, v in structures.items()}, contrasts)

    @cached_property
    def mirror(self) -> dict[int, int]:
        """The label of the same structures on the other side, of each that has one."""
        by_names = {names: label for label, names in self.structures.items()}
        pairs = {}
        for label, names in self.structures.items():
            others = frozenset(map(_other_side, names))
            if others != names and others in by_names:
                pairs[label] = by_names[others]
        return pairs

    @cached_property
    def tissues(self) -> dict[int, tuple[str, frozenset[str]]]:
        """Labels that look the same have one value: those of both sides."""
        return {
            label: (
                contrast,
                frozenset(map(_either_side, self.structures.get(label, ()))),
            )
            for label, contrast in self.contrasts.items()
        }

    def find(self, names: Iterable[str]) -> list[int]:
        """Return the labels that are part of any of some structures."""
        wanted = set(names)
        return [k for k, structures in self.structures.items() if structures & wanted]


def _either_side(name: str) -> str:
    for side in _SIDES:
        name = name.removesuffix(side)
    return name


def _other_side(name: str) -> str:
    left, right = _SIDES
    if name.endswith(left):
        return name.removesuffix(left) + right
    return name.removesuffix(right) + left if name.endswith(right) else name
