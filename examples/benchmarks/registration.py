"""Compare `RegistrationEstimator` with SimpleITK's and ANTs' deformable registrations.

Pairs are people whose true deformation is known (known), other simulated people
(people), and real people with label maps (real), fixed scans in T1w. All methods start
from the same affine and get the same voxels and brain masks, on one thread; seconds are
of the processor, without reading, alignment and encoding. The encoder's tokens can be
left out, or be all that the search compares. Results are kept, a method a pair: the
same command resumes. ANTs needs antspyx.

    python examples/benchmarks/registration.py work [SCANS_FOLDER] --pairs 5
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from registration_pairs import Pair, make_pairs
from registration_rivals import (
    has_ants,
    register_demons,
    register_splines,
    register_syn,
)
from scipy import ndimage

from brainfeat import Checkpoint, Volume
from brainfeat.metrics import dice_scores
from brainfeat.registration.deformable import DeformableConfig
from brainfeat.registration.pair import register_pair
from brainfeat.registration.scan import AlignedScan, align_scan
from brainfeat.registration.transform import SpatialTransform

KINDS = ("known-T1w", "known-T2w", "people-T1w", "people-T2w", "real-T1w")
RIVALS: dict[str, Callable[..., NDArray[Any]]] = {
    "SimpleITK, B-splines, MI": register_splines,
    "SimpleITK, demons, MI": register_demons,
    "ANTs, SyN, MI": partial(register_syn, metric="mattes"),
    "ANTs, SyN, CC": partial(register_syn, metric="CC"),
}
OURS = {"affine": None, "brainfeat": 1.0, "brainfeat, no tokens": 0.0}
MIN_VOXELS = 50  # of a structure
CPU = torch.device("cpu")
MARGIN = 2  # voxels around the brain that rivals compare, too


@dataclass(frozen=True, eq=False)
class Aligned:
    """A pair with the affine of all methods."""

    pair: Pair
    fixed: AlignedScan
    moving: AlignedScan

    @classmethod
    def of(cls, pair: Pair) -> "Aligned":
        """Align and encode both scans."""
        checkpoint = Checkpoint.load("brainfound-tiny")
        scans = (
            align_scan(volume, name, checkpoint, CPU, spacing=2.0, with_tokens=True)
            for volume, name in ((pair.fixed, "T1w"), (pair.moving, pair.modality))
        )
        return cls(pair, *scans)

    def register(self, token_weight: float | None) -> SpatialTransform:
        """Register by brainfeat; affinely alone without a weight."""
        config = None if token_weight is None else DeformableConfig()
        weight = token_weight or 0.0
        pair = register_pair(
            self.fixed, self.moving, config, token_weight=weight, device=CPU
        )
        return pair.transform

    @cached_property
    def affine(self) -> SpatialTransform:
        """The transform that all methods start from."""
        return self.register(None)

    def register_by(self, method: Callable[..., NDArray[Any]]) -> SpatialTransform:
        """Register by a rival, on the same grid."""
        grid = self.fixed.grid
        volumes, masks = [], []
        places = (np.eye(4), self.affine.affine)
        for scan, place in zip((self.fixed, self.moving), places, strict=True):
            data, brain = scan.sample(grid, place), scan.sample_brain(grid, place)
            low, high = np.percentile(data[brain], [0.5, 99.5])
            scaled = (data - low) / (high - low)
            values = np.where(brain, scaled.clip(0, 1), 0.0)
            volumes.append(Volume(values.astype(np.float32), grid))
            masks.append(brain)
        near = ndimage.binary_dilation(masks[0], iterations=MARGIN)
        field = method(*volumes, near)
        return SpatialTransform(
            affine=self.affine.affine,
            field=field,
            grid=grid,
            fixed=self.fixed.native,
            moving=self.moving.native,
        )

    def score(self, transform: SpatialTransform) -> dict[str, float]:
        """Measure Dice, distances in mm, and folds in percent of the brain."""
        truth = self.pair.fixed_labels.data
        found = transform.warp(self.pair.moving_labels).data
        labels, counts = np.unique(truth, return_counts=True)
        wanted = [*labels[(labels > 0) & (counts >= MIN_VOXELS)].tolist()]
        if "people" in self.pair.name or "known" in self.pair.name:
            wanted = [label for label in wanted if label < 100]  # of the brain
        brain = self.fixed.sample_brain(self.fixed.grid, np.eye(4))
        return {
            "dice": float(np.nanmean(dice_scores(truth, found, wanted))),
            "mm": self._distance(transform, truth, found, wanted),
            "folded": 100 * folds(transform, brain),
        }

    def _distance(
        self,
        transform: SpatialTransform,
        truth: NDArray[Any],
        found: NDArray[Any],
        labels: list[int],
    ) -> float:
        """Mean error in the brain if it is known, else of the structures' centres."""
        affine = self.fixed.native.affine
        known = self.pair.truth
        if known is not None:
            indices = np.argwhere(np.isin(truth, labels))[::10].T
            points = affine[:3, :3] @ indices + affine[:3, 3:]
            error = transform.map_points(points) - known.map_points(points)
            return float(np.linalg.norm(error, axis=0).mean())
        centers = [
            np.array(ndimage.center_of_mass(np.ones_like(data), data, labels))
            for data in (truth, found)
        ]
        apart = np.linalg.norm((centers[0] - centers[1]) @ affine[:3, :3].T, axis=1)
        return float(np.nanmean(apart))


