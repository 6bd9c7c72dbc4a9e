"""What the command line was given, as rows: images, globs, folders, manifests."""

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError, ModalityError, VolumeError
from brainfeat.io.delimited_rows import DelimitedError, read_records
from brainfeat.io.paths import IMAGE_SUFFIXES, expand_home, has_image_suffix, image_stem
from brainfeat.subjects.bids.filter import BidsSelection
from brainfeat.subjects.bids.index import (
    BidsSession,
    index_bids,
    is_bids_folder,
    parse_bids_name,
)
from brainfeat.subjects.failures import describe_failure, unique_failures
from brainfeat.subjects.subject import Outcome, Subject, is_reserved
from brainfeat.subjects.table import BIDS_SUFFIXES, as_subjects

__all__ = ["Manifest", "collect_bids", "collect_rows"]

logger = logging.getLogger(__name__)

_TABLE_SUFFIXES = {".csv", ".tsv"}


@dataclass(frozen=True)
class Manifest:
    """Rows to embed, and what could not be made a row.

    Parameters
    ----------
    rows : tuple of Subject
        One a subject, session or run; no two have the same images.
    problems : tuple of Outcome
        Inputs that are no row: missing files, folders without images.
    duplicates : tuple of str
        Images that were given more than once; the first counts.
    """

    rows: tuple[Subject, ...]
    problems: tuple[Outcome[Any], ...]
    duplicates: tuple[str, ...]

    @property
    def namesakes(self) -> dict[str, list[str]]:
        """Folders in which a participant has one of its own, where these are several.

        They may be other people: names are unique in one dataset only.
        """
        folders: dict[str, dict[str, None]] = {}
        for row in self.rows:
            parts = Path(row.image).parts
            if row.participant_id in parts:
                place = parts[: parts.index(row.participant_id)]
                folders.setdefault(row.participant_id, {})[str(Path(*place))] = None
        return {name: [*found] for name, found in folders.items() if len(found) > 1}


def collect_rows(
    inputs: Sequence[str], *, modalities: Sequence[str], wanted: Sequence[str] = ()
) -> Manifest:
    """Find the images that the inputs name, with one row a subject.

    Parameters
    ----------
    inputs : sequence of str
        Images, globs, folders (searched to any depth), CSV or TSV manifests with
        a row a subject and a column a modality, and BIDS folders.
    modalities : sequence of str
        Modalities that the checkpoint knows, the one to assume first.
    wanted : sequence of str
        Modalities to use; none means all. A single one is also the modality of
        images that are given by name.

    Returns
    -------
    Manifest
        Rows in the order of the inputs.

    Raises
    ------
    InputError
        If nothing can be embedded: all inputs are missing, empty or unusable.
    ModalityError
        If a wanted modality is unknown.
    """
    _check_modalities(wanted, modalities)
    collector = _Collector(tuple(modalities), tuple(wanted))
    for text in inputs:
        collector.add_input(text)
    rows = _distinguish(collector.take_nameable())
    if not rows:
        raise InputError(_summarise(collector.take_problems()))
    _tell_of_other_names(rows, modalities)
    unique = {row.key: row for row in reversed(rows)}
    counts = Counter(row.key for row in rows)
    duplicates = tuple(unique[key].image for key, n in counts.items() if n > 1)
    return Manifest(
        tuple(unique[key] for key in counts), collector.take_problems(), duplicates
    )


def collect_bids(
    folder: Path,
    selection: BidsSelection,
    *,
    modalities: Sequence[str],
    wanted: Sequence[str] = (),
) -> Manifest:
    """Find the images of a BIDS dataset.

    Parameters
    ----------
    folder : Path
        Root of the dataset.
    selection : BidsSelection
        What to take from it.
    modalities : sequence of str
        As for `collect_rows`.
    wanted : sequence of str
        As for `collect_rows`.

    Returns
    -------
    Manifest
        One row a session or run.

    Raises
    ------
    InputError
        If there is no such folder, or nothing to embed in it.
    ModalityError
        If a wanted modality is unknown.
    """
    _check_modalities(wanted, modalities)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    collector = _Collector(tuple(modalities), tuple(wanted), selection)
    collector.add_bids(Path(_absolute(folder)))
    if not collector.rows and not collector.problems:
        raise InputError(
            f"{folder}: expected BIDS images sub-*/[ses-*/]anat/"
            f"*_{{{','.join(collector.used)}}}.nii.gz, got none that were asked for."
        )
    rows = collector.take_nameable()
    return Manifest(tuple(rows), collector.take_problems(), ())


