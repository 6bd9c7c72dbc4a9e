"""The entry script of the container of examples/fomo26, run as a process."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brainfeat.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.io.volumes import write_volume
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.preprocessing.known_recipes import recipe_settings
from brainfeat.volume import Volume

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "fomo26"


def run(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, FOLDER / "embed.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,  # the limit of the challenge
    )


@pytest.mark.slow
def test_any_contrast_gives_one_finite_vector_of_one_length(small_brain, tmp_path):
    shapes = set()
    inverted = small_brain.data.max() - small_brain.data
    inverted[small_brain.data == 0] = 0
    for number, data in enumerate((small_brain.data, 900.0 * inverted)):
        image = tmp_path / f"x{number}.nii.gz"
        write_volume(Volume(data.astype(np.float32), small_brain.geometry), image)
        result = run(tmp_path, "--input", image.name, "--output", f"y{number}.npy")
        assert result.returncode == 0, result.stderr
        vector = np.load(tmp_path / f"y{number}.npy")
        assert vector.dtype.kind == "f"
        assert np.isfinite(vector).all()
        shapes.add(vector.shape)
    assert len(shapes) == 1
    assert len(shapes.pop()) == 1


@pytest.mark.slow
def test_encoders_with_a_recipe_of_their_authors_are_taken(
    small_brain, tmp_path, monkeypatch
):
    encoder = VolumeConfig(
        modalities=("T1w", "FLAIR"),
        embed_dim=64,
        depth=1,
        num_heads=1,
        patch_size=(16, 16, 16),
        volume_size=(112, 112, 112),
        has_cls_token=True,
        feature="cls",
    )
    config = CheckpointConfig(
        encoder=encoder,
        preprocessing=recipe_settings("3dino"),
        pooling="default",
        missing_modalities=True,
        trained=False,
    )
    folder = Checkpoint.untrained(config).save(tmp_path / "encoder")
    monkeypatch.setenv("BRAINFEAT_CHECKPOINT", str(folder))
    write_volume(small_brain, tmp_path / "x.nii.gz")
    result = run(tmp_path, "--input", "x.nii.gz", "--output", "y.npy")
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "y.npy").shape == (64,)


@pytest.mark.slow
def test_unusable_image_is_one_line(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"no image")
    result = run(tmp_path, "--input", "x.nii.gz", "--output", "y.npy")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: x.nii.gz: ")
    assert not (tmp_path / "y.npy").exists()


def test_container_copies_files_that_exist():
    text = (FOLDER / "brainfeat.def").read_text()
    files = re.search(r"%files\n(.*?)\n%", text, re.DOTALL)[1]
    sources = [line.split()[0] for line in files.splitlines() if line.strip()]
    assert len(sources) == 5
    assert all((ROOT / source).exists() for source in sources)
    assert f"python {files.split()[-1]} " in text
