"""Train the bundled `brainfound-tiny-anatomy`, on two cores or a GPU.

A decoder learns to segment the structures of the brain, on the bundled encoder, which
does not change. It learns from label maps of people, from heads that are drawn from
label maps, and from other acquisitions of both: thick slices, large voxels, noise,
bias, with and without skull.

    python examples/train_anatomy_decoder.py OUTPUT --scans FOLDER
    python examples/train_anatomy_decoder.py OUTPUT --resume
    python examples/train_anatomy_decoder.py OUTPUT --bundle brainfeat/weights/...

FOLDER is that of `train_brainfound_tiny.py`, whose held-out people are left out.
``--prepare`` only writes the training data, and may run beside a training, which reads
what is ready when it starts; ``--steps`` may change when a training is resumed, which
then ends earlier or later.
"""

import argparse
import csv
import logging
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anatomy_labels import Protocol, read_names, to_common
from scipy import ndimage
from train_brainfound_tiny import (
    HEAD_TABLE,
    N_UNSEEN_HEADS,
    WRONG_LABEL_MAPS,
    find_unseen,
)

from brainfeat import SegmentationEstimator
from brainfeat.checkpoint.sharing import shared_checkpoint, shared_encoder
from brainfeat.exceptions import BrainfeatError
from brainfeat.io.volumes import read_labels, read_volume, write_volume
from brainfeat.models.device import resolve_device
from brainfeat.segmentation.folder import write_folder
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.names import NAMES_FILE, write_names
from brainfeat.segmentation.network import SegmentationNetwork, init_decoder
from brainfeat.segmentation.plan import Split, TrainingPlan
from brainfeat.segmentation.presampled import PresampledBoxes
from brainfeat.segmentation.run_state import SavedRun
from brainfeat.segmentation.store import LabelledStore, StoreWriter, read_labelled
from brainfeat.segmentation.training import train
from brainfeat.simulation.degradation import Degradation, DegradationConfig
from brainfeat.simulation.head_folder import write_heads
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Volume

BASE = "brainfound-tiny"
MODALITIES = ("T1w", "T2w", "FLAIR")
# Left and right are confused in these, too.
WRONG = (*WRONG_LABEL_MAPS, "*ixi256_*")
N_HEADS = 60
N_PRIOR = 60  # acquisitions that the prior is computed from
CONFIG = DegradationConfig()
PLAN = TrainingPlan(
    n_steps=4000, learning_rate=6e-3, batch_size=1, freeze_encoder=True, seed=3
)
STATE = "state.safetensors"


class Source(NamedTuple):
    """A person or a drawn head, with the protocol of the label map."""

    name: str
    images: dict[str, Path]
    label_map: Path
    protocol: Protocol


class Acquisition(NamedTuple):
    """One scan to learn from: a source as it is, or another acquisition of it."""

    name: str
    source: Source
    modalities: tuple[str, ...]
    seed: int | None  # of the degradation; None for none


def find_people(scans: Path) -> list[Source]:
    """Find the people to learn from."""
    files = sorted(p.relative_to(scans).as_posix() for p in scans.glob("ixi/*_T1w*"))
    unseen = find_unseen(files)
    people = []
    for name in files:
        label_map = Path(f"{name.partition('_T1w')[0]}_dlmuse.nii.gz")
        if name in unseen or any(fnmatch(str(label_map), part) for part in WRONG):
            continue
        stem = Path(name).name.partition("_T1w")[0]
        paths = {"T1w": scans / name}
        people.append(Source(stem, paths, scans / label_map, "muse"))
    return people


def draw_heads(scans: Path, output: Path, n_heads: int) -> list[Source]:
    """Draw heads from label maps, in a folder that keeps them."""
    maps = sorted((scans / "label_maps").glob("*.nii*"))[:-N_UNSEEN_HEADS]
    write_heads(maps, output, n_heads, label_table=HEAD_TABLE, modalities=MODALITIES)
    heads = []
    for number in range(n_heads):
        name = f"head{number:05d}"
        images = {m: output / "scans" / f"{name}_{m}.nii.gz" for m in MODALITIES}
        labels = output / "labels" / f"{name}.nii.gz"
        heads.append(Source(name, images, labels, "freesurfer"))
    return heads