@dataclass
class _Collector:
    """Rows and problems found so far."""

    modalities: tuple[str, ...]
    wanted: tuple[str, ...]
    selection: BidsSelection = field(default_factory=BidsSelection)
    rows: list[Subject] = field(default_factory=list)
    problems: list[Outcome[Any]] = field(default_factory=list)

    @property
    def used(self) -> tuple[str, ...]:
        """Modalities to look for, in the checkpoint's order."""
        return tuple(m for m in self.modalities if not self.wanted or m in self.wanted)

    def add_input(self, text: str) -> None:
        if not text:  # as a shell gives for a variable that is not set
            self._report("''", "expected a path, got an empty text.")
            return
        path = _absolute(text)
        found = [path]
        if glob.has_magic(path) and not _exists(Path(path)):
            # Path.glob would also find hidden files.
            found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207
            if not found:
                self._report(path, "matches no file.")
        for name in found:
            try:
                self._add_path(Path(name))
            except OSError as error:
                self._report_unreadable(Path(name), error)

    def _add_path(self, path: Path) -> None:
        if path.is_dir():
            self._add_folder(path)
        elif path.is_file():
            self._add_file(path)
        else:
            self._report(str(path), "no such file.")

    def add_bids(self, folder: Path) -> None:
        for session in index_bids(folder, self.used, self.selection):
            self._add_session(session)

    def _add_folder(self, folder: Path) -> None:
        n_before = len(self.rows) + len(self.problems)
        if is_bids_folder(folder):
            self.add_bids(folder)
            what = f"BIDS images sub-*/[ses-*/]anat/*_{{{','.join(self.used)}}}.nii.gz"
        else:
            for path in self._find_images(folder):
                if self._is_wanted(path):
                    self._add_image(path)
            what = f"images ({', '.join(IMAGE_SUFFIXES)})"
        if len(self.rows) + len(self.problems) == n_before:
            self._report(str(folder), f"expected {what}, got none.")

    def _find_images(self, folder: Path) -> Iterator[Path]:
        tree = os.walk(folder, onerror=lambda e: self._report_unreadable(folder, e))
        for parent, folders, names in tree:
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if has_image_suffix(name) and not name.startswith("."):
                    yield Path(parent, name)

    def _is_wanted(self, path: Path) -> bool:
        """Whether a file found by searching is a scan of a modality in use."""
        known = {modality.casefold(): modality for modality in self.modalities}
        suffix = parse_bids_name(path.name).suffix.casefold()
        if suffix in known:
            return known[suffix] in self.used
        try:
            self._modality_of(path)
        except ModalityError:
            return False
        except VolumeError:
            return True  # a link to nothing is told of, not left out
        return True

    def _modality_of(self, path: Path) -> str:
        # As in Python: the embedder reads a list of paths by the same rules.
        table = as_subjects(
            [path], modality=None, modalities=self.used, allow_missing=True
        )
        return next(iter(table.rows[0].images))

    def _add_session(self, session: BidsSession) -> None:
        if session.error is not None:
            folder = Path(session.participant_id, session.session_id or "")
            self._report_unreadable(folder, session.error, session.participant_id)
            return
        for modality, paths in session.clashes.items():
            names = ", ".join(path.name for path in paths)
            self._report(
                str(paths[0]),
                f"several {modality} images fit ({names}); name one in a manifest, "
                "or choose by brainfeat bids --bids-filter-file.",
                participant_id=session.participant_id,
            )
        misfiled = [p for p in session.images.values() if not _is_of(session, p.name)]
        for path in misfiled:
            self._report(
                str(path),
                "its name is of another participant or session than its folder; "
                "rename or move it, or name it in a manifest.",
                participant_id=session.participant_id,
            )
        if session.clashes or misfiled:
            return
        # The run is an entity of the file names here, not a column of the people's.
        run = {} if session.run is None else {"run": session.run}
        metadata = {k: v for k, v in session.metadata.items() if k != "run"}
        self.rows.append(
            Subject(
                participant_id=session.participant_id,
                session_id=session.session_id,
                images={m: _absolute(path) for m, path in session.images.items()},
                metadata={**run, **self._keep(metadata)},
            )
        )

    def _add_file(self, path: Path) -> None:
        if path.suffix.lower() in _TABLE_SUFFIXES:
            self._add_table(path)
        else:
            self._add_image(path)

    def _add_image(self, path: Path) -> None:
        name = parse_bids_name(path.name)
        try:
            single = self.wanted[0] if len(self.wanted) == 1 else None
            modality = single or self._modality_of(path)
        except (ModalityError, VolumeError) as error:
            subject = Subject("", {}, source=str(path))
            self.problems.append(Outcome(subject, error=error))
            return
        self.rows.append(
            Subject(
                participant_id=name.participant_id or image_stem(path),
                session_id=name.session_id,
                images={modality: _absolute(path)},
            )
        )

    def _add_table(self, path: Path) -> None:
        try:
            unique = {*self.used, "participant_id", "session_id"}
            names, lines = read_records(path, unique=unique)
        except DelimitedError as error:
            self._report(str(path), f"not a readable table ({error}).")
            return
        if not lines:
            self._report(str(path), "the manifest is empty.")
            return
        if not set(names) & set(self.used):
            self._report(
                str(path),
                f"expected a column named {' or '.join(self.used)}, "
                f"got {', '.join(names) or 'none'}.",
            )
            return
        for number, line in lines.items():
            self._add_line(path, number, line)

    def _add_line(
        self, path: Path, number: int, line: Mapping[str, str | None]
    ) -> None:
        images = {
            name: _resolve(text, path.parent)
            for name in self.used
            if (text := line.get(name)) is not None
        }
        main = next(iter(images.values()), None)
        participant = line.get("participant_id")
        if main is None:
            self._report(
                str(path), f"line {number}: no image.", participant_id=participant or ""
            )
            return
        name = parse_bids_name(Path(main).name)
        self.rows.append(
            Subject(
                participant_id=participant or name.participant_id or image_stem(main),
                session_id=line.get("session_id") or name.session_id,
                images=images,
                metadata=self._keep(line),
            )
        )

    def _keep(self, line: Mapping[str, str | None]) -> dict[str, str | None]:
        # A table that we wrote is a manifest too: what we computed is dropped.
        return {k: v for k, v in line.items() if not is_reserved(k, self.modalities)}

    def take_nameable(self) -> list[Subject]:
        """Give the rows whose names can be written down; report the others."""
        nameable = []
        for row in self.rows:
            try:
                row.key.encode()
                "".join([row.participant_id, *row.paths.values()]).encode()
            except UnicodeEncodeError:
                self._report(row.image, "a name that is not text; rename the file.")
            else:
                nameable.append(row)
        return nameable

    def take_problems(self) -> tuple[Outcome[Any], ...]:
        """Give each problem once: an image of several runs has it in all of them."""
        return unique_failures(self.problems)

    def _report_unreadable(
        self, path: Path, error: OSError, participant_id: str = ""
    ) -> None:
        self._report(
            str(error.filename or path),
            f"cannot be read ({error.strerror}).",
            participant_id=participant_id,
        )

    def _report(self, source: str, reason: str, *, participant_id: str = "") -> None:
        subject = Subject(participant_id, {}, source=source)
        error = InputError(f"{source}: {reason}")
        self.problems.append(Outcome(subject, error=error))


