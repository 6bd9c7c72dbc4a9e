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
from brainfeat.simulation.people import Person
from brainfeat.simulation.scan import draw_scan, label_map
from brainfeat.simulation.scanner import Pose
from brainfeat.simulation.subjects import Subjects
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

    Heads are smooth, invertible deformations of one anatomy, scanned by three
    scanners that differ in contrast, noise, bias field, resolution, orientation and
    field of view.  A subject depends on ``random_state`` and its number only, so a
    larger cohort begins with the smaller one; another number of threads rounds a few
    voxels by one unit.  Calling again resumes: files that are there are kept.

    Parameters
    ----------
    output : path-like
        Folder to write; new, empty, or an earlier call's.
    n_subjects : int
        Number of subjects.
    modalities : sequence of {"T1w", "T2w", "FLAIR"}
        Scans of each subject.
    disease : float
        Share of the subjects who have the disease.
    labels : bool
        Whether to write a label map of each subject, in its first scan's space, to
        ``derivatives/simulation``.
    random_state : int
        Seed, from 0 on.
    base : tuple of (T1w, mask) paths, optional
        A head with its brain mask that subjects are deformed from, instead of the
        MNI152 template.
    disease_kind : {"medial-temporal", "lesions", "mass"}
        Atrophy of the medial temporal lobe with larger ventricles, white-matter
        lesions, or a mass with oedema.

    Returns
    -------
    DataFrame
        A row a subject, indexed by participant: ``participant_id``, a path a
        modality, the path of the label map (``dseg``), ``diagnosis`` (1 is ill),
        ``severity`` (0 to 1), ``age`` in years, ``sex`` and ``site``.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    ModalityError
        If a modality is unknown, repeated, or none is given.
    InputError
        If the folder holds anything but an earlier call's result, or the base has
        another grid than its mask.
    """
    _check(n_subjects, modalities, disease, disease_kind, random_state)
    # numpy's numbers cannot be written as JSON.
    n_subjects, random_state = int(n_subjects), int(random_state)
    disease = float(disease)
    # Before anything is written, which would keep the folder for this base.
    anatomy = None if base is None else load_base(*[os.fspath(path) for path in base])
    settings = {
        "modalities": list(modalities),
        "disease": disease,
        "disease_kind": disease_kind,
        "random_state": random_state,
        "base": "MNI152" if base is None else [content_hash(path) for path in base],
    }
    folder = CohortFolder.open(expand_home(output), settings)
    # An earlier, larger cohort stays whole.
    people = [
        Person.draw(number, disease=disease, random_state=random_state)
        for number in range(1, max(n_subjects, folder.n_participants()) + 1)
    ]
    plan = _Plan(folder, tuple(modalities), labels, disease_kind)
    waiting = [person for person in people[:n_subjects] if not plan.is_done(person)]
    if waiting:
        _simulate(waiting, plan, anatomy or load_base())
    folder.write_participants(pd.DataFrame([_describe(person) for person in people]))
    return pd.DataFrame(
        [plan.row(person) for person in people[:n_subjects]],
        index=[person.id for person in people[:n_subjects]],
    )


@dataclass(frozen=True)
class _Plan:
    """What is written for each person."""

    folder: CohortFolder
    modalities: tuple[str, ...]
    labels: bool
    disease: DiseaseKind

    def files(self, person: Person) -> dict[str, Path]:
        paths = {name: self.folder.image(person.id, name) for name in self.modalities}
        return paths | (
            {"dseg": self.folder.label_map(person.id)} if self.labels else {}
        )

    def is_done(self, person: Person) -> bool:
        return all(path.exists() for path in self.files(person).values())

    def row(self, person: Person) -> dict[str, Any]:
        paths = {name: str(path) for name, path in self.files(person).items()}
        described = _describe(person)
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
        raise ConfigError(f"disease: expected a share from 0 to 1, got {disease!r}.")
    if disease_kind not in DISEASES:
        raise ConfigError(f"expected a disease among {DISEASES}, got {disease_kind!r}.")
    named = list(modalities)
    if not named or set(named) - set(MODALITIES) or len(set(named)) < len(named):
        raise ModalityError(
            f"expected one or more modalities among {MODALITIES}, each once, "
            f"got {modalities!r}."
        )


def _simulate(people: Sequence[Person], plan: _Plan, base: BaseAnatomy) -> None:
    # Compressing releases the interpreter, so it runs beside the next simulation.
    with ThreadPoolExecutor(1) as writer:
        previous: Future[None] | None = None
        for person in people:
            volumes = _scan(person, plan, base)
            if previous is not None:
                previous.result()
            previous = writer.submit(_write, person, plan, volumes)
            logger.info("Simulated %s (%s).", person.id, person.scanner.name)
        if previous is not None:
            previous.result()


def _scan(person: Person, plan: _Plan, base: BaseAnatomy) -> dict[str, Volume]:
    subject = Subjects.draw(
        base,
        person.condition,
        disease=plan.disease,
        generator=person.generator("anatomy"),
    )
    scanner = person.scanner
    pose = Pose.draw(scanner.pose, 1, generator=person.generator("pose"))
    volumes = {}
    for modality in plan.modalities:
        generator = person.generator(modality)
        scan = draw_scan(subject, scanner, modality, pose, generator=generator)
        volumes[modality] = _volume(scan.data, scan.lattice)
        if plan.labels and "dseg" not in volumes:
            labels = label_map(subject, scan.lattice, pose)
            volumes["dseg"] = _volume(labels, scan.lattice)
    return volumes


def _volume(data: Tensor, lattice: Lattice) -> Volume:
    return Volume(data.numpy(), Geometry(lattice.shape, lattice.affine))


def _write(person: Person, plan: _Plan, volumes: Mapping[str, Volume]) -> None:
    for name, path in plan.files(person).items():
        if name in plan.modalities:
            plan.folder.write_sidecar(person, name)
        write_volume(volumes[name], path)


def _describe(person: Person) -> dict[str, Any]:
    return {
        "participant_id": person.id,
        "age": person.age,
        "sex": person.sex,
        "site": person.scanner.name,
        "diagnosis": int(person.has_disease),
        "severity": person.severity,
    }
