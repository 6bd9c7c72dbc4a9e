"""BIDS folders in: which anatomical images belong to one session of a subject."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from brainfeat.io.delimited_rows import DelimitedError, read_rows, read_value
from brainfeat.io.paths import bids_suffix
from brainfeat.subjects.bids.filter import BidsName, BidsSelection

__all__ = [
    "BidsName",
    "BidsSession",
    "index_bids",
    "is_bids_folder",
    "parse_bids_name",
    "read_participants",
    "read_sessions",
]

logger = logging.getLogger(__name__)

_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True, kw_only=True)
class BidsSession:
    """The images of one visit to the scanner, or of one run of it.

    Parameters
    ----------
    participant_id : str
        With ``sub-``.
    session_id : str or None
        With ``ses-``, if the folder has sessions.
    run : str or None
        Label of the run, if a modality was repeated.
    images : mapping of str to Path
        One file a modality.
    clashes : mapping of str to tuple of Path
        Modalities for which several files fit; they are not in ``images``.
    error : OSError or None
        Why its folder cannot be read; nothing is known of its images then.
    metadata : mapping of str to str or None
        The subject's line of ``participants.tsv``, and that of the session.
    """

    participant_id: str
    session_id: str | None
    run: str | None = None
    images: Mapping[str, Path]
    clashes: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    error: OSError | None = None
    metadata: Mapping[str, str | None] = field(default_factory=dict)


def parse_bids_name(name: str) -> BidsName:
    """Take a file name apart.

    Parameters
    ----------
    name : str
        File name, without folders.

    Returns
    -------
    BidsName
        Entities and suffix; both may be empty, as in ``scan.nii.gz``.

    Examples
    --------
    >>> name = parse_bids_name("sub-01_ses-2_run-1_T1w.nii.gz")
    >>> name.participant_id, name.session_id, name.suffix
    ('sub-01', 'ses-2', 'T1w')
    """
    pairs = name.split("_")[:-1]
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    suffix = bids_suffix(name)
    return BidsName(entities, "" if "-" in suffix else suffix)


def is_bids_folder(folder: Path) -> bool:
    """Whether a folder is laid out as BIDS: it describes itself or has subjects.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Returns
    -------
    bool
        True if it has ``dataset_description.json`` or a folder ``sub-*``.
    """
    if (folder / "dataset_description.json").is_file():
        return True
    return any(_folders(folder, "sub-"))


def index_bids(
    folder: Path, modalities: Sequence[str], selection: BidsSelection | None = None
) -> list[BidsSession]:
    """Gather the anatomical images of a BIDS folder, a session at a time.

    Parameters
    ----------
    folder : Path
        Root of the dataset.
    modalities : sequence of str
        Suffixes to look for, such as ``("T1w", "FLAIR")``.
    selection : BidsSelection, optional
        Which of them to take; all by default.

    Returns
    -------
    list of BidsSession
        One a session that has any of them, sorted by subject and session. Where
        a modality has several runs, one a run; a modality with a single image
        belongs to every run then.

    Raises
    ------
    InputError
        If a participant was asked for and is not there.
    """
    selection = selection or BidsSelection()
    participants = read_participants(folder)
    sessions: list[BidsSession] = []
    for subject in selection.take_participants(folder, _folders(folder, "sub-")):
        known = participants.get(subject.name, {})
        unknown = BidsSession(participant_id=subject.name, session_id=None, images={})
        try:
            visits = read_sessions(subject)
            places = [subject, *_folders(subject, "ses-")]
        except OSError as error:
            sessions.append(replace(unknown, error=error))
            continue
        for place in places:
            session_id = None if place is subject else place.name
            if not selection.has_session(session_id):
                continue
            metadata = {**known, **visits.get(session_id or "", {})}
            session = replace(unknown, session_id=session_id, metadata=metadata)
            sessions += _read_runs(session, place / "anat", modalities, selection)
    return sessions


def read_participants(folder: Path) -> dict[str, dict[str, str | None]]:
    """Read ``participants.tsv``.

    Parameters
    ----------
    folder : Path
        Root of the dataset.

    Returns
    -------
    dict of str to dict
        Columns by ``participant_id``, which has its ``sub-``; ``n/a``, or what pandas
        or R write in its place, is None. Empty without such a file.
    """
    return _read_labels(folder / "participants.tsv", "participant_id", "sub-")


def read_sessions(subject: Path) -> dict[str, dict[str, str | None]]:
    """Read ``sub-01_sessions.tsv`` of a subject.

    Parameters
    ----------
    subject : Path
        Folder of the subject.

    Returns
    -------
    dict of str to dict
        Columns by ``session_id``, which has its ``ses-``; as for `read_participants`.
    """
    path = subject / f"{subject.name}_sessions.tsv"
    return _read_labels(path, "session_id", "ses-")


def _read_labels(path: Path, column: str, prefix: str) -> dict[str, Any]:
    """Read a table of metadata. What is wrong with it is told: images need none."""
    if not path.is_file():
        if path.is_symlink():
            logger.warning("%s: a link to no file; its columns are left out.", path)
        return {}
    lines: dict[str, Any] = {}
    rows = _whole_rows(path)
    try:
        names = [name.strip() for name in next(rows, [])]
        if column not in names:
            logger.warning(
                "%s: expected a column %s, got %s; its columns are left out.",
                *(path, column, ", ".join(filter(None, names)) or "none"),
            )
            return {}
        for cells in rows:
            values = dict(zip_longest(names, map(read_value, cells[: len(names)])))
            label = values.pop(column, None) or ""
            values.pop("", None)  # of a tab at the end
            lines[prefix + label.removeprefix(prefix)] = values
    except DelimitedError as error:  # also of a quote that swallows a large table
        last = next(reversed(lines), "the names of its columns")
        text = "%s: damaged after %s (%s); the lines from there are left out."
        logger.warning(text, path, last, error)
    return lines


def _whole_rows(path: Path) -> Iterator[list[str]]:
    for _, cells in read_rows(path, "\t", errors="replace"):
        if any("\n" in cell for cell in cells):
            raise DelimitedError("a quote that is not closed")
        if cells:
            yield cells


def _folders(folder: Path, prefix: str) -> list[Path]:
    # os.scandir knows what is a folder without asking the disk once more each.
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.name.startswith(prefix) and _is_folder(entry)
        )
    return [folder / name for name in names]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _read_runs(
    session: BidsSession,
    folder: Path,
    modalities: Sequence[str],
    selection: BidsSelection,
) -> Iterator[BidsSession]:
    """Give a session once a run, with the images in its folder."""
    try:
        found = _find_images(folder, modalities, selection)
    except OSError as error:
        yield replace(session, error=error)
        return
    for run in _split_runs(found):
        images, clashes = _choose(found, run, modalities)
        yield replace(session, run=run, images=images, clashes=clashes)


def _find_images(
    folder: Path, modalities: Sequence[str], selection: BidsSelection
) -> dict[str, list[tuple[str | None, Path]]]:
    """Give the run and path of each image, by modality."""
    found: dict[str, list[tuple[str | None, Path]]] = {}
    if not folder.is_dir():
        return found
    for name in _image_names(folder):
        parsed = parse_bids_name(name)
        if (
            parsed.suffix in modalities
            and "sub" in parsed.entities
            and selection.has_image(parsed)
        ):
            run = parsed.entities.get("run")
            found.setdefault(parsed.suffix, []).append((run, folder / name))
    return found


def _image_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        # Names such as "._sub-01_T1w.nii.gz" are what macOS leaves behind.
        if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
            yield name


def _split_runs(
    found: Mapping[str, Sequence[tuple[str | None, Path]]],
) -> list[str | None]:
    repeated = [images for images in found.values() if len(images) > 1]
    runs = {run for images in repeated for run, _ in images if run is not None}
    if runs:
        return [*sorted(runs, key=lambda run: (len(run), run))]
    return [None] if found else []


def _choose(
    found: Mapping[str, Sequence[tuple[str | None, Path]]],
    run: str | None,
    modalities: Sequence[str],
) -> tuple[dict[str, Path], dict[str, tuple[Path, ...]]]:
    images, clashes = {}, {}
    for modality in (name for name in modalities if name in found):
        candidates = found[modality]
        if len(candidates) > 1 and run is not None:
            candidates = [pair for pair in candidates if pair[0] in {run, None}]
        if len(candidates) == 1:
            images[modality] = candidates[0][1]
        elif candidates:
            clashes[modality] = tuple(path for _, path in candidates)
    return images, clashes