def folds(transform: SpatialTransform, brain: NDArray[np.bool_]) -> float:
    """Return the fraction of voxels of the brain where a field folds."""
    voxels = transform.field @ np.linalg.inv(transform.grid.affine[:3, :3]).T
    slopes = np.stack([np.stack(np.gradient(voxels[..., a])) for a in range(3)])
    matrix = slopes.transpose(2, 3, 4, 0, 1)[brain] + np.eye(3)
    return float((np.linalg.det(matrix) <= 0).mean())


def measure(pair: Pair, methods: list[str], work: Path) -> None:
    """Run the methods that have no result yet."""
    aligned = None
    for name in methods:
        path = work / "results" / f"{pair.name}, {name}.json"
        if path.exists():
            continue
        aligned = aligned or Aligned.of(pair)
        start = time.process_time()
        if name in OURS:
            transform = aligned.register(OURS[name])
        else:
            _ = aligned.affine
            start = time.process_time()
            transform = aligned.register_by(RIVALS[name])
        seconds = time.process_time() - start
        result = {"seconds": seconds, **aligned.score(transform)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
        print(f"{pair.name}, {name}: {result}", flush=True)


def report(work: Path, kinds: list[str], methods: list[str]) -> None:
    """Print the means over the pairs that all methods have finished."""
    for kind in kinds:
        found = {
            name: {
                path.name.split(",")[0]: json.loads(path.read_text())
                for path in sorted((work / "results").glob(f"{kind}-*, {name}.json"))
            }
            for name in methods
        }
        found = {name: pairs for name, pairs in found.items() if pairs}
        if not found:
            continue
        common = sorted(set.intersection(*map(set, found.values())))
        print(f"\n{kind}, {len(common)} pairs")
        print(f"{'method':28} {'Dice':>6} {'+-':>6} {'mm':>6} {'folded %':>8} {'s':>7}")
        for name, pairs in found.items():
            rows = [pairs[pair] for pair in common]
            values = {key: np.array([row[key] for row in rows]) for key in rows[0]}
            error = values["dice"].std(ddof=1) / np.sqrt(len(rows)) if rows[1:] else 0.0
            print(
                f"{name:28} {values['dice'].mean():6.3f} {error:6.3f} "
                f"{values['mm'].mean():6.2f} {values['folded'].mean():8.3f} "
                f"{values['seconds'].mean():7.1f}"
            )


def main() -> None:
    """Measure what is missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("scans", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="number of the first pair")
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=KINDS)
    parser.add_argument("--methods", nargs="+", default=[*OURS, *RIVALS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = [name for name in options.methods if "ANTs" not in name or has_ants()]
    for kind in options.kinds:
        where = (options.work, options.scans, options.first)
        for pair in make_pairs(kind, options.pairs, *where):
            measure(pair, methods, options.work)
    report(options.work, options.kinds, methods)


if __name__ == "__main__":
    main()
