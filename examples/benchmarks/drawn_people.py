"""The people of the development cohort, drawn on the encoder's grid.

`development_cohort.py` writes scans, which are then registered. Here the same people
are scanned on the encoder's grid, up to the pose that a registration leaves, so that
hundreds of them take minutes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from development_cohort import COHORT_SEED, robex_base
from numpy.typing import NDArray

from brainfeat.preprocessing.intensities import clip_and_measure
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.artifacts import Artifacts
from brainfeat.simulation.bases import load_base
from brainfeat.simulation.contrast import Contrast
from brainfeat.simulation.disease import DiseaseKind
from brainfeat.simulation.lattice import sample_maps
from brainfeat.simulation.participants import Participant
from brainfeat.simulation.population import Anatomies
from brainfeat.simulation.scanner import Pose, PoseConfig
from brainfeat.simulation.training import encoder_lattice

# What a registration leaves, in degrees and mm.
POSE = PoseConfig(rotation=3.0, shift=2.0)
PERCENTILES = (0.5, 99.5)


class Person(NamedTuple):
    """A T1w scan on the grid of the encoder."""

    volume: NDArray[np.float16]  # I J K, z-scores; the lowest outside the brain
    foreground: NDArray[np.bool_]  # I J K
    diagnosis: int
    age: float


@dataclass(frozen=True)
class DrawnPeople:
    """People of a seed and a disease, kept in a folder.

    The cohort of the benchmarks has the seed of `development_cohort.py`.
    """

    folder: Path
    n_subjects: int
    seed: int = COHORT_SEED
    disease: DiseaseKind = "medial-temporal"

    def __iter__(self) -> Iterator[Person]:
        """Yield the people; draw those that are not in the folder."""
        folder = self.folder / f"people_{self.disease}_{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        base = None
        for number in range(1, self.n_subjects + 1):
            path = folder / f"{number:04d}.npz"
            if not path.exists():
                base = base or load_base(*map(str, robex_base()))
                partial = path.with_suffix(".partial.npz")
                np.savez(partial, **self._draw(base, number)._asdict())
                partial.rename(path)
            with np.load(path) as stored:
                fields = {name: stored[name] for name in Person._fields}
            fields["diagnosis"] = int(fields["diagnosis"])
            yield Person(**fields)

    def _draw(self, base: BaseAnatomy, number: int) -> Person:
        person = Participant.draw(number, disease=0.5, random_state=self.seed)
        anatomy = Anatomies.draw(
            base,
            person.condition,
            disease=self.disease,
            generator=person.generator("anatomy"),
        )
        pose = Pose.draw(POSE, 1, generator=person.generator("pose"))
        generator, scanner = person.generator("T1w"), person.scanner
        contrast = Contrast.draw(scanner.contrast, ["T1w"], 1, generator=generator)
        artifacts = Artifacts.draw(scanner.artifacts, 1, 1, generator=generator)
        stripped = torch.zeros(1, dtype=torch.bool)
        image = contrast.apply(base, anatomy.pathology, stripped=stripped)
        lattice = encoder_lattice()
        brain = (base.labels > 0).float()[None, None]
        grid = anatomy.locate(lattice, pose).grid
        both = sample_maps(torch.cat([image, brain], dim=1), grid)
        scan = artifacts.apply(both[:, :1], lattice.spacing)[0, 0].numpy()
        foreground = both[0, 1].numpy() > 0.5
        volume = standardise(scan, foreground)
        return Person(volume, foreground, int(person.has_disease), person.age)


def standardise(
    scan: NDArray[np.float32], foreground: NDArray[np.bool_]
) -> NDArray[np.float16]:
    """Clip and z-score over the foreground, as `Preprocessor` does."""
    clipped, mean, spread = clip_and_measure(scan[foreground], PERCENTILES)
    volume = np.full(scan.shape, clipped.min(), np.float32)
    volume[foreground] = clipped
    return ((volume - mean) / spread).astype(np.float16)
