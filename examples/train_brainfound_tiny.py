"""Train the bundled `brainfound-tiny`, on a CPU or a GPU.

Nothing is downloaded: subjects are deformed from the MNI152 maps that come with
nilearn, with varied contrasts, scanners and diseases. Each round starts from the one
before: the second has less noise, as real scans do after resampling; the third has
subjects whose tissue borders differ; the fourth, if there is a folder of scans, learns
from these, and from heads that are drawn from label maps, that acquisitions of one
person agree, and the structures of label maps.

    python examples/train_brainfound_tiny.py OUTPUT
    python examples/train_brainfound_tiny.py OUTPUT --scans FOLDER
    python examples/train_brainfound_tiny.py OUTPUT --scans FOLDER --init CHECKPOINT
    python examples/train_brainfound_tiny.py OUTPUT --scans FOLDER --resume
    python examples/train_brainfound_tiny.py OUTPUT --bundle brainfeat/weights/...

FOLDER has a manifest.tsv with a row an image and columns file, modality and subject;
label_map and label_table (or a name as in `LABEL_TABLES`) where there is a label map;
and a folder label_maps of whole heads with the labels of label_tables/synthseg.tsv, if
heads are to be drawn. ``--init`` skips the first three rounds; ``--resume`` continues
an interrupted run; ``--bundle`` also saves the encoder in half precision, beside the
model card of that folder.
"""

import argparse
import csv
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.known import KNOWN_ENCODERS
from brainfeat.checkpoint.origin import bundled_origin
from brainfeat.io.volumes import read_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.template import load_template
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.data import collect_training_data
from brainfeat.pretraining.mixed import MixedSource
from brainfeat.pretraining.read_out import calibrate_read_out
from brainfeat.pretraining.run import pretrain
from brainfeat.pretraining.simulated import SimulatedSource
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.store_writer import write_store
from brainfeat.pretraining.views import ViewConfig
from brainfeat.pretraining.within_subject import normalise_within_subjects
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.artifacts import ArtifactConfig
from brainfeat.simulation.contrast import ContrastConfig
from brainfeat.simulation.deformation import DeformationConfig
from brainfeat.simulation.disease import VariationConfig
from brainfeat.simulation.head_folder import write_heads
from brainfeat.simulation.population import PopulationConfig
from brainfeat.simulation.training import TrainingConfig
from brainfeat.slabs.crops import CropConfig
from brainfeat.slabs.intensity import IntensityConfig
from brainfeat.subjects.subject import Subject

DESCRIPTION = (
    "Learnt from simulated anatomies, label maps of heads and open scans what each "
    "patch of a brain holds, whatever the protocol; T1w, T2w and FLAIR, any of them "
    "missing. Not validated on patients."
)

# %% Scans of people. The table of a label map, by its name; a manifest may name others.
TABLES = Path(__file__).resolve().parent / "label_tables"
LABEL_TABLES = {"*_dlmuse.nii*": TABLES / "muse.tsv"}
HEAD_TABLE = TABLES / "synthseg.tsv"
# The people of ../shared/scans that the weights are tried on. Of IXI, every third
# person from the second on, forty in all; of the label maps of heads, the last three.
UNSEEN = (
    *(f"ds000011/ds0011_{number}_*" for number in ("01", "05", "09")),
    *(f"ds002748/ds2748_{number}_*" for number in ("02", "09", "11", "12")),
    "mne/*",
    "open_ms/ljmslong12_*",
    "single/nii2mesh_*",
)
N_UNSEEN_IXI, N_UNSEEN_HEADS = 40, 3
# Their left and right are confused.
WRONG_LABEL_MAPS = ("*ixi175_*", "*ixi638_*")
N_HEADS = 140

# %% Six blocks of width 192 over patches of 16 x 16 x 8 mm.
ENCODER = EncoderConfig.preset(
    "tiny", depth=6, slab_mixing=(1, 3), stem="hierarchical", slab_positions=20
)

