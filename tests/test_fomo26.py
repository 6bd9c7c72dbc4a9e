"""The entry script of the container of examples/fomo26, run as a process."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brainfeat.io.volumes import write_volume
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
