"""Which arrays of a store are of which files, without reading the files."""

__all__ = ["FileState", "StoredSubjects"]

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from brainfeat.configs import from_plain
from brainfeat.exceptions import VolumeError
from brainfeat.io.image_files import files_of
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.acquisitions import CopyPlan
from brainfeat.pretraining.label_maps import LABEL_MAP, LABEL_TABLE
from brainfeat.pretraining.ranks import rank
from brainfeat.pretraining.store import StoredScan, used_fields
from brainfeat.subjects.subject import Subject

# A file that was written within the step of the file system's clock may change again
# without a new date.
_SETTLED_AFTER = 2_000_000_000  # nanoseconds


class FileState(NamedTuple):
    """What tells whether files are as they were."""

    key: str  # of their names, sizes and dates, and of the settings of the store
    changed: int  # time of their last change, in nanoseconds
    seen: int  # time of this look at them


class StoredSubjects:
    """Lines of JSON beside the arrays: sizes and dates of files, and their scans.

    Arrays are named by the content of their images, and reading a thousand gigabytes
    to find these names takes an hour. Files of the same name, size and date are not
    read again. Each rank appends to a file of its own.
    """

    def __init__(
        self,
        folder: Path,
        preprocessor: Preprocessor,
        modalities: Sequence[str],
        plan: CopyPlan,
    ) -> None:
        self._plan = plan
        self._settings = repr(
            (preprocessor.fingerprint, tuple(modalities), plan.n_degraded, plan.config)
        )
        self._file = folder / f"subjects-{rank()}.jsonl"
        self._arrays = {entry.name for entry in os.scandir(folder)}
        self._scans: dict[str, tuple[StoredScan, ...]] = {}
        for path in sorted(folder.glob("subjects-*.jsonl")):
            for line in path.read_text().splitlines():
                self._read_line(line)

    def state_of(self, subject: Subject) -> FileState | None:
        """Look at the files of a subject; None if one is missing."""
        paths = [*subject.paths.values()]
        if label_map := subject.metadata.get(LABEL_MAP):
            paths.append(str(label_map))
        codes = self._plan.codes.get(str(subject.metadata.get(LABEL_TABLE)))
        parts: list[Any] = [self._settings, subject.session_id, codes]
        parts += sorted(subject.paths)
        changed = 0
        try:
            for path in (file for name in paths for file in files_of(name)):
                stat = path.stat()
                parts.append((str(path.absolute()), stat.st_size, stat.st_mtime_ns))
                changed = max(changed, stat.st_mtime_ns)
        except (OSError, VolumeError):
            return None
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        return FileState(key, changed, time.time_ns())

    def find(
        self, subject: Subject, state: FileState | None
    ) -> tuple[StoredScan, ...] | None:
        """Return the scans of a subject whose files are as they were."""
        scans = None if state is None else self._scans.get(state.key)
        if scans is None:
            return None
        names = {name for scan in scans for name in (scan.file, scan.labels) if name}
        if not names <= self._arrays:
            return None
        return tuple(replace(s, subject=subject.participant_id) for s in scans)

    def add(
        self, subject: Subject, before: FileState | None, scans: Sequence[StoredScan]
    ) -> None:
        """Remember scans of files that had the state `before` they were read."""
        now = self.state_of(subject)
        if before is None or now is None or now.key != before.key:
            return
        if before.seen - before.changed < _SETTLED_AFTER:
            return
        line = {"key": before.key, "scans": [used_fields(scan) for scan in scans]}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _read_line(self, line: str) -> None:
        try:
            content = json.loads(line)
            self._scans[content["key"]] = tuple(
                from_plain(StoredScan, scan, where="scan") for scan in content["scans"]
            )
        except (ValueError, KeyError, TypeError):
            return  # cut off by a crash
