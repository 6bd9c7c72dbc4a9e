"""Simulated cohorts, written as BIDS folders."""

__all__ = ["simulate_cohort"]

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from brainfeat.configs import is_integer
from brainfeat.exceptions import ConfigError, ModalityError
from brainfeat.io.hashing import content_hash
from brainfeat.io.paths import expand_home
from brainfeat.io.volumes import write_volume
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.bases import load_base
from brainfeat.simulation.contrast import MODALITIES
from brainfeat.simulation.dataset import CohortFolder
from brainfeat.simulation.disease import DISEASES, DiseaseKind
from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.participants import Participant
from brainfeat.simulation.population import Anatomies
from brainfeat.simulation.scan import draw_scan, label_map
from brainfeat.simulation.scanner import Pose
from brainfeat.volume import Geometry, Volume

logger = logging.getLogger(__name__)


def simulate_cohort(
    output: str | os.PathLike[str],
    n_subjects: int = 60,
    *,
    modalities: Sequence[str] = ("T1w",),
    disease: float = 0.5,
    labels: bool = True,
    random_state: int = 0,
    base: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    disease_kind: DiseaseKind = "medial-temporal",
) -> pd.DataFrame:
    """Simulate a cohort with a known disease and write it as a BIDS folder.

    Heads are smooth, invertible deformations of one anatomy, acquired on three
    scanners that differ in contrast, noise, bias field, resolution, orientation and
    field of view. A subject depends only on ``random_state`` and its number, so a
    larger cohort begins with the smaller one; with another number of threads a few
    voxels may differ by one unit. Calling again resumes: existing files are kept.

    Parameters
    ----------
    output : path-like
        Folder to write: new, empty, or written by an earlier call.
    n_subjects : int
        Number of subjects.
    modalities : sequence of {"T1w", "T2w", "FLAIR"}
        Scans of each subject.
    disease : float
        Fraction of the subjects with the disease.
    labels : bool
        Whether to write a label map of each subject, on the grid of its first scan,
        to ``derivatives/simulation``.
    random_state : int
        Seed, at least 0.
    base : tuple of (T1w, mask) paths, optional
        A head and its brain mask to deform, instead of the MNI152 template.
    disease_kind : {"medial-temporal", "lesions", "mass"}
        Atrophy of the medial temporal lobe with larger ventricles, white-matter
        lesions, or a mass with oedema.

    Returns
    -------
    DataFrame
        One row per subject, indexed by participant: ``participant_id``, a path per
        modality, the path of the label map (``dseg``), ``age`` in years, ``sex``,
        ``site``, ``diagnosis`` (1 is ill) and ``severity`` (0 to 1).

    Raises
    ------
    ConfigError
        If an argument is out of range.
    ModalityError
        If a modality is unknown or repeated, or none is given.
    InputError
        If the folder holds anything but the result of an earlier call, or the base
        and its mask have different grids.
    """
    _check(n_subjects, modalities, disease, disease_kind, random_state)
    # JSON cannot store numpy's numbers.
    n_subjects, random_state = int(n_subjects), int(random_state)
    disease = float(disease)
    # First, as an invalid base must not leave a folder behind.
    anatomy = None if base is None else load_base(*[os.fspath(path) for path in base])
    settings = {
        "modalities": list(modalities),
        "disease": disease,
        "disease_kind": disease_kind,
        "random_state": random_state,
        "base": "MNI152" if base is None else [content_hash(path) for path in base],
    }
    folder = CohortFolder.open(expand_home(output), settings)
    # The table of an earlier, larger cohort keeps all rows.
    participants = [
        Participant.draw(number, disease=disease, random_state=random_state)
        for number in range(1, max(n_subjects, folder.n_participants()) + 1)
    ]
    plan = _Plan(folder, tuple(modalities), labels, disease_kind)
    wanted = participants[:n_subjects]
    missing = [participant for participant in wanted if not plan.is_done(participant)]
    if missing:
        _simulate(missing, plan, anatomy or load_base())
    folder.write_participants([_describe(participant) for participant in participants])
    return pd.DataFrame(
        [plan.row(participant) for participant in wanted],
        index=[participant.id for participant in wanted],
    )


