"""Measure how the brain is found in real scans, and whether doubt falls on the right.

FOLDER holds a `manifest.tsv` with the columns file, modality, label_map and brain
("head" or "stripped"). For each scan it prints the volume of the mask and its Dice
coefficient against a reference (a stripped scan's own voxels, deepbet or a label map
for a head), the volume of the fitted template brain over the reference, and the doubt.
Contrasts of one session are compared by the mean distance between their placements.

    python examples/benchmarks/real_heads.py FOLDER [--page heads.png] [--cache FOLDER]
        [--ixi N] [--only TEXT] [--transforms N] [--negatives N]

`--transforms N` repeats N heads without their skull, with noise in the air, a strong
bias field, cropped, padded, turned and mirrored. `--negatives N` makes volumes in which
no whole adult brain lies as the header says from N heads, and counts those without
doubt.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from head_negatives import make_negatives
from head_pictures import Picture, draw, write_page
from head_scans import Scan, litres, read_manifest, reference_mask
from head_variants import make_variants
from numpy.typing import NDArray

from brainfeat import Geometry, Preprocessor, Volume
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.intensities import repair
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.preprocessing.template import load_template

PREPROCESSOR = Preprocessor()
# What is aimed at: Dice by modality, and relative errors of volume and scale.
DICE, DICE_T1W = 0.93, 0.95
MAX_VOLUME_ERROR, MAX_SCALE_ERROR, MAX_DISTANCE = 0.06, 0.05, 1.5
MAX_RATIO, MAX_MOVE = 0.05, 1.0  # between variants of one head; mm


class Found(NamedTuple):
    """The brain of one volume, as users get it."""

    grid_to_scanner: NDArray[np.float64]
    mask: NDArray[np.bool_]
    litres: float
    template_litres: float  # the template's brain under the fitted affine
    similarity: float
    doubt: str
    seconds: float


class Measured(NamedTuple):
    """A scan against its reference; NaN without one."""

    scan: Scan
    found: Found
    volume: float  # litres of the reference
    dice: float

    @property
    def volume_ratio(self) -> float:
        """Mask over reference."""
        return self.found.litres / self.volume

    @property
    def scale_ratio(self) -> float:
        """Fitted template brain over reference, in volume."""
        return self.found.template_litres / self.volume

    @property
    def is_good(self) -> bool:
        """Whether mask and scale are as aimed at, as far as they are known."""
        aim = DICE_T1W if self.scan.modality == "T1w" else DICE
        return not (
            self.dice < aim
            or abs(self.volume_ratio - 1.0) > MAX_VOLUME_ERROR
            or abs(self.scale_ratio - 1.0) > MAX_SCALE_ERROR
        )


def main() -> None:
    options = parse_options()
    scans = read_manifest(options.folder, options.ixi)
    scans = [scan for scan in scans if options.only in scan.name]
    pictures: list[Picture] = []
    measured = [*measure_all(scans, options.cache, pictures)]
    print_sums(measured)
    print_placements(measured)
    heads = [scan for scan in scans if (scan.modality, scan.brain) == ("T1w", "head")]
    for scan in heads[: options.transforms]:
        print_variants(scan, options.cache)
    if options.negatives:
        heads = [scan for scan in scans if scan.brain == "head"]
        print_negatives(heads[: options.negatives], options.cache, pictures)
    if options.page is not None:
        write_page(pictures, options.page)
        print(f"pictures: {options.page}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", type=Path, help="PNG with a picture of every scan")
    parser.add_argument("--cache", type=Path, help="folder for masks of deepbet")
    parser.add_argument("--ixi", type=int, help="number of scans of IXI; default all")
    parser.add_argument("--only", default="", help="text in the names of files")
    parser.add_argument("--transforms", type=int, default=0, help="number of heads")
    parser.add_argument("--negatives", type=int, default=0, help="number of heads")
    return parser.parse_args()


def find_brain(volume: Volume, modality: str) -> Found:
    """Preprocess one volume as an embedder does."""
    start = time.perf_counter()
    subject = PREPROCESSOR.apply({modality: volume}, (modality,))
    seconds = time.perf_counter() - start
    alignment = align_to_template(repair(volume))
    brain = litres(load_template("brain_mask"))
    scale = float(np.linalg.det(alignment.affine[:3, :3]))
    mask = Volume(subject.foreground, subject.geometry)
    return Found(
        subject.grid_to_scanner,
        subject.foreground,
        litres(mask),
        brain * scale,
        subject.quality.similarity,
        subject.quality.doubt,
        seconds,
    )


def measure_all(
    scans: Sequence[Scan], cache: Path | None, pictures: list[Picture]
) -> Iterator[Measured]:
    width = max(len(scan.name) for scan in scans)
    print(f"{'scan':<{width}}  mask, l  of ref.  Dice   scale  sim.     s  doubt")
    for scan in scans:
        volume = scan.read()
        found = find_brain(volume, scan.modality)
        reference = reference_mask(scan, volume, cache)
        dice, size = np.nan, np.nan
        if reference is not None:
            size = litres(reference)
            dice = dice_on_grid(found, reference, PREPROCESSOR.geometry)
        result = Measured(scan, found, size, dice)
        text = (
            f"{found.litres:7.2f} {result.volume_ratio:8.2f} {dice:6.3f} "
            f"{result.scale_ratio:6.2f} {found.similarity:5.2f} {found.seconds:5.2f}"
        )
        mark = " " if result.is_good else "*"
        print(f"{scan.name:<{width}}{mark} {text}  {found.doubt}", flush=True)
        pixels = draw(
            volume,
            PREPROCESSOR.geometry,
            found.grid_to_scanner,
            found.mask,
            reference,
        )
        caption = (
            f"{Path(scan.name).name} {found.litres:.2f} l, of reference "
            f"{result.volume_ratio:.2f}, Dice {dice:.3f}, scale "
            f"{result.scale_ratio:.2f}. {found.doubt}"
        )
        framed = bool(found.doubt) or not result.is_good
        pictures.append(Picture(pixels, caption, framed))
        yield result


def dice_on_grid(found: Found, reference: Volume, grid: Geometry) -> float:
    """Overlap of the mask and the reference on the encoder's grid."""
    fraction = Volume(reference.data.astype(np.float32), reference.geometry)
    other = resample(fraction, grid, found.grid_to_scanner) >= 0.5
    both = float((found.mask & other).sum())
    return 2.0 * both / max(int(found.mask.sum() + other.sum()), 1)