# %% Population: structures vary more, and more independently, than in any cohort, so
# that the volume of one cannot be predicted from the others.
POPULATION = PopulationConfig(
    deformation=DeformationConfig(amplitudes=(5.0, 3.5, 2.0), size_sd=0.05),
    variation=VariationConfig(
        ventricle_sd=0.45,
        ventricle_asymmetry_sd=0.15,
        medial_temporal_sd=0.18,
        medial_temporal_asymmetry_sd=0.08,
        gray_matter_sd=0.07,
    ),
)
FIRST_SUBJECTS = TrainingConfig(
    population=POPULATION,
    contrast=ContrastConfig(jitter=0.1, random_fraction=0.1, detail=(0.0, 1.2)),
)
SECOND_SUBJECTS = TrainingConfig(
    population=POPULATION,
    contrast=ContrastConfig(jitter=0.12, random_fraction=0.2, detail=(0.0, 1.2)),
    artifacts=ArtifactConfig(
        bias=(0.0, 0.4), noise=(0.0, 0.04), gamma=(0.7, 1.4), resolution=(1.0, 5.0)
    ),
)
# Subjects that are not deformations of each other, so that shape is not sufficient.
THIRD_SUBJECTS = dataclasses.replace(SECOND_SUBJECTS, tissue_sd=1.2)

# %% Views: stacks of five slabs of the whole plane. The simulated scans are blurred.
VIEWS = ViewConfig(
    global_crops=CropConfig(
        size=(104, 80), n_slabs=5, area=(0.8, 1.0), rotation=8.0, jitter=2.0
    ),
    intensity=IntensityConfig(blur=0.0),
    n_global=1,
    n_local=0,
    hidden_modalities=0.5,
)

# %% Objective and optimisation.
FIRST = PretrainingConfig(
    encoder=ENCODER,
    views=VIEWS,
    dino_weight=0.0,
    ibot_weight=0.0,
    koleo_weight=0.0,
    anatomy_weight=1.0,
    optimizer="muon",
    learning_rate=1.5e-3,
    final_learning_rate=1e-5,
    layer_decay=1.0,  # no pretrained lower layers to preserve
    patch_embed_lr=1.0,
    weight_decay=(0.05, 0.05),
    teacher_momentum=(0.99, 0.999),
    warmup_fraction=0.03,
    batch_size=4,
    n_steps=3500,
    checkpoint_every=100,
)
SECOND = dataclasses.replace(
    FIRST,
    views=dataclasses.replace(VIEWS, intensity=IntensityConfig(blur=0.0, noise=0.05)),
    learning_rate=1.2e-3,
    n_steps=4000,
    seed=1,
)
THIRD = dataclasses.replace(SECOND, n_steps=5400, seed=11)

# %% Agreement of acquisitions, and structures of label maps. A linear map of the tokens
# is compared with the teacher's, so that tokens may also learn what it does not know.
FOURTH = PretrainingConfig.preset(
    "agreement",
    encoder=dataclasses.replace(ENCODER, background="skipped"),
    agreement_weight=0.3,
    agreement_readout="linear",
    consistency_weight=0.5,
    consistency_parts=(0.2, 1.0, 0.1),
    anatomy_weight=1.0,
    anatomy_whole_weight=0.15,
    infonce_weight=0.1,
    head_hidden_dim=256,
    head_bottleneck_dim=64,
    n_steps=950,
    learning_rate=5e-4,
    final_learning_rate=5e-6,
    checkpoint_every=50,
    seed=5,
)
LOBES = ("frontal", "parietal", "temporal", "occipital", "cingulate", "insula")
# Of steps on scans, on drawn heads and on simulated subjects; and degraded copies.
SHARES = (0.5, 0.38, 0.12)
COPIES = (8, 4)
# Of structures in the objective, so that small ones are read too; 1 for all others.
EMPHASIS = {
    **dict.fromkeys(("hippocampus", "amygdala", "thalamus", "accumbens"), 2.0),
    **dict.fromkeys(("caudate", "putamen", "pallidum", "deep_gray"), 2.0),
    **dict.fromkeys(("medial_temporal", "inferior_lateral_ventricle"), 2.0),
    **dict.fromkeys((f"{lobe}_cortex" for lobe in LOBES), 0.4),
    "log_jacobian": 0.3,
}


