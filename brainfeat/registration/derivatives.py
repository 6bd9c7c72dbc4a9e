"""Registered scans and their transforms as a BIDS derivative: names and resuming."""

__all__ = ["TABLE_NAME", "RegistrationFolder"]

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from brainfeat.exceptions import InputError, brief_reason
from brainfeat.io.delimited_rows import write_records
from brainfeat.io.hashing import known_hash
from brainfeat.io.json_files import read_json_object, write_json
from brainfeat.io.paths import image_stem
from brainfeat.io.volumes import write_image
from brainfeat.registration.estimator import first_image
from brainfeat.registration.pair import RegisteredPair
from brainfeat.subjects.bids.description import check_description, describe_derivatives
from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.subject import Subject

TABLE_NAME = "registrations.csv"
_DESCRIPTION, _DATASET = "dataset_description.json", "Registrations"
# Keys of the JSON file of a registered scan.
_SOURCE, _INPUT, _SETTINGS, _MEASURES = "Source", "InputSHA256", "Settings", "Measures"


@dataclass(frozen=True, eq=False, kw_only=True)
class RegistrationFolder:
    """A folder of scans that are registered to one fixed scan, and resumes."""

    folder: Path
    space: str  # name of the fixed scan
    settings: Mapping[str, Any]  # all that a registration depends on, but the scan
    _written: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, fixed: str, settings: Mapping[str, Any]) -> Self:
        """Write the file that describes the dataset; refuse a folder in other use."""
        check_description(folder, _DATASET)
        table = folder / TABLE_NAME
        if table.exists() and not (folder / _DESCRIPTION).exists():
            raise InputError(f"{table}: exists and is not ours; choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _DESCRIPTION, describe_derivatives(_DATASET))
        return cls(folder=folder, space=_space_of(fixed), settings=settings)

    def is_done(self, subject: Subject) -> bool:
        """Whether a scan was registered with these settings; hashes it.

        Raises an InputError if its files would be those of another scan of the run, or
        are not ours.
        """
        target, source = self.target(subject), str(first_image(subject))
        other = self._written.setdefault(target, source)
        if other != source:
            raise InputError(
                f"{source}: {target.name} is the registration of {other} in this run; "
                "rename one of them."
            )
        stored = read_json_object(_sidecar(target)) or {}
        if _INPUT not in stored and (target.exists() or _sidecar(target).exists()):
            raise InputError(
                f"{target}: exists and is not ours; choose another folder."
            )
        is_same = all(stored.get(k) == v for k, v in self._provenance(subject).items())
        return target.exists() and _MEASURES in stored and is_same

    def write(self, subject: Subject, pair: RegisteredPair) -> Path:
        """Write the scan on the fixed grid, both transforms, and the quality.

        Raises an InputError if the disk is full, which ends the run.
        """
        target, provenance = self.target(subject), self._provenance(subject)
        measures = {
            "participant_id": subject.participant_id,
            "session_id": subject.session_id,
            **{name: _as_json(value) for name, value in pair.quality._asdict().items()},
        }
        image = pair.transform.apply(first_image(subject))
        try:
            # If the run is killed here, the files are ours and are written again.
            write_json(_sidecar(target), {_INPUT: provenance[_INPUT]})
            pair.transform.save(self._transform_path(subject))
            pair.transform.invert().save(self._transform_path(subject, back=True))
            write_image(image, target)
            write_json(_sidecar(target), {**provenance, _MEASURES: measures})
        except OSError as error:
            raise InputError(
                f"{target}: cannot be written ({brief_reason(error)}); "
                "the same command resumes."
            ) from error
        return target

    def target(self, subject: Subject) -> Path:
        """Name the registered scan: ``sub-01_space-MNI152_T1w.nii.gz``."""
        stem, suffix = _split(subject)
        ending = f"_{suffix}" if suffix else ""
        return self.folder / f"{stem}_space-{self.space}{ending}.nii.gz"

    def write_table(self) -> Path | None:
        """Write the quality of all registered scans of the folder as a CSV file."""
        rows = []
        for target in sorted(self.folder.glob(f"*_space-{self.space}*.nii.gz")):
            stored = read_json_object(_sidecar(target)) or {}
            if _MEASURES in stored and stored.get(_SETTINGS) == dict(self.settings):
                files = {"image": stored[_SOURCE], "registered": target.name}
                rows.append({**stored[_MEASURES], **files})
        if not rows:
            return None
        path = self.folder / TABLE_NAME
        write_records(path, rows)
        return path

    def _provenance(self, subject: Subject) -> dict[str, Any]:
        source = str(first_image(subject))
        return {
            _SOURCE: source,
            _INPUT: known_hash(source),
            _SETTINGS: dict(self.settings),
        }

    def _transform_path(self, subject: Subject, *, back: bool = False) -> Path:
        stem, suffix = _split(subject)
        ends = (
            (self.space, suffix or "scan") if back else (suffix or "scan", self.space)
        )
        return self.folder / f"{stem}_from-{ends[0]}_to-{ends[1]}_mode-image_xfm"


def _split(subject: Subject) -> tuple[str, str]:
    """Split the name of a scan into its entities and its suffix, which may be none."""
    path = Path(str(first_image(subject)))
    stem = image_stem(path)
    name = parse_bids_name(stem)
    if name.participant_id is not None and name.suffix:
        return stem.removesuffix(f"_{name.suffix}"), name.suffix
    if subject.participant_id and Path(subject.participant_id).name != path.name:
        # Of a manifest or of a folder: files of several people may have one name.
        stem = f"{_to_label(subject.participant_id, keep='-_')}_{stem}"
    return stem, ""


def _space_of(fixed: str) -> str:
    """Name a space by the fixed scan: letters and digits, as labels of BIDS are.

    >>> _space_of("scans/sub-01_ses-2_T1w.nii.gz"), _space_of("template")
    ('sub01ses2T1w', 'MNI152')
    """
    if fixed == "template":
        return "MNI152"
    return _to_label(image_stem(fixed)) or "fixed"


def _to_label(text: str, keep: str = "") -> str:
    return re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", "", text)


def _sidecar(target: Path) -> Path:
    return target.with_name(target.name.replace(".nii.gz", ".json"))


def _as_json(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