def plan_acquisitions(
    people: list[Source], heads: Iterator[Source], n_heads: int
) -> Iterator[Acquisition]:
    """List acquisitions so that the first ones are of every kind."""
    for number in range(max(len(people), n_heads)):
        for copy in (None, number):
            if number < len(people):
                name = f"{people[number].name}-{'own' if copy is None else 'copy'}"
                yield Acquisition(name, people[number], ("T1w",), copy)
        if number < n_heads:
            head = next(heads)
            one = MODALITIES[number % 3]
            yield Acquisition(f"{head.name}-{one}", head, (one,), None)
            other = MODALITIES[(number + 1 + number // 3) % 3]
            yield Acquisition(f"{head.name}-copy", head, (other,), 1000 + number)
            if number % 3 == 0:
                yield Acquisition(f"{head.name}-all", head, MODALITIES, None)


def prepare(scans: Path, output: Path, n_heads: int) -> None:
    """Preprocess all acquisitions as scans of users, to a store that is resumed."""
    config = shared_checkpoint(BASE).config
    space = SegmentationSpace.of_checkpoint(config, MODALITIES)
    writer = StoreWriter.open(output / "store", space)
    done, folder = set(writer.names), output / "acquisitions"
    planned = plan_acquisitions(
        find_people(scans), each_head(scans, output / "heads", n_heads), n_heads
    )
    for item in planned:
        if item.name in done:
            continue
        try:
            images, label_map = acquire(item, folder)
            subject = Subject(item.name, {m: str(p) for m, p in images.items()})
            writer.add(read_labelled(subject, str(label_map), space))
        except BrainfeatError as error:
            logging.warning("%s: left out (%s)", item.name, error)
            continue
        finally:
            for path in folder.glob(f"{item.name}*"):
                path.unlink()
        writer.save_index()
        logging.info("%d: %s", len(writer.names), item.name)


def each_head(scans: Path, folder: Path, n_heads: int) -> Iterator[Source]:
    """Draw heads when they are needed, some at a time."""
    for first in range(0, n_heads, 10):
        yield from draw_heads(scans, folder, min(first + 10, n_heads))[first:]


def acquire(item: Acquisition, folder: Path) -> tuple[dict[str, Path], Path]:
    """Write the scans of an acquisition, and its label map in the common list."""
    labels = to_common(read_labels(item.source.label_map), item.source.protocol)
    label_map = write_volume(labels, folder / f"{item.name}-labels.nii")
    if item.seed is None:
        return {m: item.source.images[m] for m in item.modalities}, label_map
    brain = find_brain(labels)
    generator = np.random.default_rng([7, item.seed])
    images = {}
    for modality in item.modalities:
        volume = read_volume(item.source.images[modality])
        changed = Degradation.draw(CONFIG, generator).apply(volume, brain)
        images[modality] = write_volume(changed, folder / f"{item.name}_{modality}.nii")
    return images, label_map


def find_brain(labels: Volume) -> Volume:
    """Return the mask of all that lies between structures."""
    mm = max(labels.geometry.spacing)
    is_brain = ndimage.binary_closing(labels.data > 0, iterations=max(1, round(6 / mm)))
    return Volume(ndimage.binary_fill_holes(is_brain).astype(np.uint8), labels.geometry)


def learn(output: Path, device: torch.device, n_steps: int) -> None:
    """Train on what is in the store; an interrupted training is resumed."""
    network, store = build_network(output, device)
    rows = np.arange(len(store.present))
    logging.info("%d acquisitions, %d classes", len(rows), len(store.classes))
    source = PresampledBoxes(network, store, rows)
    source.encode(show_progress=True)
    train(
        network,
        store,
        Split(rows, rows[:0]),
        replace(PLAN, n_steps=n_steps),
        source=source,
        saved=SavedRun(output / STATE),
        verbose=1,
    )


def build_network(
    output: Path, device: torch.device
) -> tuple[SegmentationNetwork, LabelledStore]:
    """Combine the bundled encoder with a decoder; the first run computes its prior."""
    checkpoint = shared_checkpoint(BASE)
    space = SegmentationSpace.of_checkpoint(checkpoint.config, MODALITIES)
    store = StoreWriter.open(output / "store", space).finish()
    path, encoder = output / "prior.npy", checkpoint.config.encoder
    if not path.is_file():
        first = np.arange(min(N_PRIOR, len(store.present)))
        np.save(path, store.prior(first).numpy())
    network = SegmentationNetwork(
        space=space,
        encoder=shared_encoder(checkpoint, device),
        decoder=init_decoder(encoder, space, len(store.classes), PLAN.seed),
        prior=torch.from_numpy(np.load(path)),
        device=device,
    )
    return network, store


def bundle(output: Path, folder: Path, dice: Path | None) -> None:
    """Save the decoder for the wheel, in half precision, beside its model card.

    ``dice`` is a table that `benchmarks/anatomy_decoder.py` wrote.
    """
    network, store = build_network(output, torch.device("cpu"))
    optimizer = torch.optim.AdamW(network.decoder.parameters())
    state = SavedRun(output / STATE)
    curve = state.restore([network.decoder], optimizer, torch.Generator())
    names = {0: "background", **read_names()}
    model = SegmentationEstimator(BASE, n_steps=len(curve), n_folds=0, grid="first")
    model.classes_ = np.array(store.classes)
    model.names_ = {label: names[label] for label in store.classes}
    model.modalities_, model.label_grid_ = MODALITIES, None
    model.loss_curve_ = [float(np.mean(part)) for part in np.array_split(curve, 100)]
    model.validation_scores_ = []
    model.modality_scores_, model.held_out_scores_ = {}, {}
    model.held_out_score_ = float("nan")
    if dice is not None:
        with dice.open(encoding="utf-8", newline="") as file:
            scores = {
                row["structure"]: float(row["dice"]) for row in csv.DictReader(file)
            }
        model.held_out_scores_ = scores
        model.held_out_score_ = float(np.mean([*scores.values()]))
    model.decoder_, model.prior_ = network.decoder, network.prior
    model.tuned_checkpoint_ = None
    model.checkpoint_fingerprint_ = shared_checkpoint(BASE).fingerprint
    write_folder(
        *(folder, model, shared_checkpoint(BASE)),
        encoder_name=BASE,
        dtype=torch.float16,
    )
    write_names(folder / NAMES_FILE, model.classes_, model.names_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--scans", type=Path, metavar="FOLDER")
    parser.add_argument("--heads", type=int, default=N_HEADS)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, default=PLAN.n_steps)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER")
    parser.add_argument("--dice", type=Path, help="of held-out people, for --bundle")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    has_state = (options.output / STATE).is_file()
    if options.scans is not None:
        if has_state and not options.resume and not options.prepare:
            parser.error(f"{options.output} holds a training; resume it by --resume.")
        prepare(options.scans, options.output, options.heads)
    if not options.prepare and (options.scans is not None or options.resume):
        learn(options.output, resolve_device(options.device), options.steps)
    if options.bundle is not None:
        bundle(options.output, options.bundle, options.dice)


if __name__ == "__main__":
    main()
