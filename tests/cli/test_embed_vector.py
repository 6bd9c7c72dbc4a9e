import numpy as np
import pytest
from typer.testing import CliRunner

from brainfeat import read_embeddings
from brainfeat.cli import app as cli

pytestmark = pytest.mark.filterwarnings("ignore:.* is not trained")


def run(*arguments):
    return CliRunner().invoke(cli.app, ["embed", *map(str, arguments)])


@pytest.fixture
def scans(small_scans):
    return sorted(small_scans.rglob("*_T1w.nii*"))[:2]


def test_vector_of_one_image_is_its_row_of_a_table(scans, small_checkpoint, tmp_path):
    options = ("--checkpoint", small_checkpoint)
    output, table = tmp_path / "y.npy", tmp_path / "t.parquet"
    result = run(scans[0], "-o", output, *options)
    assert result.exit_code == 0, result.stderr
    assert f"vector:   {output}" in result.stdout
    vector = np.load(output)
    assert (vector.dtype, vector.ndim) == (np.float32, 1)
    assert np.isfinite(vector).all()
    assert run(scans[0], "-o", table, *options).exit_code == 0
    np.testing.assert_array_equal(vector, read_embeddings(table)[1][0])
    assert sorted(p.name for p in tmp_path.glob("y*")) == ["y.npy"]

    again = run(scans[1], "-o", output, *options)
    assert again.exit_code == 2
    assert f"{output}: exists; replace it with --overwrite." in again.stderr
    assert run(scans[1], "-o", output, *options, "--overwrite").exit_code == 0
    assert (np.load(output) != vector).any()


def test_several_images_are_a_usage_error(scans, small_checkpoint, tmp_path):
    output = tmp_path / "y.npy"
    result = run(*scans, "-o", output, "--checkpoint", small_checkpoint)
    assert result.exit_code == 2
    assert "expected one image for a .npy file, got 2" in result.stderr
    assert not output.exists()
    sharded = run(scans[0], "-o", output, "--shard", "1/2")
    assert sharded.exit_code == 2
    assert "--shard: expected a table" in sharded.stderr


def test_unusable_image_fails_without_a_vector(small_checkpoint, tmp_path):
    image, output = tmp_path / "sub-1_T1w.nii", tmp_path / "y.npy"
    image.write_bytes(b"no image")
    result = run(image, "-o", output, "--checkpoint", small_checkpoint)
    assert result.exit_code == 1
    assert "failed: " in result.stderr
    assert not output.exists()
