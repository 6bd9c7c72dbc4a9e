"""A run with agreement, from scans and label maps to an encoder of the anatomy."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat import BrainFoundEmbedder, pretrain
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.io.volumes import write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.simulation.artifacts import ArtifactConfig
from brainfeat.simulation.bases import load_base
from brainfeat.simulation.degradation import Degradation, DegradationConfig
from brainfeat.simulation.scanner import PoseConfig
from brainfeat.simulation.training import (
    TrainingConfig,
    draw_subjects,
    encoder_lattice,
)
from brainfeat.volume import Geometry, Volume

SHAPE, SPACING = (40, 52, 40), 4.0
PREPROCESSOR = Preprocessor(shape=SHAPE, spacing=SPACING, alignment="none")
ENCODER = EncoderConfig(
    modalities=("T1w",),
    thickness=2,
    patch_size=4,
    image_size=(52, 40),
    embed_dim=24,
    depth=2,
    num_heads=3,
    slab_mixing=(0,),
    layer_scale=0.5,
)
# Thick slices with noise and a bias field, and nothing else.
OTHER = DegradationConfig(
    thick=1.0,
    isotropic=0.0,
    slices=(8.0, 9.0),
    tilted=0.0,
    interpolated=0.0,
    stripped=0.0,
    biased=1.0,
    bias=(0.3, 0.3),
    high_field=0.0,
    gamma=0.0,
    noisy=1.0,
    noise=(0.05, 0.05),
    mp2rage=0.0,
    cropped=0.0,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.release,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("one_thread", "without_registration"),
]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Folder of six subjects' scans and label maps, and of their thick slices."""
    folder = tmp_path_factory.mktemp("people")
    base, lattice = load_base(spacing=4.0), encoder_lattice(SHAPE, SPACING)
    config = TrainingConfig(
        artifacts=ArtifactConfig(bias=(0, 0), noise=(0.01, 0.01), gamma=(1, 1)),
        pose=PoseConfig(rotation=0.0, shift=0.0),
        stripped_fraction=0.0,
    )
    for number in range(6):
        drawn = draw_subjects(
            base,
            1,
            generator=torch.Generator().manual_seed(number),
            lattice=lattice,
            config=config,
        )
        geometry = Geometry(SHAPE, lattice.affine)
        scan = Volume(500 * drawn.volumes[0, 0].numpy(), geometry)
        fraction, tissue = drawn.truth[0, :6].max(dim=0)
        labels = torch.where(fraction > 0.3, tissue + 1, 0).numpy().astype(np.int32)
        name = f"sub-{number}"
        for kind in ("scans", "maps", "thick"):
            (folder / kind).mkdir(exist_ok=True)
        write_volume(scan, folder / "scans" / f"{name}_T1w.nii.gz")
        write_volume(Volume(labels, geometry), folder / "maps" / f"{name}_dseg.nii.gz")
        protocol = Degradation.draw(OTHER, np.random.default_rng(number))
        write_volume(protocol.apply(scan), folder / "thick" / f"{name}_T1w.nii.gz")
    rows = [f"{n}\tstructure_{n}" for n in range(1, 7)]
    (folder / "maps" / "dseg.tsv").write_text("\n".join(["index\tname", *rows]))
    return folder


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    """Random weights whose tokens depend on the image."""
    config = CheckpointConfig(
        encoder=ENCODER, preprocessing=PREPROCESSOR.to_dict(), trained=False
    )
    state = Checkpoint.untrained(config).state
    generator = torch.Generator().manual_seed(0)
    state = {
        n: v + 0.05 * torch.randn(v.shape, generator=generator)
        for n, v in state.items()
    }
    folder = tmp_path_factory.mktemp("init") / "small"
    return Checkpoint(replace(config, trained=True), state).save(folder)


def config_of(**changes):
    config = PretrainingConfig.preset("agreement", encoder=ENCODER, precision="float32")
    views = replace(
        config.views,
        global_crops=replace(config.views.global_crops, size=(52, 40)),
        local_crops=replace(config.views.local_crops, size=(12, 12)),
    )
    return replace(config, views=views, **changes)


def within_over_between(folder, checkpoint):
    """Return distances of thick slices from the scan, over those between subjects."""
    embedder = BrainFoundEmbedder(checkpoint=checkpoint, pooling="mean")
    clean, thick = (
        embedder.fit_transform(sorted((folder / kind).glob("*.nii.gz")))
        for kind in ("scans", "thick")
    )
    within = np.square(clean - thick).sum(axis=1).mean()
    return within / (2 * clean.var(axis=0, ddof=1).sum())


def test_agreement_lowers_the_distance_within_subjects(scans, init, tmp_path):
    before = within_over_between(scans, init)
    config = config_of(
        n_steps=50,
        n_degraded=6,
        learning_rate=2e-3,
        consistency_weight=1.0,
        teacher_momentum=(0.9, 0.95),
    )
    pretrain(
        scans / "scans",
        config,
        output=tmp_path / "run",
        init=init,
        device="cpu",
        label_maps=scans / "maps",
    )
    after = within_over_between(scans, tmp_path / "run")
    assert after < 0.85 * before
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    first, last = (json.loads(lines[n]) for n in (0, -1))
    assert last["anatomy"] < first["anatomy"]
    assert last["agreement"] < first["agreement"]
    assert last["subject_spread"] > 0.5
    tissues = Checkpoint.load(tmp_path / "run").config.encoder.tissues
    assert tissues == tuple(f"structure_{n}" for n in range(1, 7))


def test_command_resumes_and_trains_from_the_store_that_it_made(scans, init, tmp_path):
    config = tmp_path / "config.json"
    values = {"precision": "float32", "n_degraded": 1, "checkpoint_every": 2}
    values["views"] = {"local_crops": {"size": [12, 12]}}
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "brainfeat", "pretrain"]
    options = ["--init", init, "--preset", "agreement", "--config", config]
    maps = ["--label-maps", scans / "maps"]

    def run(*arguments):
        result = subprocess.run(
            [*command, *arguments, *options, "--steps", "3", "--device", "cpu"],
            capture_output=True,
            text=True,
            timeout=200,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr
        return result

    first, second = tmp_path / "first", tmp_path / "second"
    assert (
        "6 of 6 scans have a label map"
        in run(scans / "scans", "-o", first, *maps).stderr
    )
    run(scans / "scans", "-o", first, *maps, "--resume")
    run(first / "store", "-o", second)
    one, other = (Checkpoint.load(folder).fingerprint for folder in (first, second))
    assert one == other