def load_bases(subjects: Sequence[Subject] = ()) -> list[BaseAnatomy]:
    """Load two anatomies of MNI152, and those of subjects with a T1w scan of a head.

    The first is of its tissue maps, the second of its T1w image.
    """
    names = ("T1w", "gray_matter", "white_matter", "brain_mask")
    maps = {name: load_template(name) for name in names}
    return [
        BaseAnatomy.from_template(*maps.values(), spacing=2.0),
        BaseAnatomy.from_t1(maps["T1w"], maps["brain_mask"], spacing=2.0),
        *(load_own_base(subject.paths["T1w"]) for subject in subjects),
    ]


def load_own_base(path: str) -> BaseAnatomy:
    """Load the anatomy of a T1w scan, whose brain the preprocessing finds."""
    volume, preprocessor = read_volume(path), Preprocessor()
    found = preprocessor.apply({"T1w": volume}, ("T1w",))
    mask = preprocessor.invert(found.foreground, found, volume.geometry)
    aligned = align_to_template(volume).affine
    return BaseAnatomy.from_t1(volume, mask, spacing=2.0, template_to_scanner=aligned)


def read_scans(folder: Path) -> list[Subject]:
    """Read the people of a folder that may be trained on, a row an acquisition.

    A second scan of a modality is of another session. Who has several modalities is
    shown with all, and with each alone.
    """
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file, delimiter="\t")]
    unseen = find_unseen([row["file"] for row in rows])
    people: dict[str, list[dict[str, Mapping[str, str]]]] = {}
    for row in rows:
        if row["file"] in unseen or row["modality"] not in ENCODER.modalities:
            continue
        sessions = people.setdefault(row.get("subject") or row["file"], [])
        free = (session for session in sessions if row["modality"] not in session)
        if (session := next(free, None)) is None:
            sessions.append(session := {})
        session[row["modality"]] = row
    subjects = []
    for name, sessions in people.items():
        for number, session in enumerate(sessions, 1):
            parts = [session, *({m: row} for m, row in session.items())]
            for part in parts if len(session) > 1 else parts[:1]:
                subjects.append(to_subject(folder, name, f"{number}", part))
    return subjects


def find_unseen(files: Sequence[str]) -> set[str]:
    """Return the files of people whom the weights are tried on."""
    ixi = sorted(name for name in files if fnmatch(name, "ixi/*_T1w*"))
    named = (name for name in files if any(fnmatch(name, part) for part in UNSEEN))
    return {*ixi[1::3][:N_UNSEEN_IXI], *named}


def to_subject(
    folder: Path, name: str, session: str, rows: Mapping[str, Mapping[str, str]]
) -> Subject:
    metadata = {"brain": next(iter(rows.values())).get("brain") or ""}
    for row in rows.values():
        label_map = row.get("label_map") or ""
        found = (t for part, t in LABEL_TABLES.items() if fnmatch(label_map, part))
        table = row.get("label_table") or next(found, None)
        is_wrong = any(fnmatch(label_map, part) for part in WRONG_LABEL_MAPS)
        if label_map and table and not is_wrong:
            paths = {"label_map": folder / label_map, "label_table": folder / table}
            metadata |= {key: str(path) for key, path in paths.items()}
    images = {modality: str(folder / row["file"]) for modality, row in rows.items()}
    return Subject(name.replace("/", "_"), images, session, metadata)


