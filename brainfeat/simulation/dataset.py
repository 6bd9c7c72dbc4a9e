"""The BIDS folder of a simulated cohort: names, tables and descriptions."""

__all__ = ["CohortFolder"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainfeat._version import __version__
from brainfeat.exceptions import InputError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.json_files import read_json
from brainfeat.simulation.people import Person
from brainfeat.simulation.scan import LABELS

BIDS_VERSION = "1.10.0"
# Raised when the same settings would no longer give the same volumes.
SIMULATION_VERSION = 2

README = """\
# Simulated cohort

Simulated by brainfeat {version}: no person was scanned. Heads are smooth deformations
of one anatomy ({base}), seen by three simulated scanners.

Disease: {disease_kind}, in {disease:.0%} of the participants. `participants.tsv` holds
the diagnosis and the severity; `code/simulation.json` all settings.
"""

COLUMNS: dict[str, dict[str, Any]] = {
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
    """Paths and side files of one simulated cohort.

    Parameters
    ----------
    path : Path
        Root of the BIDS folder.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> "CohortFolder":
        """Create the folder, or find it as an earlier call left it.

        Parameters
        ----------
        path : Path
            Root of the BIDS folder.
        settings : mapping
            Everything but the number of subjects that the volumes follow from.

        Returns
        -------
        CohortFolder
            With descriptions, without participants.

        Raises
        ------
        InputError
            If the folder holds anything but a cohort of the same settings.
        """
        settings = {"simulation_version": SIMULATION_VERSION, **settings}
        record = path / "code" / "simulation.json"
        if record.exists():
            found = read_json(record, "the settings of a simulation")
            _check_same(path, found, settings)
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
        """Path of a scan.

        Parameters
        ----------
        participant_id : str
            With ``sub-``.
        modality : str
            BIDS suffix.

        Returns
        -------
        Path
            A ``.nii.gz`` file, whether it exists or not.
        """
        name = f"{participant_id}_{modality}.nii.gz"
        return self.path / participant_id / "anat" / name

    def label_map(self, participant_id: str) -> Path:
        """Path of a label map.

        Parameters
        ----------
        participant_id : str
            With ``sub-``.

        Returns
        -------
        Path
            A ``.nii.gz`` file, whether it exists or not.
        """
        name = f"{participant_id}_dseg.nii.gz"
        return self.derivatives / participant_id / "anat" / name

    def write_sidecar(self, person: Person, modality: str) -> None:
        """Write what BIDS keeps beside a scan.

        Parameters
        ----------
        person : Person
            Who was scanned.
        modality : str
            BIDS suffix.
        """
        image = self.image(person.id, modality)
        scanner = person.scanner
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

    def write_participants(self, table: pd.DataFrame) -> None:
        """Write the table of participants.

        Parameters
        ----------
        table : DataFrame
            A row a participant; written in full, so it comes last.
        """
        _write_json(self.path / "participants.json", COLUMNS)
        with atomic_write(self.path / "participants.tsv") as partial:
            table.to_csv(partial, sep="\t", index=False, na_rep="n/a")

    def n_participants(self) -> int:
        """Count the rows of the table of participants.

        Returns
        -------
        int
            0 if there is no table.
        """
        table = self.path / "participants.tsv"
        return len(table.read_text().splitlines()) - 1 if table.exists() else 0

    def _describe(self, settings: Mapping[str, Any]) -> None:
        made_by = [{"Name": "brainfeat", "Version": __version__}]
        common = {"BIDSVersion": BIDS_VERSION, "License": "CC0", "GeneratedBy": made_by}
        _write_json(
            self.path / "dataset_description.json",
            {"Name": "Simulated cohort", "DatasetType": "raw", **common},
        )
        base = settings["base"]
        text = README.format(
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
    path: Path, found: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    differences = [
        f"{key} {found.get(key)!r}, not {settings.get(key)!r}"
        for key in sorted({*found, *settings})
        if found.get(key) != settings.get(key)
    ]
    if differences:
        raise InputError(f"{path}: holds a simulation with {'; '.join(differences)}.")


def _write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    _write_text(path, json.dumps(content, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    # Left alone if nothing changes, so that a second call touches no file.
    if path.exists() and path.read_text() == text:
        return
    with atomic_write(path) as partial:
        partial.write_text(text)
