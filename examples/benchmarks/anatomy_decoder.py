"""Measure `brainfound-tiny-anatomy` on label maps of people that it did not learn from.

Scans are segmented by `brainfeat segment predict`, as a user does: people of IXI that
were held out (whose label maps are DLMUSE's, at 2 mm), and the scan of mne with
FreeSurfer's; the same scans in slices of 5 mm; and without the skull. Printed are the
Dice of each structure; Spearman's correlation of volumes over people, beside that of
`pooling="anatomy_ml"`, which reads volumes from the encoder's tokens; the change of
volumes in other acquisitions; and the time. WORK/maps/report.html has pictures of all.

    python examples/benchmarks/anatomy_decoder.py ../shared/scans --work WORK
    python examples/benchmarks/anatomy_decoder.py ../shared/scans --work WORK --card

``--card`` prints the tables of the model card, of what is in WORK.
"""

import argparse
import resource
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from anatomy_labels import Protocol, read_names, to_common
from train_anatomy_decoder import WRONG
from train_brainfound_tiny import find_unseen

from brainfeat import BrainFoundEmbedder, Volume
from brainfeat.io.volumes import read_labels, read_volume, write_volume
from brainfeat.metrics import dice_scores
from brainfeat.preprocessing.resampling import reorient_to_ras
from brainfeat.simulation.slice_profiles import resample_axis

MODEL = "brainfound-tiny-anatomy"
THICK = 5.0  # mm
# Structures that are too small at 2 mm for their volumes to be compared one by one.
SMALL = ("accumbens", "inferior_lateral")
Truth = tuple[Path, Protocol]


def find_scans(folder: Path, n_people: int) -> dict[str, tuple[Path, Truth]]:
    """List held-out scans with their label maps, by name."""
    names = [p.relative_to(folder).as_posix() for p in folder.glob("ixi/*_T1w*")]
    unseen = sorted(n for n in find_unseen(names) if n.startswith("ixi"))
    found: dict[str, tuple[Path, Truth]] = {}
    for name in unseen[:n_people]:
        person = Path(name).name.partition("_")[0]
        label_map = folder / f"{name.partition('_T1w')[0]}_dlmuse.nii.gz"
        if any(fnmatch(label_map.as_posix(), part) for part in WRONG):
            continue
        found[person] = folder / name, (label_map, "muse")
    mne = folder / "mne" / "mne_ecog_aparc+aseg.mgz"
    if mne.is_file():
        found["mne"] = folder / "mne" / "mne_ecog_T1w.mgz", (mne, "freesurfer")
    return found


def write_scans(
    scans: dict[str, tuple[Path, Truth]], folder: Path, n_variants: int
) -> None:
    """Write scans as they are, and some of them as other acquisitions."""
    variants = [*scans][:n_variants] + [name for name in scans if name == "mne"]
    for name, (path, (label_map, protocol)) in scans.items():
        own = folder / f"sub-{name}_T1w.nii.gz"
        if own.is_file():
            continue
        volume = reorient_to_ras(read_volume(path))
        if name in variants:
            thick = resample_axis(volume, 2, distance=THICK, width=THICK)
            write_volume(thick, folder / f"sub-{name}thick_T1w.nii.gz")
            brain = find_brain(to_common(read_labels(label_map), protocol))
            stripped = np.where(reorient_to_ras(brain).data > 0, volume.data, 0)
            write_volume(
                Volume(stripped, volume.geometry),
                folder / f"sub-{name}stripped_T1w.nii.gz",
            )
        write_volume(volume, own)


def find_brain(labels: Volume) -> Volume:
    """Return the mask of all that lies between structures, and 2 mm around."""
    mm = max(labels.geometry.spacing)
    is_brain = ndimage.binary_closing(labels.data > 0, iterations=max(1, round(6 / mm)))
    is_brain = ndimage.binary_fill_holes(is_brain)
    grown = ndimage.binary_dilation(is_brain, iterations=max(1, round(2 / mm)))
    return Volume(grown.astype(np.uint8), labels.geometry)


def segment(folder: Path, output: Path, model: str) -> tuple[float, float]:
    """Segment all scans of a folder; return the seconds of each, and of processors."""
    start, n_done = time.perf_counter(), len([*output.glob("*_dseg.nii.gz")])
    before = _cpu_seconds()
    command = ["-m", "brainfeat", "segment", "predict", model, str(folder)]
    subprocess.run([sys.executable, *command, "-o", str(output)], check=True)
    n_new = max(1, len([*output.glob("*_dseg.nii.gz")]) - n_done)
    return (time.perf_counter() - start) / n_new, (_cpu_seconds() - before) / n_new


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def score(scans: dict[str, tuple[Path, Truth]], maps: Path) -> pd.DataFrame:
    """Compute the Dice of each structure, a row a scan as it is."""
    names, rows = read_names(), {}
    for name, (_, (label_map, protocol)) in scans.items():
        truth = reorient_to_ras(to_common(read_labels(label_map), protocol))
        image = nib.load(maps / f"sub-{name}_dseg.nii.gz")
        rows[name] = dice_scores(truth.data, np.asarray(image.dataobj), [*names])
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*names.values()])


