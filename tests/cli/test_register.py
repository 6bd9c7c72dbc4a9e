"""``brainfeat register`` as a user types it."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from brainfeat import Volume, write_volume
from brainfeat.cli import app as cli
from brainfeat.registration.transform import SpatialTransform

pytestmark = pytest.mark.usefixtures("one_thread")


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, ("register", *arguments))])


@pytest.fixture(scope="module")
def scans(tmp_path_factory, small_brain):
    """A fixed scan, two that can be registered to it, and one that cannot."""
    folder = tmp_path_factory.mktemp("scans")
    for index in range(3):
        brain = np.roll(small_brain.data, index, axis=0).astype(np.float32)
        name = folder / f"sub-{index}_T1w.nii.gz"
        write_volume(Volume(brain, small_brain.geometry), name)
    (folder / "sub-9_T1w.nii.gz").write_bytes(b"nothing")
    return folder


def test_one_bad_scan_never_stops_the_others(scans, checkpoint_path, tmp_path):
    moving = [scans / f"sub-{name}_T1w.nii.gz" for name in (9, 1, 2)]
    command = (scans / "sub-0_T1w.nii.gz", *moving, "-o", tmp_path / "out")
    options = ("--affine", "--checkpoint", checkpoint_path, "--device", "cpu")
    result = invoke(*command, *options)
    assert result.exit_code == 1, result.output
    assert "3 subjects: 2 done, 0 skipped, 1 failed" in result.output
    stem = tmp_path / "out" / "sub-1_space-sub0T1w_T1w"
    image = nib.load(f"{stem}.nii.gz")
    assert image.shape == nib.load(command[0]).shape
    there = tmp_path / "out" / "sub-1_from-T1w_to-sub0T1w_mode-image_xfm"
    back = tmp_path / "out" / "sub-1_from-sub0T1w_to-T1w_mode-image_xfm"
    both = [SpatialTransform.load(path).affine for path in (there, back)]
    np.testing.assert_allclose(both[0] @ both[1], np.eye(4), atol=1e-6)
    # It was rolled by one voxel of 3 mm.
    assert both[0][0, 3] == pytest.approx(3.0, abs=1.0)
    with (tmp_path / "out/registrations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["participant_id"] for row in rows] == ["sub-1", "sub-2"]
    assert float(rows[0]["similarity_after"]) > 0
    failures = (tmp_path / "out/failures.tsv").read_text()
    assert "sub-9" in failures
    again = invoke(*command, *options)
    assert "0 done, 2 skipped, 1 failed" in again.output
    sidecar = json.loads(stem.with_suffix(".json").read_text())
    assert sidecar["Settings"]["Deformation"] == "affine"
    # With another deformation, nothing is taken for done.
    (stem.with_suffix(".json")).write_text("{}")
    foreign = invoke(*command, *options)
    assert "is not ours" in foreign.output


def test_wrong_usage_is_refused_before_any_work(scans, checkpoint_path, tmp_path):
    options = ("--checkpoint", checkpoint_path)
    result = invoke("absent_T1w.nii.gz", scans, "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "absent_T1w.nii.gz" in result.output
    result = invoke("template", scans, "-o", scans, *options)
    assert result.exit_code == 2
    assert "is an input, too" in result.output
    assert not (tmp_path / "out").exists()