@dataclass(frozen=True)
class _Plan:
    """The files to write for each participant."""

    folder: CohortFolder
    modalities: tuple[str, ...]
    labels: bool
    disease: DiseaseKind

    def files(self, participant: Participant) -> dict[str, Path]:
        name = participant.id
        images = {
            modality: self.folder.image(name, modality) for modality in self.modalities
        }
        return images | ({"dseg": self.folder.label_map(name)} if self.labels else {})

    def is_done(self, participant: Participant) -> bool:
        return all(path.exists() for path in self.files(participant).values())

    def row(self, participant: Participant) -> dict[str, Any]:
        paths = {name: str(path) for name, path in self.files(participant).items()}
        described = _describe(participant)
        return {"participant_id": described.pop("participant_id")} | paths | described


def _check(
    n_subjects: object,
    modalities: Sequence[str],
    disease: object,
    disease_kind: str,
    random_state: object,
) -> None:
    if not is_integer(n_subjects, at_least=1):
        raise ConfigError(
            f"n_subjects: expected a positive integer, got {n_subjects!r}."
        )
    if not is_integer(random_state, at_least=0):
        raise ConfigError(
            f"random_state: expected an integer from 0 on, got {random_state!r}."
        )
    if not isinstance(disease, Real) or not 0 <= float(disease) <= 1:
        raise ConfigError(f"disease: expected a fraction from 0 to 1, got {disease!r}.")
    if disease_kind not in DISEASES:
        raise ConfigError(f"expected a disease among {DISEASES}, got {disease_kind!r}.")
    names = list(modalities)
    if not names or set(names) - set(MODALITIES) or len(set(names)) < len(names):
        raise ModalityError(
            f"expected one or more modalities among {MODALITIES}, each once, "
            f"got {modalities!r}."
        )


def _simulate(
    participants: Sequence[Participant], plan: _Plan, base: BaseAnatomy
) -> None:
    # Compression releases the GIL and overlaps with the next simulation.
    with ThreadPoolExecutor(1) as writer:
        previous: Future[None] | None = None
        for participant in participants:
            volumes = _simulate_scans(participant, plan, base)
            if previous is not None:
                previous.result()
            previous = writer.submit(_write, participant, plan, volumes)
            logger.info("Simulated %s (%s).", participant.id, participant.scanner.name)
        if previous is not None:
            previous.result()


def _simulate_scans(
    participant: Participant, plan: _Plan, base: BaseAnatomy
) -> dict[str, Volume]:
    subject = Anatomies.draw(
        base,
        participant.condition,
        disease=plan.disease,
        generator=participant.generator("anatomy"),
    )
    scanner = participant.scanner
    pose = Pose.draw(scanner.pose, 1, generator=participant.generator("pose"))
    volumes = {}
    for modality in plan.modalities:
        generator = participant.generator(modality)
        scan = draw_scan(subject, scanner, modality, pose, generator=generator)
        volumes[modality] = _volume(scan.data, scan.lattice)
        if plan.labels and "dseg" not in volumes:
            labels = label_map(subject, scan.lattice, pose)
            volumes["dseg"] = _volume(labels, scan.lattice)
    return volumes


def _volume(data: Tensor, lattice: Lattice) -> Volume:
    return Volume(data.numpy(), Geometry(lattice.shape, lattice.affine))


def _write(
    participant: Participant, plan: _Plan, volumes: Mapping[str, Volume]
) -> None:
    for name, path in plan.files(participant).items():
        if name in plan.modalities:
            plan.folder.write_sidecar(participant, name)
        write_volume(volumes[name], path)


def _describe(participant: Participant) -> dict[str, Any]:
    return {
        "participant_id": participant.id,
        "age": participant.age,
        "sex": participant.sex,
        "site": participant.scanner.name,
        "diagnosis": int(participant.has_disease),
        "severity": participant.severity,
    }
