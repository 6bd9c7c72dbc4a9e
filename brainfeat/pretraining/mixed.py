"""A source that takes its steps from several others, such as scans and simulation."""

__all__ = ["MixedSource"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.pretraining.source import (
    PairedSource,
    SubjectBatch,
    SubjectSource,
    derive_seed,
)


class MixedSource:
    """Draw each step from one of several sources, in proportion to their weights.

    They share modalities, grid and preprocessing; the first names the preprocessing and
    the tissues of the checkpoint, and what others read is a structure. Targets of one
    name are one target, and those that a source does not have are unknown in its steps.
    """

    def __init__(
        self, sources: Sequence[SubjectSource], weights: Sequence[float] | None = None
    ) -> None:
        self.sources = tuple(sources)
        self.weights = tuple(weights or [1.0] * len(self.sources))
        first, *others = self.sources
        for other in others:
            for name in ("modalities", "shape"):
                expected, got = getattr(first, name), getattr(other, name)
                if expected != got:
                    raise ConfigError(
                        f"sources: expected one of {name} {expected}, as in the first, "
                        f"got {got}."
                    )
        self.modalities, self.shape = first.modalities, first.shape
        self.preprocessing: Mapping[str, Any] = first.preprocessing
        self.tissues = tuple(first.tissues)
        read = (n for s in self.sources for n in (*s.tissues, *s.structures))
        self.structures = tuple(n for n in dict.fromkeys(read) if n not in self.tissues)
        named = {
            name: weight
            for source in reversed(self.sources)
            for name, weight in zip(source.targets, source.target_weights, strict=True)
        }
        names = (name for source in self.sources for name in source.targets)
        self.targets = tuple(dict.fromkeys(names))
        self.target_weights = tuple(named[name] for name in self.targets)

    def draw(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return the subjects of one process in a step, as in `SubjectSource`."""
        source = self._choose(step, seed)
        options = {"seed": seed, "process": process, "n_processes": n_processes}
        return self._name(source.draw(step, n_subjects, **options), source)

    def draw_pairs(
        self,
        step: int,
        n_subjects: int,
        *,
        seed: int,
        process: int = 0,
        n_processes: int = 1,
    ) -> SubjectBatch:
        """Return two acquisitions of each subject, as in `PairedSource`."""
        source = self._choose(step, seed)
        if not isinstance(source, PairedSource):
            raise ConfigError(
                f"sources: expected several acquisitions of a brain in each, got a "
                f"{type(source).__name__}."
            )
        options = {"seed": seed, "process": process, "n_processes": n_processes}
        return self._name(source.draw_pairs(step, n_subjects, **options), source)

    def _choose(self, step: int, seed: int) -> SubjectSource:
        """Choose the source of a step, the same in all processes."""
        generator = np.random.default_rng(derive_seed(seed, step, 9))
        probabilities = np.array(self.weights) / sum(self.weights)
        return self.sources[int(generator.choice(len(self.sources), p=probabilities))]

    def _name(self, batch: SubjectBatch, source: SubjectSource) -> SubjectBatch:
        """Translate the targets of a source to those of all."""
        columns = torch.zeros(len(source.targets), len(self.targets))
        for row, name in enumerate(source.targets):
            columns[row, self.targets.index(name)] = 1.0
        n_subjects = len(batch.volumes)
        if batch.members is not None:
            members = batch.members @ columns
        else:
            members = columns.expand(n_subjects, -1, -1)
        known = torch.ones(n_subjects, len(source.targets), dtype=torch.bool)
        if batch.known is not None:
            known = batch.known
        return replace(batch, members=members, known=(known.float() @ columns) > 0)
