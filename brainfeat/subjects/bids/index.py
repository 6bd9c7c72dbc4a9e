"""Find the anatomical images of each session in a BIDS folder."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError
from brainfeat.io.paths import has_image_suffix
from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.bids.filter import BidsSelection
from brainfeat.subjects.bids.labels import join_participants, read_sessions
from brainfeat.subjects.subject import Outcome, Subject

__all__ = ["find_image_root", "find_root", "index_bids", "is_bids_folder", "unreadable"]

_LOGGER = logging.getLogger(__name__)
_N_NAMED = 10

# Run and path of each image, by modality.
_Images = Mapping[str, Sequence[tuple[str | None, Path]]]


def is_bids_folder(folder: Path) -> bool:
    """Whether a folder has ``dataset_description.json`` or folders ``sub-*``."""
    if (folder / "dataset_description.json").is_file():
        return True
    return any(_folders(folder, "sub-"))


def find_root(folder: Path) -> Path | None:
    """Return the root of the BIDS folder that ``sub-*/[ses-*/][anat]`` is a part of."""
    for is_part in (lambda name: name == "anat", lambda name: name.startswith("ses-")):
        if is_part(folder.name):
            folder = folder.parent
    return folder.parent if folder.name.startswith("sub-") else None


def find_image_root(path: Path, modalities: Sequence[str]) -> Path | None:
    """Return the root of the BIDS folder in which an index would find an image."""
    name = parse_bids_name(path.name)
    known = name.suffix.casefold() in map(str.casefold, modalities)
    is_image = known and "sub" in name.entities and has_image_suffix(path.name)
    return find_root(path.parent) if is_image and path.parent.name == "anat" else None


def index_bids(
    folder: Path, modalities: Sequence[str], selection: BidsSelection | None = None
) -> Iterator[Subject | Outcome[Any]]:
    """Yield a subject per session with images, sorted, or the failures of a session.

    Where a modality has several runs, each run is a subject with ``run`` in its
    metadata, and a modality with a single image belongs to every run. Metadata are
    the lines of ``participants.tsv`` and ``sessions.tsv``.
    """
    selection = selection or BidsSelection()
    homes = _folders(folder, "sub-")
    participants = join_participants(folder, [home.name for home in homes])
    selected = selection.take_participants(folder, homes)
    without_image = []
    for home in selected:
        subject = Subject(home.name, {}, metadata=participants.get(home.name, {}))
        found = [*_read_participant(subject, home, modalities, selection)]
        if not found:
            without_image.append(home.name)
        yield from found
    if len(without_image) < len(selected) and without_image:
        _LOGGER.warning(
            "%s: %d of %d participants have no image in anat/ of %s that is asked "
            "for: %s.",
            *(folder, len(without_image), len(selected), " or ".join(modalities)),
            ", ".join(without_image[:_N_NAMED])
            + (", ..." if without_image[_N_NAMED:] else ""),
        )


def _read_participant(
    subject: Subject, home: Path, modalities: Sequence[str], selection: BidsSelection
) -> Iterator[Subject | Outcome[Any]]:
    try:
        labels = read_sessions(home)
        session_folders = [home, *_folders(home, "ses-")]
    except OSError as error:
        yield unreadable(subject, home, error)
        return
    for session_folder in session_folders:
        session_id = None if session_folder is home else session_folder.name
        images = session_folder / "anat"
        if selection.has_session(session_id) and selection.has_folder(images):
            metadata = {**subject.metadata, **labels.get(session_id or "", {})}
            session = replace(subject, session_id=session_id, metadata=metadata)
            yield from _read_session(session, images, modalities, selection)


def unreadable(subject: Subject, path: Path, error: OSError) -> Outcome[Any]:
    """Return the failure of a subject of which a file or folder cannot be read."""
    return _failure(
        subject, str(error.filename or path), f"cannot be read ({error.strerror})."
    )


def _read_session(
    session: Subject, folder: Path, modalities: Sequence[str], selection: BidsSelection
) -> Iterator[Subject | Outcome[Any]]:
    try:
        images = _find_images(folder, modalities, selection)
    except OSError as error:
        yield unreadable(session, folder, error)
        return
    for run in _runs(images):
        chosen = _choose(images, run, modalities)
        problems = [*_find_problems(session, chosen)]
        if problems:
            yield from problems
            continue
        # The run is that of the file names, not a column of participants.tsv.
        metadata = {k: v for k, v in session.metadata.items() if k != "run"}
        yield replace(
            session,
            images={modality: str(paths[0]) for modality, paths in chosen.items()},
            metadata=metadata if run is None else {"run": run, **metadata},
        )


def _find_images(
    folder: Path, modalities: Sequence[str], selection: BidsSelection
) -> _Images:
    images: dict[str, list[tuple[str | None, Path]]] = {}
    if not folder.is_dir():
        return images
    known = {modality.casefold(): modality for modality in modalities}
    for name in _image_names(folder):
        parsed = parse_bids_name(name)
        # In lower case, as other folders allow.
        suffix = known.get(parsed.suffix.casefold(), parsed.suffix)
        parsed = replace(parsed, suffix=suffix)
        if (
            suffix in modalities
            and "sub" in parsed.entities
            and selection.has_image(parsed)
            and selection.has_path(folder / name)
        ):
            run = parsed.entities.get("run")
            images.setdefault(suffix, []).append((run, folder / name))
    return images


def _image_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        # macOS leaves files such as "._sub-01_T1w.nii.gz".
        if has_image_suffix(name) and not name.startswith("."):
            yield name


def _runs(images: _Images) -> list[str | None]:
    """Return the labels of the runs; None if no modality was repeated."""
    repeated = [pairs for pairs in images.values() if len(pairs) > 1]
    runs = {run for pairs in repeated for run, _ in pairs if run is not None}
    if runs:
        return [*sorted(runs, key=lambda run: (len(run), run))]
    return [None] if images else []


def _choose(
    images: _Images, run: str | None, modalities: Sequence[str]
) -> dict[str, list[Path]]:
    """Return the images of a run by modality; several are a clash."""
    chosen = {}
    for modality in (name for name in modalities if name in images):
        pairs = images[modality]
        if len(pairs) > 1 and run is not None:
            pairs = [pair for pair in pairs if pair[0] in {run, None}]
        if pairs:
            chosen[modality] = [path for _, path in pairs]
    return chosen


def _find_problems(
    session: Subject, chosen: Mapping[str, Sequence[Path]]
) -> Iterator[Outcome[Any]]:
    for modality, paths in chosen.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            yield _failure(
                session,
                str(paths[0]),
                f"several {modality} images fit ({names}); name one in a manifest, "
                "or choose by --bids-filter-file.",
            )
    for paths in chosen.values():
        if len(paths) == 1 and not _is_of(session, paths[0].name):
            yield _failure(
                session,
                str(paths[0]),
                "its name is of another participant or session than its folder; "
                "rename or move it, or name it in a manifest.",
            )


def _is_of(session: Subject, name: str) -> bool:
    """Whether a file is named for the folders that it lies in.

    Labels may hold underscores, against the rules of BIDS; a name may lack the session.
    """
    if not name.startswith(f"{session.participant_id}_"):
        return False
    label = session.session_id
    return label is None or "_ses-" not in name or f"_{label}_" in name


def _failure(session: Subject, source: str, reason: str) -> Outcome[Any]:
    subject = replace(session, source=source)
    return Outcome(subject, error=InputError(f"{source}: {reason}"))


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
