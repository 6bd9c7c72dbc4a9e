"""Simulated participants: each is determined by a seed and a number."""

__all__ = ["Participant"]

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator

from brainfeat.simulation.disease import Condition
from brainfeat.simulation.scanner import SCANNERS, Scanner

_AGES = (55.0, 85.0)
_SEVERITIES = (0.5, 1.0)  # of those who have the disease

# Separate streams, so that a draw in one does not shift another.
_STREAMS = ("person", "anatomy", "pose", "T1w", "T2w", "FLAIR")
_SITES = len(_STREAMS)


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One simulated participant; `number` counts from 1, `age` is in years."""

    number: int
    random_state: int
    has_disease: bool
    severity: float
    age: float
    sex: Literal["F", "M"]
    scanner: Scanner

    @classmethod
    def draw(cls, number: int, *, disease: float, random_state: int) -> "Participant":
        """Draw one participant; `disease` is the fraction of the cohort that is ill."""
        # The number of ill among the first n is right to within one, for every n.
        has_disease = _count(number, disease) > _count(number - 1, disease)
        random = np.random.default_rng((random_state, number, 0))
        severity = random.uniform(*_SEVERITIES)
        return cls(
            number=number,
            random_state=random_state,
            has_disease=has_disease,
            severity=round(float(severity), 3) if has_disease else 0.0,
            age=round(float(random.uniform(*_AGES)), 1),
            sex="F" if random.random() < 0.5 else "M",
            scanner=_draw_scanner(number, random_state),
        )

    @property
    def id(self) -> str:
        """BIDS name of the participant."""
        return f"sub-{self.number:04d}"

    @property
    def condition(self) -> Condition:
        """Severity and age as a batch of one."""
        return Condition(torch.tensor([self.severity]), torch.tensor([self.age]))

    def generator(self, stream: str) -> Generator:
        """Seed a generator for one of `_STREAMS`, on the CPU."""
        entropy = (self.random_state, self.number, _STREAMS.index(stream))
        (seed,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        return Generator().manual_seed(int(seed >> np.uint64(1)))


def _count(n: int, fraction: float) -> int:
    # Halves round up, and 10 times 0.3 is 3 whatever floating point says.
    return math.floor(n * fraction + 0.5 + 1e-9)


def _draw_scanner(number: int, random_state: int) -> Scanner:
    # In shuffled blocks: balanced sites, independent of the diagnosis.
    block, position = divmod(number - 1, len(SCANNERS))
    random = np.random.default_rng((random_state, block, _SITES))
    return SCANNERS[int(random.permutation(len(SCANNERS))[position])]