def make_stores(
    scans: Path, people: list[Subject], output: Path, *, n_jobs: int
) -> list[VolumeStore]:
    """Preprocess scans, and heads drawn from label maps, with degraded copies."""
    parts = [people]
    heads = sorted((scans / "label_maps").glob("*.nii*"))[:-N_UNSEEN_HEADS]
    if heads:
        options = {"label_table": HEAD_TABLE, "show_progress": True}
        manifest = write_heads(heads, output / "heads", N_HEADS, **options)
        data = collect_training_data(str(manifest), modalities=ENCODER.modalities)
        parts.append([*data.subjects])
    stores = []
    for name, subjects, n_copies in zip(
        ("scans", "drawn"), parts, COPIES, strict=False
    ):
        store, failed = write_store(
            subjects,
            output / f"store-{name}",
            Preprocessor(),
            modalities=ENCODER.modalities,
            n_degraded=n_copies,
            n_jobs=n_jobs,
        )
        logging.info(
            "%s: %d scans, %d failed", name, len(store.index.scans), len(failed)
        )
        stores.append(store)
    return stores


def simulate(bases: Sequence[BaseAnatomy], subjects: TrainingConfig) -> SimulatedSource:
    return SimulatedSource(
        bases,
        modalities=ENCODER.modalities,
        reuse=12,
        config=subjects,
        preprocessing=Preprocessor().to_dict(),
    )


def train_on_simulation(output: Path, *, resume: bool) -> Path:
    """Train the first three rounds; return the folder of the last."""
    bases, init = load_bases(), None
    for folder, config, subjects in (
        (output / "first", FIRST, FIRST_SUBJECTS),
        (output / "second", SECOND, SECOND_SUBJECTS),
        (output, THIRD, THIRD_SUBJECTS),
    ):
        source = simulate(bases, subjects)
        pretrain(source, config, output=folder, init=init, resume=resume)
        init = folder
    return output


def train_on_scans(
    scans: Path, init: str, output: Path, *, n_bases: int, n_jobs: int, resume: bool
) -> Path:
    """Train the fourth round, and calibrate what it reads; return its folder."""
    people, folder = read_scans(scans), output / "calibrated"
    stores = make_stores(scans, people, output, n_jobs=n_jobs)
    whole = [
        one for one in people if one.metadata["brain"] == "head" and "T1w" in one.paths
    ]
    simulated = simulate(load_bases(whole[:n_bases]), THIRD_SUBJECTS)
    shares = (*SHARES[: len(stores)], SHARES[-1])
    source = MixedSource([*stores, simulated], shares)
    source.target_weights = tuple(weigh(name) for name in source.targets)
    trained = pretrain(
        source, FOURTH, output=output / "scans", init=init, resume=resume
    )
    scaled = normalise_within_subjects(trained, stores[0])
    calibrate_read_out(scaled, stores[0]).save(folder)
    return folder


def weigh(target: str) -> float:
    """Return the weight of a structure, the same on both sides."""
    name = target.removesuffix("_left").removesuffix("_right")
    return EMPHASIS.get(name, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--scans", type=Path, metavar="FOLDER", help="real scans")
    parser.add_argument("--bases", type=int, default=0, help="T1w heads to deform")
    parser.add_argument("--init", metavar="CHECKPOINT", help="skip the first rounds")
    parser.add_argument("--jobs", type=int, default=1, help="scans to prepare at once")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    trained = options.init
    if trained is None:
        trained = train_on_simulation(options.output, resume=options.resume)
    if options.scans is not None:
        trained = train_on_scans(
            options.scans,
            trained,
            options.output,
            n_bases=options.bases,
            n_jobs=options.jobs,
            resume=options.resume,
        )
    if options.bundle is not None:
        bundle(Path(trained), options.bundle)


def bundle(trained: Path, folder: Path) -> None:
    """Save an encoder for the wheel, beside the existing model card."""
    checkpoint = Checkpoint.load(trained)
    origin = bundled_origin(KNOWN_ENCODERS["brainfound-tiny"])
    config = dataclasses.replace(
        checkpoint.config, description=DESCRIPTION, origin=origin
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    Checkpoint(config, checkpoint.state, card).save(folder, dtype="float16")


if __name__ == "__main__":
    main()