def _is_of(session: BidsSession, name: str) -> bool:
    """Whether a file bears the names of the folders that it lies in.

    Labels may hold underscores, against the rules of BIDS; a name may lack the session.
    """
    if not name.startswith(f"{session.participant_id}_"):
        return False
    visit = session.session_id
    return visit is None or "_ses-" not in name or f"_{visit}_" in name


def _check_modalities(wanted: Sequence[str], modalities: Sequence[str]) -> None:
    for name in wanted:
        if name not in modalities:
            raise ModalityError(
                f"unknown modality {name!r}, expected one of {', '.join(modalities)}."
            )


def _tell_of_other_names(rows: Sequence[Subject], modalities: Sequence[str]) -> None:
    """Warn of images whose names say another modality than they are taken for.

    A glob that caught too much or two columns that were exchanged would not be noticed.
    """
    known = BIDS_SUFFIXES.union(map(str.casefold, modalities))
    others = [
        (path, modality)
        for row in rows
        for modality, path in row.paths.items()
        if parse_bids_name(Path(path).name).suffix.casefold()
        in known - {modality.casefold()}
    ]
    if others:
        path, modality = others[0]
        more = f" ({len(others) - 1} more like it)" if len(others) > 1 else ""
        logger.warning(
            "%s: taken for %s, which its name does not say%s", path, modality, more
        )


def _summarise(problems: Sequence[Outcome[Any]]) -> str:
    if not problems:
        return "expected images, folders or manifests, got no input."
    more = f" ({len(problems) - 1} more like it.)" if len(problems) > 1 else ""
    return f"{describe_failure(problems[0])}{more}"


def _resolve(text: str, folder: Path) -> str:
    path = expand_home(text)
    beside = folder / path
    return _absolute(beside if _exists(beside) or not _exists(path) else path)


def _exists(path: Path) -> bool:
    # Path.exists raises where it may not look, and if a name is too long.
    return os.path.exists(path)  # noqa: PTH110


def _absolute(path: str | Path) -> str:
    # Not resolve(): a link keeps the name that the user knows.
    return os.path.abspath(expand_home(path))  # noqa: PTH100


def _distinguish(rows: Sequence[Subject]) -> list[Subject]:
    """Name images by their folders too, where file names alone are the same.

    ``001/T1.nii`` and ``002/T1.nii`` become ``001_T1`` and ``002_T1``.
    """
    clashes: dict[str, set[str]] = {}
    for row in rows:
        if row.participant_id == image_stem(row.image):
            clashes.setdefault(row.participant_id, set()).add(row.image)
    renamed = {
        image: name
        for images in clashes.values()
        if len(images) > 1
        for image, name in _longer_names(sorted(images)).items()
    }
    return [
        replace(row, participant_id=renamed[row.image])
        if row.image in renamed and row.participant_id == image_stem(row.image)
        else row
        for row in rows
    ]


def _longer_names(images: Sequence[str]) -> dict[str, str]:
    root = os.path.commonpath(images)
    return {
        image: "_".join([*Path(image).relative_to(root).parts[:-1], image_stem(image)])
        for image in images
    }
