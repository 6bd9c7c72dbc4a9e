"""Train the last round of `brainfound-tiny` without one of its parts, for equal time.

The stores are those that `examples/train_brainfound_tiny.py` wrote: of scans, and of
heads drawn from label maps. Each run starts from the same weights and has one thread.

    python examples/benchmarks/people_ablations.py OUTPUT --init CHECKPOINT
        --stores STORE_SCANS STORE_DRAWN [--seconds 300] [--only NAME ...]

trains all, and prints the options with which `real_people.py` compares them. The same
command resumes an interrupted run.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from ablations import train

from brainfeat import Checkpoint
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.mixed import MixedSource
from brainfeat.pretraining.read_out import calibrate_read_out
from brainfeat.pretraining.source import SubjectSource
from brainfeat.pretraining.store import StoreIndex, VolumeStore
from brainfeat.pretraining.within_subject import normalise_within_subjects

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_brainfound_tiny as recipe

CHANGES: dict[str, dict[str, float]] = {
    "whole": {},
    "without-real-anatomies": {},
    "without-protocols": {},
    "without-agreement": {
        "agreement_weight": 0.0,
        "consistency_weight": 0.0,
        "infonce_weight": 0.0,
    },
    "without-anatomy": {"anatomy_weight": 0.0},
}


def configure(name: str) -> PretrainingConfig:
    return dataclasses.replace(recipe.FOURTH, **CHANGES[name])


def make_source(name: str, stores: Sequence[VolumeStore], work: Path) -> SubjectSource:
    simulated = recipe.simulate(recipe.load_bases(), recipe.THIRD_SUBJECTS)
    if name == "without-real-anatomies":
        return simulated
    if name == "without-protocols":
        stores = [
            keep_clean(store, work / f"clean-{number}")
            for number, store in enumerate(stores)
        ]
    source = MixedSource([*stores, simulated], recipe.SHARES)
    source.target_weights = tuple(map(recipe.weigh, source.targets))
    return source


def keep_clean(store: VolumeStore, folder: Path) -> VolumeStore:
    """Return a store of the scans as they are, without degraded copies."""
    scans = tuple(
        dataclasses.replace(
            scan,
            file=str((store.folder / scan.file).resolve()),
            labels=scan.labels and str((store.folder / scan.labels).resolve()),
        )
        for scan in store.index.scans
        if not scan.degradation
    )
    folder.mkdir(parents=True, exist_ok=True)
    index: StoreIndex = dataclasses.replace(store.index, scans=scans)
    index.save(folder)
    return VolumeStore(folder)


def finish(folder: Path, scans: VolumeStore) -> Path:
    """Scale the features, and calibrate what is read of the structures of scans."""
    checkpoint = normalise_within_subjects(Checkpoint.load(folder), scans)
    if checkpoint.config.slab_encoder.structures:
        checkpoint = calibrate_read_out(checkpoint, scans)
    return checkpoint.save(folder / "finished")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--init", required=True, metavar="CHECKPOINT")
    parser.add_argument("--stores", nargs=2, type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300, help="CPU time of each")
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=[*CHANGES])
    options = parser.parse_args()
    torch.set_num_threads(1)
    stores = [VolumeStore(folder) for folder in options.stores]
    names = []
    for name in options.only:
        folder = options.output / name
        source = make_source(name, stores, options.output)
        train(source, configure(name), folder, options.seconds, options.init)
        n_steps = (folder / "n_steps.txt").read_text()
        names.append(f"{name}-{n_steps}-steps={finish(folder, stores[0])}")
    print("--checkpoint", *names)


if __name__ == "__main__":
    main()
