"""Inputs of a command as subjects: images, globs, folders and manifests."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brainfeat.exceptions import InputError, ModalityError, VolumeError
from brainfeat.io.delimited_rows import (
    SPREADSHEET_SUFFIXES,
    DelimitedError,
    read_records,
)
from brainfeat.io.file_kinds import describe_absence, describe_dicom, is_address
from brainfeat.io.paths import IMAGE_SUFFIXES, expand_home, has_image_suffix, image_stem
from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.bids.filter import BidsSelection
from brainfeat.subjects.bids.index import (
    find_image_root,
    find_root,
    index_bids,
    is_bids_folder,
    unreadable,
)
from brainfeat.subjects.contrasts import LooseImage, ModalityChoice, join_contrasts
from brainfeat.subjects.failures import describe_failure, unique_failures
from brainfeat.subjects.names import (
    add_folders_to_names,
    find_namesakes,
    report_other_modalities,
)
from brainfeat.subjects.repeated import find_repeated
from brainfeat.subjects.samples import find_path
from brainfeat.subjects.subject import Outcome, Subject, is_reserved

__all__ = ["Manifest", "collect_bids", "collect_rows"]

_TABLE_SUFFIXES = {".csv", ".tsv", *SPREADSHEET_SUFFIXES}


@dataclass(frozen=True)
class Manifest:
    """Subjects to work on, and inputs that could not be read.

    Parameters
    ----------
    rows : tuple of Subject
        One per subject, session or run; no two have the same images.
    problems : tuple of Outcome
        Failures, such as missing files and folders without images.
    duplicates : tuple of str
        Images that were given more than once; the first counts.
    """

    rows: tuple[Subject, ...]
    problems: tuple[Outcome[Any], ...]
    duplicates: tuple[str, ...]

    @property
    def namesakes(self) -> dict[str, list[str]]:
        """Datasets that have a participant of the same name; they may be different."""
        return find_namesakes(self.rows)


def collect_rows(
    inputs: Sequence[str],
    *,
    modalities: Sequence[str],
    wanted: Sequence[str] = (),
    selection: BidsSelection | None = None,
) -> Manifest:
    """Find the images of images, globs, folders, CSV or TSV manifests and BIDS folders.

    ``modalities`` are those of the checkpoint, the one to assume first; ``wanted`` are
    those to use, or all. A single wanted one is also the modality of named images.
    Folders and images in one BIDS folder are one input. ``selection`` is of BIDS
    folders.
    """
    _check_modalities(wanted, modalities)
    collector = _Collector(tuple(modalities), tuple(wanted))
    collector.selection = selection or BidsSelection()
    for text in inputs:
        collector.add_input(text)
    collector.add_parts()
    if selection and selection.filters and not collector.has_bids_folders:
        raise InputError("expected a BIDS folder to filter images of, got none.")
    items = collector.take_encodable()
    joined = join_contrasts(items, collector.choice)
    found = find_repeated(joined.rows)
    rows = add_folders_to_names(found.rows, without_contrast=joined.has_joined)
    problems = [*collector.insert(joined.problems), *found.problems]
    if not rows:
        raise InputError(_summarize(problems, n_left_out=len(items)))
    report_other_modalities(rows)
    return Manifest(
        tuple(rows),
        unique_failures(problems),
        (*collector.repeated_parts, *joined.duplicates, *found.duplicates),
    )


def collect_bids(
    folder: Path,
    selection: BidsSelection,
    *,
    modalities: Sequence[str],
    wanted: Sequence[str] = (),
) -> Manifest:
    """Find the images of a BIDS dataset; modalities are as for `collect_rows`."""
    _check_modalities(wanted, modalities)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    collector = _Collector(tuple(modalities), tuple(wanted))
    collector.add_bids(Path(_absolute(folder)), selection)
    if not collector.rows and not collector.problems:
        raise InputError(
            f"{folder}: expected {collector.bids_images}, got none that were asked for."
        )
    joined = join_contrasts(collector.take_encodable(), collector.choice)
    return Manifest(joined.rows, unique_failures(collector.problems), ())


class _Collector:
    """Subjects and failures found so far."""

    def __init__(self, modalities: tuple[str, ...], wanted: tuple[str, ...]) -> None:
        self._modalities = modalities
        # In the checkpoint's order.
        self._used = tuple(m for m in modalities if not wanted or m in wanted)
        single = wanted[0] if len(wanted) == 1 else None
        self.choice = ModalityChoice(modalities, self._used, single)
        self.rows: list[Subject | LooseImage] = []
        self.problems: list[Outcome[Any]] = []
        self.selection = BidsSelection()
        self.has_bids_folders = False
        # Parts of BIDS folders, by root, and the number of rows before them.
        self._parts: dict[Path, tuple[Counter[Path], int]] = {}
        self._n_problems_before: dict[str, int] = {}  # by path of an image

    def insert(self, problems: Sequence[Outcome[Any]]) -> list[Outcome[Any]]:
        """Return all problems in the order of the inputs; these are of images."""
        ranks = [*range(1, len(self.problems) + 1)]
        ranks += [self._n_problems_before[p.subject.source_name] for p in problems]
        ranked = zip(ranks, [*self.problems, *problems], strict=True)
        return [problem for _, problem in sorted(ranked, key=lambda pair: pair[0])]

    @property
    def bids_images(self) -> str:
        """Pattern of the images to find, for messages."""
        return f"BIDS images sub-*/[ses-*/]anat/*_{{{','.join(self._used)}}}.nii.gz"

    def add_input(self, text: str) -> None:
        if not text:  # as a shell gives for a variable that is not set
            self._report("''", "expected a path, got an empty text.")
            return
        if is_address(text):
            self._report(text, f"{describe_absence(text)}.")
            return
        path = _absolute(text)
        names = [path]
        if glob.has_magic(path) and not _exists(Path(path)):
            # Path.glob would also find hidden files.
            names = sorted(glob.glob(path, recursive=True))  # noqa: PTH207  # see above
            if not names:
                self._report(path, "matches no file.")
        for name in names:
            try:
                self._add_path(Path(name))
            except OSError as error:
                self.problems.append(unreadable(Subject("", {}), Path(name), error))

    def add_bids(self, folder: Path, selection: BidsSelection | None = None) -> None:
        self.has_bids_folders = True
        for found in index_bids(folder, self._used, selection or self.selection):
            if isinstance(found, Outcome):
                self.problems.append(found)
            else:
                self.rows.append(replace(found, metadata=self._keep(found.metadata)))

    def add_parts(self) -> None:
        """Add folders and images in BIDS folders: those of one are one input."""
        rows, self.rows = self.rows, []
        n_moved = 0
        for root, (parts, position) in self._parts.items():
            self.rows += rows[n_moved:position]
            n_moved = position
            n_before = len(self.rows) + len(self.problems)
            self.add_bids(root, replace(self.selection, within=frozenset(parts)))
            if len(self.rows) + len(self.problems) == n_before:
                self._add_other_parts(parts)
        self.rows += rows[n_moved:]

    @property
    def repeated_parts(self) -> list[str]:
        """Images in BIDS folders that were given more than once."""
        counts = [pair for parts, _ in self._parts.values() for pair in parts.items()]
        return [str(path) for path, n in counts if n > 1 and path.is_file()]

    def _add_other_parts(self, parts: Iterable[Path]) -> None:
        """Search folders named as those of BIDS for images of other names."""
        for part in parts:
            if self.selection.filters or part.is_file():
                self._report(str(part), "expected images of the filter, got none.")
            else:
                self._add_plain_folder(part)

    def _keep_part(self, root: Path, path: Path) -> None:
        parts, _ = self._parts.setdefault(root, (Counter(), len(self.rows)))
        parts[path] += 1

    def take_encodable(self) -> list[Subject | LooseImage]:
        """Return the rows whose names can be written as text; report the others."""
        encodable = []
        for row in self.rows:
            paths = [row.path] if isinstance(row, LooseImage) else row.paths.values()
            names = [] if isinstance(row, LooseImage) else [row.participant_id]
            try:
                "".join([*names, *paths]).encode()
            except UnicodeEncodeError:
                path = next(iter(paths))
                self._report(path, "a name that is not text; rename the file.")
            else:
                encodable.append(row)
        return encodable

    def _add_path(self, path: Path) -> None:
        if path.is_dir():
            self._add_folder(path)
        elif not path.is_file():
            self._report(str(path), f"{describe_absence(path)}.")
        elif path.suffix.lower() in _TABLE_SUFFIXES:
            self._add_table(path)
        elif (root := find_image_root(path, self._used)) is not None:
            self._keep_part(root, path)
        else:
            self._add_image(path, is_named=True)

    def _add_folder(self, folder: Path) -> None:
        root = find_root(folder)
        if root is not None:
            self._keep_part(root, folder)
        elif is_bids_folder(folder):
            n_before = len(self.rows) + len(self.problems)
            self.add_bids(folder)
            self._check_found(folder, n_before, self.bids_images)
        else:
            self._add_plain_folder(folder)

    def _add_plain_folder(self, folder: Path) -> None:
        n_before = len(self.rows) + len(self.problems)
        for path in self._find_images(folder):
            self._add_image(path, is_named=False)
        self._check_found(folder, n_before, f"images ({', '.join(IMAGE_SUFFIXES)})")

    def _check_found(self, folder: Path, n_before: int, expected: str) -> None:
        if len(self.rows) + len(self.problems) == n_before:
            found = describe_dicom(folder) or "none"
            self._report(str(folder), f"expected {expected}, got {found}.")

    def _find_images(self, folder: Path) -> Iterator[Path]:
        def report(error: OSError) -> None:
            self.problems.append(unreadable(Subject("", {}), folder, error))

        for parent, folders, names in os.walk(folder, onerror=report):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if has_image_suffix(name) and not name.startswith("."):
                    yield Path(parent, name)

    def _add_image(self, path: Path, *, is_named: bool) -> None:
        try:
            _, is_there = find_path(path)
        except VolumeError as error:
            self.problems.append(
                Outcome(Subject("", {}, source=str(path)), error=error)
            )
            return
        if not is_there:  # a link to nothing, found by searching
            self._report(str(path), "no such file.")
            return
        image = LooseImage(_absolute(path), is_named)
        self._n_problems_before.setdefault(image.path, len(self.problems))
        self.rows.append(image)

    def _add_table(self, path: Path) -> None:
        try:
            unique = {*self._used, "participant_id", "session_id"}
            names, lines = read_records(path, unique=unique)
        except DelimitedError as error:
            self._report(str(path), f"not a readable table ({error}).")
            return
        if not lines:
            self._report(str(path), "the manifest is empty.")
            return
        if not set(names) & set(self._used):
            self._report(
                str(path),
                f"expected a column named {' or '.join(self._used)}, "
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
            for name in self._used
            if (text := line.get(name)) is not None
        }
        first = next(iter(images.values()), None)
        participant = line.get("participant_id")
        if first is None:
            self._report(str(path), f"line {number}: no image.", participant or "")
            return
        name = parse_bids_name(Path(first).name)
        self.rows.append(
            Subject(
                participant_id=participant or name.participant_id or image_stem(first),
                session_id=line.get("session_id") or name.session_id,
                images=images,
                metadata=self._keep(line),
            )
        )

    def _keep(self, line: Mapping[str, str | None]) -> dict[str, str | None]:
        # Our own tables are manifests too: columns that are computed are dropped.
        return {k: v for k, v in line.items() if not is_reserved(k, self._modalities)}

    def _report(self, source: str, reason: str, participant_id: str = "") -> None:
        subject = Subject(participant_id, {}, source=source)
        error = InputError(f"{source}: {reason}")
        self.problems.append(Outcome(subject, error=error))


def _check_modalities(wanted: Sequence[str], modalities: Sequence[str]) -> None:
    for name in wanted:
        if name not in modalities:
            raise ModalityError(
                f"unknown modality {name!r}, expected one of {', '.join(modalities)}."
            )


def _summarize(problems: Sequence[Outcome[Any]], *, n_left_out: int) -> str:
    if not problems and n_left_out:
        return (
            f"expected scans, got {n_left_out} images that are left out by their "
            "names, such as label maps; --modality overrules the names."
        )
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
    return os.path.exists(path)  # noqa: PTH110  # see above


def _absolute(path: str | Path) -> str:
    # Not resolve(): a link keeps the name that the user knows.
    return os.path.abspath(expand_home(path))  # noqa: PTH100  # see above
