"""A small random encoder, and brains of two classes that differ in one block."""

import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat import BrainFoundEmbedder
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.embedding.tokens import stream_tokens
from brainfeat.io.volumes import write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Volume

GRID = Preprocessor(shape=(40, 56, 36), spacing=4.0)
BLOCK = (slice(18, 26), slice(30, 40), slice(20, 28))  # voxels of the 3 mm brain


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """Folder of a random encoder, with hardly any attention across patches."""
    torch.manual_seed(0)
    config = EncoderConfig(
        modalities=("T1w",),
        thickness=2,
        image_size=(56, 40),
        embed_dim=24,
        depth=1,
        num_heads=2,
    )
    state = SlabEncoder(config).state_dict()
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in state.items()}
    settings = CheckpointConfig(
        encoder=config, preprocessing=GRID.to_dict(), missing_modalities=False
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    return str(Checkpoint(settings, state).save(folder))


@pytest.fixture
def paired(small_checkpoint, without_registration, tmp_path, monkeypatch):
    """An embedder of two threads, which fails unless both read at the same time."""
    assert without_registration is None
    (tmp_path / "paired_mask.py").write_text(
        "import threading\n"
        "both = threading.Barrier(2, timeout=20)\n"
        "def mask(volume):\n"
        "    both.wait()\n"
        "    return volume.data > 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "paired_mask", raising=False)  # an earlier test's
    preprocessor = replace(GRID, brain_mask="paired_mask:mask")
    return BrainFoundEmbedder(
        small_checkpoint, preprocessor=preprocessor, n_jobs=2, device="cpu"
    )


@pytest.fixture(scope="session")
def brains(small_brain, tmp_path_factory):
    """Paths of 16 T1w scans; the odd ones are dark at BLOCK."""
    folder = tmp_path_factory.mktemp("brains")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(16):
        noise = 1.0 + 0.02 * rng.normal(size=small_brain.data.shape)
        data = small_brain.data * noise
        if number % 2:
            data[BLOCK] *= 0.2
        volume = Volume(data.astype(np.float32), small_brain.geometry)
        paths.append(str(write_volume(volume, folder / f"sub-{number:02d}_T1w.nii.gz")))
    return paths


@pytest.fixture(scope="session")
def small_encoder(small_checkpoint):
    """The encoder, pooling by the mean."""
    return SubjectEncoder(Checkpoint.load(small_checkpoint), device="cpu")


@pytest.fixture(scope="module")
def tokens(small_encoder, brains, without_registration):
    """Tokens of the 16 brains."""
    assert without_registration is None
    rows = [Subject(path, {"T1w": path}) for path in brains]
    return [outcome.unwrap() for outcome in stream_tokens(small_encoder, rows)]


@pytest.fixture(scope="session")
def small_atlas(small_brain):
    """Eight octants of the brain, and BLOCK as the ninth region."""
    center = np.array(small_brain.data.shape)[:, None, None, None] // 2
    high = np.indices(small_brain.data.shape) >= center
    labels = 1 + np.einsum("aijk,a->ijk", high.astype(int), [1, 2, 4])
    labels[BLOCK] = 9
    labels[small_brain.data == 0] = 0
    return nib.Nifti1Image(labels.astype(np.uint8), small_brain.geometry.affine)
