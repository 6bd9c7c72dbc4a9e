"""People of a folder with a manifest: their scans, and what is known of them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from head_scans import Scan

# People whom the bundled weights were not trained on, by the names of their files. Of
# IXI, every third person from the second on, forty in all.
UNSEEN = (
    *(f"ds000011/ds0011_{number}_" for number in ("01", "05", "09")),
    *(f"ds002748/ds2748_{number}_" for number in ("02", "09", "11", "12")),
    "mne/",
    "open_ms/ljmslong12_",
    "single/nii2mesh_",
)
_IXI, _UNSEEN_IXI, _N_UNSEEN_IXI = "ixi/", slice(1, None, 3), 40


@dataclass(frozen=True, eq=False)
class Person:
    """One person, with a scan of each modality."""

    name: str
    scans: Mapping[str, Scan]  # by modality; of the first session
    stripped: Path | None  # the T1w scan without its skull, if there are both
    age: float | None
    sex: str
    is_unseen: bool  # no scan of this person was trained on

    @property
    def label_map(self) -> Path | None:
        """The label map of the T1w scan."""
        return self.scans["T1w"].label_map if "T1w" in self.scans else None

    @property
    def is_head(self) -> bool:
        """Whether the T1w scan shows the whole head."""
        return "T1w" in self.scans and self.scans["T1w"].brain == "head"


def read_people(folder: Path, *, all_unseen: bool = False) -> list[Person]:
    """Read the manifest of a folder; all people count as unseen if so stated."""
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file, delimiter="\t")]
    people: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["modality"] in {"T1w", "T2w", "FLAIR"}:
            people.setdefault(row.get("subject") or row["file"], []).append(row)
    unseen = find_unseen([row["file"] for row in rows])
    return [
        _to_person(folder, name, mine, all_unseen or mine[0]["file"] in unseen)
        for name, mine in people.items()
    ]


def find_unseen(files: Sequence[str]) -> set[str]:
    """Return the files of people whom the bundled weights were not trained on."""
    ixi = sorted(f for f in files if f.startswith(_IXI) and "_T1w" in f)
    return {
        *ixi[_UNSEEN_IXI][:_N_UNSEEN_IXI],
        *(name for name in files if name.startswith(UNSEEN)),
    }


def _to_person(
    folder: Path, name: str, rows: Sequence[Mapping[str, str]], is_unseen: bool
) -> Person:
    scans: dict[str, Scan] = {}
    stripped = None
    for row in rows:
        path, label_map = folder / row["file"], row.get("label_map")
        maps = folder / label_map if label_map else None
        scan = Scan(path, row["file"], row["modality"], row["brain"], maps)
        known = scans.setdefault(scan.modality, scan)
        if (known.brain, scan.brain, scan.modality) == ("head", "stripped", "T1w"):
            stripped = scan.path
    age = next((row["age"] for row in rows if row.get("age")), None)
    sex = next((row["sex"] for row in rows if row.get("sex")), "")
    return Person(
        name, scans, stripped, None if age is None else float(age), sex, is_unseen
    )
