"""Names of classes, in the tables that lie beside label maps."""

__all__ = ["NAMES_FILE", "collect_names", "read_names", "write_names"]

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

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


def write_names(path: Path, classes: Iterable[int], names: Mapping[int, str]) -> None:
    """Write a name for each class, such as ``class_12`` for one without."""
    names = {0: "background", **names}
    rows = [(int(c), names.get(int(c), f"class_{c}")) for c in classes]
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
