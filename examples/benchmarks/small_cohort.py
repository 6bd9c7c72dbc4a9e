"""Thousands of small volumes and a small encoder, written within a minute."""

from pathlib import Path

import numpy as np

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.io.volumes import write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.volume import Geometry, Volume

SHAPE = (18, 20, 16)


def write_checkpoint(folder: Path, spacing: float = 0.3) -> Path:
    """Write an untrained encoder of 24 features, fast on a grid of small voxels."""
    encoder = EncoderConfig(
        modalities=("T1w", "FLAIR"),
        thickness=2,
        image_size=(40, 32),
        embed_dim=24,
        depth=1,
        num_heads=3,
        tissues=("csf", "ventricle"),
    )
    preprocessor = Preprocessor(shape=(32, 40, 24), spacing=spacing, alignment="none")
    config = CheckpointConfig(
        encoder=encoder,
        preprocessing=preprocessor.to_dict(),
        missing_modalities=True,
        trained=False,
    )
    return Checkpoint.untrained(config).save(folder)


def write_cohort(folder: Path, n_subjects: int) -> Path:
    """Write a BIDS folder with one T1w volume per subject: a noisy ball.

    The volumes are too small for a head, so that none is registered, which is slow.
    """
    for index in range(n_subjects):
        write_subject(folder, index)
    return folder


def write_subject(folder: Path, index: int) -> Path:
    rng = np.random.default_rng(index)
    axes = (np.linspace(-1, 1, n) - rng.uniform(-0.2, 0.2) for n in SHAPE)
    x, y, z = np.meshgrid(*axes, indexing="ij")
    ball = np.clip(1.2 - x**2 - y**2 - z**2, 0, None) * rng.uniform(100, 900)
    data = (ball + rng.normal(0, 5, SHAPE)).astype(np.float32)
    geometry = Geometry(SHAPE, np.diag([0.5, 0.5, 0.5, 1.0]))
    name = f"sub-{index:05d}"
    return write_volume(
        Volume(data, geometry), folder / name / "anat" / f"{name}_T1w.nii.gz"
    )
