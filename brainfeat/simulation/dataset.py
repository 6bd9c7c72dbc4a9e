"""Layout, tables and descriptions of the BIDS folder of a simulated cohort."""

__all__ = ["CohortFolder"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainfeat._version import __version__
from brainfeat.exceptions import InputError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.delimited_rows import write_rows
from brainfeat.io.json_files import format_json, read_json
from brainfeat.simulation.participants import Participant
from brainfeat.simulation.scan import LABELS

_BIDS_VERSION = "1.10.0"
# Increment when the same settings give other volumes.
_SIMULATION_VERSION = 2

_README = """\
# Simulated cohort

Simulated by brainfeat {version}: no person was scanned. Heads are smooth deformations
of one anatomy ({base}), seen by three simulated scanners.

Disease: {disease_kind}, in {disease:.0%} of the participants. `participants.tsv` holds
the diagnosis and the severity; `code/simulation.json` all settings.
"""

_COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"Description": "Age of the participant", "Units": "year"},
    "sex": {
        "Description": "Sex of the participant",
        "Levels": {"F": "female", "M": "male"},
    },
    "site": {"Description": "Simulated scanner"},
    "diagnosis": {
        "Description": "Whether the participant has the simulated disease",
        "Levels": {"0": "control", "1": "disease"},
    },
    "severity": {"Description": "Severity of the disease, from 0 (none) to 1"},
}


@dataclass(frozen=True)
class CohortFolder:
    """Paths and side files of one simulated cohort; `path` is the BIDS root."""

    path: Path

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> "CohortFolder":
        """Create a folder, or reopen one with the same settings."""
        settings = {"simulation_version": _SIMULATION_VERSION, **settings}
        record = path / "code" / "simulation.json"
        if record.exists():
            stored = read_json(record, "the settings of a simulation")
            _check_same(path, stored, settings)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                f"{path}: expected a new or empty folder, or an earlier simulation."
            )
        folder = cls(path)
        _write_json(record, settings)
        folder._describe(settings)
        return folder

    @property
    def derivatives(self) -> Path:
        """Folder of the label maps."""
        return self.path / "derivatives" / "simulation"

    def image(self, participant_id: str, modality: str) -> Path:
        """Return the path of a scan; `participant_id` begins with ``sub-``."""
        name = f"{participant_id}_{modality}.nii.gz"
        return self.path / participant_id / "anat" / name

    def label_map(self, participant_id: str) -> Path:
        """Return the path of a label map."""
        name = f"{participant_id}_dseg.nii.gz"
        return self.derivatives / participant_id / "anat" / name

    def write_sidecar(self, participant: Participant, modality: str) -> None:
        """Write the JSON sidecar of a scan."""
        image = self.image(participant.id, modality)
        scanner = participant.scanner
        _write_json(
            image.with_name(image.name.replace(".nii.gz", ".json")),
            {
                "Modality": "MR",
                "Manufacturer": scanner.manufacturer,
                "ManufacturersModelName": scanner.model,
                "MagneticFieldStrength": scanner.field_strength,
                "InstitutionName": scanner.name,
            },
        )

    def write_participants(self, participants: Sequence[Mapping[str, Any]]) -> None:
        """Write participants.tsv in full, and its description."""
        _write_json(self.path / "participants.json", _COLUMNS)
        header = list(participants[0])
        rows = [header, *(list(one.values()) for one in participants)]
        with (
            atomic_write(self.path / "participants.tsv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            write_rows(file, rows, "\t")

    def n_participants(self) -> int:
        """Count the rows of participants.tsv; 0 without the file."""
        table = self.path / "participants.tsv"
        return len(table.read_text().splitlines()) - 1 if table.exists() else 0

    def _describe(self, settings: Mapping[str, Any]) -> None:
        tool = [{"Name": "brainfeat", "Version": __version__}]
        common = {"BIDSVersion": _BIDS_VERSION, "License": "CC0", "GeneratedBy": tool}
        _write_json(
            self.path / "dataset_description.json",
            {"Name": "Simulated cohort", "DatasetType": "raw", **common},
        )
        base = settings["base"]
        text = _README.format(
            version=__version__,
            **dict(settings)
            | {"base": base if isinstance(base, str) else "a T1w scan"},
        )
        _write_text(self.path / "README.md", text)
        _write_json(
            self.derivatives / "dataset_description.json",
            {"Name": "Simulation truth", "DatasetType": "derivative", **common},
        )
        rows = "".join(f"{i}\t{name}\n" for i, name in enumerate(LABELS, start=1))
        _write_text(self.derivatives / "dseg.tsv", f"index\tname\n{rows}")


def _check_same(
    path: Path, stored: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    differences = [
        f"{key} {stored.get(key)!r}, not {settings.get(key)!r}"
        for key in sorted({*stored, *settings})
        if stored.get(key) != settings.get(key)
    ]
    if differences:
        raise InputError(f"{path}: holds a simulation with {'; '.join(differences)}.")


def _write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    _write_text(path, format_json(content))


def _write_text(path: Path, text: str) -> None:
    # A second call must not touch a file that stays the same.
    if path.exists() and path.read_text() == text:
        return
    with atomic_write(path) as partial:
        partial.write_text(text)
