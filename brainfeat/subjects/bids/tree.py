"""Folders and images that lie in a BIDS tree, and what an index of it found of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.subject import Outcome, Subject

__all__ = ["find_participant_folder", "is_bids_image", "sort_by_paths"]

_PREFIX = "sub-"


def find_participant_folder(path: Path) -> Path | None:
    """Return the folder ``sub-<label>`` that a folder is or a path lies in, or None.

    >>> print(find_participant_folder(Path("/ds/sub-01/ses-1/anat")).as_posix())
    /ds/sub-01
    """
    folders = [path, *path.parents] if path.is_dir() else path.parents
    for folder in folders:
        if folder.name.startswith(_PREFIX) and folder.name != _PREFIX:
            return folder
    return None


def is_bids_image(path: Path, modalities: Sequence[str]) -> bool:
    """Whether the index of an image's tree finds it among these modalities."""
    home = find_participant_folder(path)
    if home is None or path.parent.name != "anat":
        return False
    session = path.parent.parent
    is_in_place = session == home or (
        session.parent == home and session.name.startswith("ses-")
    )
    name = parse_bids_name(path.name)
    return is_in_place and name.suffix in modalities and "sub" in name.entities


def sort_by_paths(
    found: Iterable[Subject | Outcome[Any]], paths: Iterable[Path]
) -> dict[Path, list[Subject | Outcome[Any]]]:
    """Give what an index found to the first of the paths that it lies in or is."""
    ranks = {path: rank for rank, path in enumerate(paths)}
    by_path: dict[Path, list[Subject | Outcome[Any]]] = {path: [] for path in ranks}
    for item in found:
        subject = item.subject if isinstance(item, Outcome) else item
        sources = [*map(Path, subject.paths.values()), Path(subject.source_name)]
        homes = {p for source in sources for p in (source, *source.parents)}
        owners = homes & ranks.keys()
        # A folder that cannot be read may lie above all paths.
        first = min(owners, key=ranks.__getitem__, default=next(iter(ranks)))
        by_path[first].append(item)
    return by_path
