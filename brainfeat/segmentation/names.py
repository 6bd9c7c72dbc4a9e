"""Names of classes, in the tables that lie beside label maps."""

__all__ = [
    "NAMES_FILE",
    "check_names",
    "collect_names",
    "name_classes",
    "parse_names",
    "read_names",
    "write_names",
]

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.atomic import atomic_write
from brainfeat.io.delimited_rows import DelimitedError, read_records, write_rows
from brainfeat.io.paths import image_stem

NAMES_FILE = "dseg.tsv"
_LOGGER = logging.getLogger(__name__)


def collect_names(label_maps: Iterable[Path]) -> dict[int, str]:
    """Read the tables of names that belong to label maps.

    Warns of labels with two names: these may be different structures.
    """
    names: dict[int, tuple[str, Path]] = {}
    clashes: dict[int, tuple[Path, str]] = {}
    for table in dict.fromkeys(filter(None, map(_find_table, label_maps))):
        for label, name in read_names(table).items():
            first, _ = names.setdefault(label, (name, table))
            if name.casefold() != first.casefold():
                clashes.setdefault(label, (table, name))
    if clashes:
        label, (table, name) = next(iter(clashes.items()))
        more = f" ({len(clashes) - 1} more like it)" if len(clashes) > 1 else ""
        _LOGGER.warning(
            "%s: label %d is %s there, but %s in %s; they are learnt as one%s",
            *(table, label, name, *names[label], more),
        )
    return {label: name for label, (name, _) in names.items()}


def read_names(path: Path) -> dict[int, str]:
    """Read the name of each label; none if there is no such file."""
    if not path.is_file():
        return {}
    try:
        # "None" is a name here.
        _, lines = read_records(path, convert=str.strip)
    except (OSError, DelimitedError) as error:
        raise InputError(
            f"{path}: not a readable table ({brief_reason(error)})."
        ) from error
    return {
        int(index): name
        for line in lines.values()
        if (name := line.get("name"))
        and re.fullmatch(r"-?\d+", index := line.get("index") or "")
    }


def check_names(names: Any) -> dict[int, str]:
    """Return the names that a user gives to labels, as ``{1: "lesion"}``."""
    if not isinstance(names, Mapping) or not all(
        isinstance(label, Integral) and isinstance(name, str) and name.strip()
        for label, name in names.items()
    ):
        raise InputError(
            f"names: expected a name for each label, as in {{1: 'lesion'}}, got "
            f"{names!r}."
        )
    return {int(label): name.strip() for label, name in names.items()}


def parse_names(texts: Sequence[str]) -> dict[int, str]:
    """Read names as a user types them: ``1=lesion``, or a table of names.

    >>> parse_names(["1=lesion,2=edema", "-3=core"])
    {1: 'lesion', 2: 'edema', -3: 'core'}
    """
    names: dict[int, str] = {}
    for text in texts:
        if Path(text).suffix in {".tsv", ".csv"} and Path(text).is_file():
            names |= read_names(Path(text))
            continue
        for part in text.split(","):
            label, _, name = part.partition("=")
            if not re.fullmatch(r"\s*-?\d+\s*", label) or not name.strip():
                raise InputError(
                    f"names: expected LABEL=NAME, as 1=lesion, or a table with columns "
                    f"index and name, got {text!r}."
                )
            names[int(label)] = name.strip()
    return names


def name_classes(classes: Iterable[int], names: Mapping[int, str]) -> dict[int, str]:
    """Name each class: ``class_12`` if it has no name, or ``a_12`` if two are ``a``.

    >>> name_classes([0, 5, 6, 9], {5: "a", 6: "a"})
    {0: 'background', 5: 'a_5', 6: 'a_6', 9: 'class_9'}
    """
    known = {0: "background", **names}
    chosen = {int(label): known.get(int(label), f"class_{label}") for label in classes}
    counts = Counter(chosen.values())
    return {
        label: name if counts[name] == 1 else f"{name}_{label}"
        for label, name in chosen.items()
    }


def write_names(path: Path, classes: Iterable[int], names: Mapping[int, str]) -> None:
    """Write a name for each class, such as ``class_12`` for one without."""
    rows = name_classes(classes, names).items()
    with (
        atomic_write(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        write_rows(file, [("index", "name"), *rows], "\t")


def _find_table(label_map: Path) -> Path | None:
    """Find the table of a label map: in its folder or, as in BIDS, above."""
    own = label_map.parent / f"{image_stem(label_map)}.tsv"
    above = [parent / NAMES_FILE for parent in label_map.resolve().parents[:4]]
    return next((path for path in (own, *above) if path.is_file()), None)