def print_sums(measured: Sequence[Measured]) -> None:
    groups: dict[str, list[Measured]] = defaultdict(list)
    for result in measured:
        groups[f"{result.scan.modality} {result.scan.brain}"].append(result)
    print(
        f"\n{'kind':<16} {'n':>3}  volume: median, worst   Dice: median, worst"
        "   scale: median, worst   as aimed  doubt  s"
    )
    for kind, results in sorted(groups.items()):
        ratios = np.array([(r.volume_ratio, r.scale_ratio) for r in results]).T
        dice = np.array([r.dice for r in results])
        n_good = sum(r.is_good for r in results)
        doubted = sum(bool(r.found.doubt) for r in results)
        seconds = np.median([r.found.seconds for r in results])
        print(
            f"{kind:<16} {len(results):3}  {spread(ratios[0])}"
            f"           {np.median(dice):5.3f}, {dice.min():5.3f}"
            f"           {spread(ratios[1])}    {n_good:3}/{len(results):<3}"
            f"   {doubted:3}   {seconds:4.2f}"
        )
    doubted = sum(bool(r.found.doubt) for r in measured)
    share = 100.0 * doubted / len(measured)
    print(f"false doubts: {doubted} of {len(measured)} ({share:.1f} %)")


def spread(ratios: NDArray[np.float64]) -> str:
    worst = ratios[np.argmax(np.abs(np.nan_to_num(ratios, nan=1.0) - 1.0))]
    return f"{np.median(ratios):5.2f}, {worst:5.2f}"