def true_volumes(scans: dict[str, tuple[Path, Truth]]) -> pd.DataFrame:
    """Measure the structures of label maps, in ml."""
    rows = {}
    for name, (_, (label_map, protocol)) in scans.items():
        truth = to_common(read_labels(label_map), protocol)
        ml = abs(np.linalg.det(truth.geometry.affine[:3, :3])) / 1000
        counts = np.bincount(truth.data.ravel(), minlength=256)
        rows[name] = {v: counts[k] * ml for k, v in read_names().items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def read_volumes(maps: Path) -> pd.DataFrame:
    """Read the volumes that were written, a row a scan."""
    table = pd.read_csv(maps / "volumes.csv").set_index("participant_id")
    table.index = table.index.astype(str).str.removeprefix("sub-")
    table = table[[f"{name}_ml" for name in read_names().values()]]
    return table.rename(columns=lambda name: name.removesuffix("_ml"))


def embedded_volumes(scans: dict[str, tuple[Path, Truth]]) -> pd.DataFrame:
    """Read volumes from the tokens of the encoder, a row a scan."""
    embedder = BrainFoundEmbedder(pooling="anatomy_ml", modality="T1w")
    rows = embedder.fit_transform([str(path) for path, _ in scans.values()])
    columns = [str(name) for name in embedder.get_feature_names_out()]
    return pd.DataFrame(rows, index=[*scans], columns=columns)


def correlate(truth: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Compute Spearman's correlation over people, of each structure that both have."""
    named = {column.removeprefix("emb_"): column for column in other}
    return pd.Series(
        {
            name: spearmanr(truth[name], other.loc[truth.index, named[name]])[0]
            for name in truth
            if name in named
        }
    )


def join_sides(volumes: pd.DataFrame) -> pd.DataFrame:
    """Add left and right, in the columns of both."""
    structures = pd.Series(find_structures(volumes.columns), index=volumes.columns)
    joined = {
        column: volumes[[*structures.index[structures == name]]].sum(axis=1)
        for column, name in structures.items()
    }
    return pd.DataFrame(joined)


def find_structures(columns: pd.Index) -> pd.Index:
    """Return the names without their sides."""
    return columns.str.replace(r"_(left|right)$", "", regex=True)


def changes(volumes: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Compute the relative change of volumes in another acquisition, a row a scan."""
    changed = volumes[volumes.index.str.endswith(variant)]
    own = volumes.loc[changed.index.str.removesuffix(variant)]
    return (changed.set_axis(own.index) - own) / own.where(own > 0)


def summarise(
    scans: dict[str, tuple[Path, Truth]], maps: Path, embedded: pd.DataFrame
) -> pd.DataFrame:
    """Return a row a structure, of both sides, with all measures."""
    dice, volumes = score(scans, maps), read_volumes(maps)
    people = [name for name in scans if name != "mne"]
    truth = true_volumes(scans).loc[people]
    table = pd.DataFrame(
        {
            "Dice, IXI": dice.loc[people].mean(),
            "Dice, FreeSurfer": dice.loc["mne"] if "mne" in dice.index else np.nan,
            "Spearman": correlate(truth, volumes),
            "Spearman, left + right": correlate(join_sides(truth), join_sides(volumes)),
            "Spearman, tokens": correlate(truth, embedded),
            "ratio to true": (volumes.loc[people] / truth).median(),
            "5 mm": changes(volumes, "thick").median(),
            "5 mm, absolute": changes(volumes, "thick").abs().median(),
            "stripped": changes(volumes, "stripped").median(),
            "stripped, absolute": changes(volumes, "stripped").abs().median(),
        }
    )
    sides = find_structures(table.index)
    return table.groupby(sides, sort=False).mean().loc[[*dict.fromkeys(sides)]]


def as_markdown(table: pd.DataFrame) -> str:
    """Format the table of a model card."""
    lines = [["structure", *table.columns], ["---"] * (1 + table.shape[1])]
    for name, row in table.iterrows():
        cells = ["" if np.isnan(value) else f"{value:.2f}" for value in row]
        lines.append([str(name).replace("_", " "), *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--variants", type=int, default=10, help="in 5 mm, stripped")
    parser.add_argument("--card", action="store_true", help="print tables only")
    options = parser.parse_args()
    scans = find_scans(options.scans, options.people)
    inputs, maps = options.work / "scans", options.work / "maps"
    if not options.card:
        write_scans(scans, inputs, options.variants)
        seconds, of_cpu = segment(inputs, maps, options.model)
        print(
            f"{seconds:.1f} s a volume ({of_cpu:.1f} s of processors), with pictures "
            "and the start of Python"
        )
    cached = options.work / "tokens.csv"
    if not cached.is_file():
        embedded_volumes(scans).to_csv(cached)
    people = [name for name in scans if name != "mne"]
    dice = score(scans, maps).loc[people].mean().rename_axis("structure")
    dice.rename("dice").round(4).to_csv(options.work / "dice.csv")
    table = summarise(scans, maps, pd.read_csv(cached, index_col=0))
    mean = table.mean().rename("mean of all")
    is_small = table.index.str.startswith(SMALL)
    table.loc["mean of all"] = mean
    table.loc["mean without the smallest"] = table[:-1][~is_small].mean()
    print(as_markdown(table))


if __name__ == "__main__":
    main()
