"""Pairs of scans to register, with label maps, and a true deformation where known."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from brainfeat import Volume, read_volume, simulate_cohort
from brainfeat.io.volumes import read_labels
from brainfeat.registration.transform import SpatialTransform
from brainfeat.simulation.head_folder import write_heads

TABLE = Path(__file__).resolve().parent.parent / "label_tables" / "synthseg.tsv"
_SHIFT = 2.5  # mm, standard deviation of the true displacement along each axis
_WIDTH = 18.0  # mm, of its Gaussian
_NOISE = 0.02  # of the brightest voxel, so that no two scans share theirs


@dataclass(frozen=True, eq=False)
class Pair:
    """A fixed and a moving scan."""

    name: str
    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    modality: str  # of the moving scan; the fixed one is T1w
    truth: SpatialTransform | None = None


def make_pairs(
    kind: str, count: int, work: Path, scans: Path | None, first: int
) -> Iterator[Pair]:
    """Yield pairs of a kind: known, people or real; the moving scan T1w or T2w."""
    group, modality = kind.split("-")
    if group == "real":
        yield from _real_pairs(count, scans, first)
        return
    cohort = _simulate(work, scans, first + count + 1)
    for number in range(first, first + count):
        paths = cohort[number]
        if group == "known":
            yield _known_pair(f"{kind}-{number}", paths, modality, number)
            continue
        other = cohort[number + 1]
        yield Pair(
            f"{kind}-{number}",
            read_volume(paths["T1w"]),
            read_volume(other[modality]),
            read_labels(paths["labels"]),
            read_labels(other["labels"]),
            modality,
        )


def _known_pair(name: str, paths: dict[str, Path], modality: str, seed: int) -> Pair:
    """Deform the T1w scan of a person, and register another scan of the same."""
    generator = np.random.default_rng(seed)
    scan, labels = read_volume(paths["T1w"]), read_labels(paths["labels"])
    grid = scan.geometry
    sigmas = _WIDTH / np.array(grid.spacing)
    field = np.stack(
        [
            ndimage.gaussian_filter(generator.normal(size=grid.shape), sigmas)
            for _ in range(3)
        ],
        axis=-1,
    )
    field *= _SHIFT / field.std()
    truth = SpatialTransform(
        affine=np.eye(4),
        field=field.astype(np.float32),
        grid=grid,
        fixed=grid,
        moving=grid,
    )
    fixed, moving = truth.warp(scan), read_volume(paths[modality])
    noisy = [
        Volume(
            v.data
            + generator.normal(0, _NOISE * v.data.max(), v.data.shape).astype("f4"),
            grid,
        )
        for v in (fixed, moving)
    ]
    return Pair(name, *noisy, truth.warp(labels), labels, modality, truth)


def _simulate(work: Path, scans: Path | None, count: int) -> list[dict[str, Path]]:
    """Draw people, from real label maps of heads where there are some."""
    maps = sorted((scans / "label_maps").glob("*.nii.gz")) if scans else []
    if not maps:
        frame = simulate_cohort(
            work / "cohort", count, modalities=("T1w", "T2w"), random_state=1
        )
        rows = frame.to_dict("records")
        return [
            {"T1w": row["T1w"], "T2w": row["T2w"], "labels": row["dseg"]}
            for row in rows
        ]
    folder = work / "heads"
    options = {"modalities": ("T1w", "T2w"), "spacing": 1.5, "random_state": 3}
    write_heads(maps, folder, count, label_table=TABLE, **options)
    return [
        {
            "labels": folder / f"labels/head{number:05d}.nii.gz",
            **{
                name: folder / f"scans/head{number:05d}_{name}.nii.gz"
                for name in ("T1w", "T2w")
            },
        }
        for number in range(count)
    ]


def _real_pairs(count: int, scans: Path | None, first: int) -> Iterator[Pair]:
    """Pair people of IXI, each once."""
    files = sorted((scans / "ixi").glob("*_T1w2mm.nii.gz")) if scans else []
    for number in range(first, first + count):
        names = files[2 * number : 2 * number + 2]
        if len(names) < 2:
            return
        labels = [
            read_labels(path.with_name(path.name.replace("T1w2mm", "dlmuse")))
            for path in names
        ]
        volumes = [read_volume(path) for path in names]
        yield Pair(f"real-T1w-{number}", *volumes, *labels, "T1w")