def print_placements(measured: Sequence[Measured]) -> None:
    """Print how far apart the scans of one session are placed.

    Those that do not lie on each other as they are stored have no aim.
    """
    sessions: dict[str, list[Measured]] = defaultdict(list)
    for result in measured:
        sessions[result.scan.session].append(result)
    print("\nplacement between the contrasts of a session, mm")
    for results in sessions.values():
        for first, second in combinations(results, 2):
            placements = first.found.grid_to_scanner, second.found.grid_to_scanner
            distance = mean_distance(*placements)
            misfit = find_misfit(first.scan, second.scan)
            mark = "" if misfit or distance <= MAX_DISTANCE else "*"
            names = f"{first.scan.name} {Path(second.scan.name).name}"
            print(f"{distance:5.2f} {names} {mark or misfit}".rstrip())


def find_misfit(first: Scan, second: Scan) -> str:
    """Say how the second scan misses the first as they are stored, else nothing."""
    if first.modality == second.modality:
        return ""
    scans = (first, second)
    volumes = {scan.modality: scan.read() for scan in scans}
    doubt = PREPROCESSOR.apply(volumes, [*volumes]).quality.doubt
    others = (text for text in doubt.split("; ") if "coregister" in text)
    return next((f"not aimed at: {text}" for text in others), "")


def print_variants(scan: Scan, cache: Path | None) -> None:
    """Print how the mask and the placement of a head change with how it is stored."""
    volume = scan.read()
    reference = reference_mask(scan, volume, cache)
    if reference is None:
        return
    usual = find_brain(volume, scan.modality)
    print(f"\n{scan.name}: mask {usual.litres:.2f} l; variants: ratio, mm, doubt")
    for variant in make_variants(volume, reference):
        found = find_brain(variant.volume, scan.modality)
        expected = variant.move @ usual.grid_to_scanner @ variant.flip
        distance = mean_distance(found.grid_to_scanner, expected)
        ratio = found.litres / usual.litres
        is_good = abs(ratio - 1.0) <= MAX_RATIO and distance <= MAX_MOVE
        mark = "" if is_good else "*"
        text = f"{ratio:6.3f} {distance:6.2f}"
        print(f"{variant.name:<16} {text} {mark} {found.doubt}", flush=True)


def print_negatives(
    scans: Sequence[Scan], cache: Path | None, pictures: list[Picture]
) -> None:
    """Print the doubts about volumes that are no whole, upright, adult heads."""
    print("\nnegatives")
    n_silent, n_volumes = 0, 0
    for scan in scans:
        volume = scan.read()
        reference = reference_mask(scan, volume, cache)
        if reference is None:
            continue
        for name, negative in make_negatives(volume, reference):
            found = find_brain(reorient_to_ras(negative), scan.modality)
            n_volumes += 1
            n_silent += not found.doubt
            print(f"{name:<28} {found.doubt or '* no doubt'}", flush=True)
            placement = PREPROCESSOR.geometry, found.grid_to_scanner
            pixels = draw(reorient_to_ras(negative), *placement, found.mask)
            caption = f"{name}: {found.doubt or 'no doubt'}"
            pictures.append(Picture(pixels, caption, not found.doubt))
    print(f"negatives without doubt: {n_silent} of {n_volumes}")


def mean_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Mean distance in mm between two placements of the template brain."""
    depth = load_depth()
    inside = np.argwhere(depth.data >= 0)[::17]
    affine = depth.geometry.affine
    points = inside @ affine[:3, :3].T + affine[:3, 3]
    gap = first - second
    return float(np.linalg.norm(points @ gap[:3, :3].T + gap[:3, 3], axis=1).mean())


if __name__ == "__main__":
    main()
