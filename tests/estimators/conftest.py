"""A small random checkpoint and a small cohort, shared by the estimators' tests."""

import numpy as np
import pytest
import torch

from brainfeat.checkpoint import Checkpoint, CheckpointConfig
from brainfeat.estimators._subjects import Subject
from brainfeat.io import write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.preprocessing import Preprocessor
from brainfeat.volume import Volume

MODALITIES = ("T1w", "T2w", "FLAIR")
PREPROCESSOR = Preprocessor(shape=(40, 56, 36), spacing=4.0, alignment="none")
ENCODER = EncoderConfig(
    modalities=MODALITIES,
    thickness=2,
    image_size=(56, 40),
    embed_dim=24,
    depth=2,
    num_heads=2,
    slab_mixing=(0,),
    tissues=("csf", "ventricle", "deep_gray"),
)


@pytest.fixture(scope="module", autouse=True)
def _always_one_thread(one_thread):
    """Everything here is small."""


@pytest.fixture(scope="session")
def make_checkpoint():
    """Draw random weights that pass for trained ones, with settings of choice."""
    return _make_checkpoint


def _make_checkpoint(seed=0, **changes):
    torch.manual_seed(seed)
    encoder = SlabEncoder(changes.pop("encoder", ENCODER))
    # Layers that start at zero would hide how rows and slabs mix.
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in encoder.state_dict().items()}
    if "anatomy.bias" in state:
        state["anatomy.bias"] += 1.0  # as shares, whose sum is not about zero
    settings = {
        "encoder": encoder.config,
        "preprocessing": PREPROCESSOR.to_dict(),
        "missing_modalities": True,
    }
    return Checkpoint(CheckpointConfig(**{**settings, **changes}), state)


@pytest.fixture(scope="session")
def checkpoint():
    """A small encoder of three modalities."""
    return _make_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_path(checkpoint, tmp_path_factory):
    """Folder of the checkpoint, as a string."""
    return str(checkpoint.save(tmp_path_factory.mktemp("checkpoint")))


def draw_brain(brain, seed, modality):
    """Return a brain with its own bumps; patients' grow with an odd seed."""
    rng = np.random.default_rng([seed, MODALITIES.index(modality)])
    coarse = rng.normal(size=(6, 7, 5))
    grown = coarse.repeat(11, 0).repeat(12, 1).repeat(13, 2)
    bumps = grown[tuple(slice(size) for size in brain.data.shape)]
    data = brain.data / brain.data.max()
    # One contrast is the other upside down, within the brain.
    data = np.where(data > 0, (1.2 - data if modality != "T1w" else data), 0.0)
    data = data * (1.0 + 0.1 * bumps + 0.3 * (seed % 2) * (data > 0.7))
    return Volume((1000 * data).astype(np.float32), brain.geometry)


@pytest.fixture(scope="session")
def cohort(small_brain, tmp_path_factory):
    """Paths of 8 subjects by modality: {"T1w": [...], "T2w": [...], ...}."""
    folder = tmp_path_factory.mktemp("cohort")
    return {
        modality: [
            str(
                write_volume(
                    draw_brain(small_brain, seed, modality),
                    folder / f"sub-{seed:02d}_{modality}.nii.gz",
                )
            )
            for seed in range(8)
        ]
        for modality in MODALITIES
    }


@pytest.fixture(scope="session")
def subjects(cohort):
    """The first 5 subjects, the second without FLAIR."""
    rows = []
    for index in range(5):
        images = {modality: paths[index] for modality, paths in cohort.items()}
        if index == 1:
            images["FLAIR"] = None
        rows.append(Subject(f"sub-{index:02d}", images))
    return rows
