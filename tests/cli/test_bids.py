import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from brainfeat import read_embeddings
from brainfeat.cli import app as cli


@pytest.fixture
def dataset(small_scans, tmp_path):
    """BIDS folder of four subjects, one of them with two images that fit."""
    folder = tmp_path / "raw"
    for index in range(3):
        name = f"sub-0000{index}"
        shutil.copytree(small_scans / name, folder / name)
    anat = folder / "sub-9" / "ses-1" / "anat"
    anat.mkdir(parents=True)
    source = small_scans / "sub-00004" / "anat" / "sub-00004_T1w.nii.gz"
    for kind in ("a", "b"):
        shutil.copy(source, anat / f"sub-9_ses-1_acq-{kind}_T1w.nii.gz")
    (folder / "sub-loop").symlink_to("sub-loop")
    return folder


@pytest.fixture
def run(dataset, small_checkpoint, tmp_path):
    def run(level, *options):
        arguments = ["bids", dataset, tmp_path / "out", level, *options]
        if level == "participant":
            arguments += ["--checkpoint", small_checkpoint]
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    return run


def test_a_dataset_becomes_derivatives_and_a_group_table(run, dataset, tmp_path):
    before = sorted(path.name for path in dataset.rglob("*"))
    result = run("participant")
    assert result.exit_code == 1
    assert "3 done, 0 skipped, 1 failed" in result.stdout
    assert "--bids-filter-file" in result.stderr
    failures = tmp_path / "out" / "participant.failures.tsv"
    assert failures.read_text().splitlines()[1].startswith("sub-9\t")
    result = run("participant", "--participant-label", "00000")
    assert result.exit_code == 0
    assert f"folder:   {tmp_path / 'out'}\nfailures: {failures}" in result.stdout
    assert "sub-00000: embedded already" in result.stderr
    listed = failures.read_text()
    assert run("participant").exit_code == 1
    assert failures.read_text() == listed
    filters = tmp_path / "filters.json"
    filters.write_text('{"T1w": {"acquisition": [null, "b"]}}')
    result = run("participant", "--bids-filter-file", filters)
    assert result.exit_code == 0
    assert "1 done, 3 skipped, 0 failed" in result.stdout
    assert not failures.exists()
    assert sorted(path.name for path in dataset.rglob("*")) == before
    result = run("group")
    assert result.exit_code == 0
    path = tmp_path / "out" / "group_desc-brainfound_embedding.parquet"
    assert result.stdout == f"4 rows\ntable:    {path}\n"
    metadata, embeddings, _ = read_embeddings(path)
    assert embeddings.shape == (4, 24)
    assert metadata["image"].tolist()[3].endswith("acq-b_T1w.nii.gz")


def test_group_level_needs_no_encoder(run, dataset, tmp_path):
    shutil.rmtree(dataset / "sub-9")
    assert run("participant").exit_code == 0
    code = "import sys; from brainfeat.cli.app import app; app(sys.argv[1:], "
    code += "standalone_mode=False); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "bids", dataset, tmp_path / "out", "group"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("3 rows\n")
    assert result.stdout.endswith("\nFalse\n")


def test_a_second_run_replaces_the_file_without_run(run, dataset, tmp_path):
    shutil.rmtree(dataset / "sub-9")
    assert run("participant").exit_code == 0
    first = dataset / "sub-00001/anat/sub-00001_T1w.nii.gz"
    second = dataset / "sub-00000/anat/sub-00000_T1w.nii.gz"
    shutil.copy(second, first.with_name("sub-00001_run-2_T1w.nii.gz"))
    first.rename(first.with_name("sub-00001_run-1_T1w.nii.gz"))
    result = run("participant")
    assert "2 done, 2 skipped, 0 failed" in result.stdout
    run("group")
    path = tmp_path / "out" / "group_desc-brainfound_embedding.parquet"
    metadata, _, _ = read_embeddings(path)
    subjects = metadata["participant_id"].str[-1].astype(int).tolist()
    assert subjects == [0, 1, 1, 2]
    assert metadata["run"].tolist()[1:3] == [1, 2]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--overwrite",),
        pytest.param(("--device", "cpu,cpu"), marks=pytest.mark.slow),
    ],
)
def test_a_name_too_long_for_derivatives_is_a_failure(run, dataset, options):
    anat = dataset / f"sub-{'x' * 240}" / "anat"
    anat.mkdir(parents=True)
    shutil.copy(
        dataset / "sub-00000/anat/sub-00000_T1w.nii.gz",
        anat / f"{anat.parent.name}_T1w.nii.gz",
    )
    result = run("participant", *options)
    assert result.exit_code == 1
    assert "3 done, 0 skipped, 2 failed" in result.stdout
    assert "File name too long" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--participant-label", "00000", "00002"),
        ("--participant_label", "sub-00000", "--participant-label", "sub-00002"),
        ("--participant-label", "00000", "00002", "--jobs", "2"),
        ("--participant-label=00000", "--participant-label=00002"),
    ],
)
def test_labels_are_parsed_in_both_styles(run, tmp_path, options):
    result = run("participant", *options)
    assert result.exit_code == 0
    done = sorted(path.name for path in (tmp_path / "out").glob("sub-*"))
    assert done == ["sub-00000", "sub-00002"]


def test_labels_may_come_before_the_folders(dataset, small_checkpoint, tmp_path):
    arguments = ["bids", "--session-label", "1", "--participant-label", "9"]
    arguments += [str(dataset), str(tmp_path / "out"), "participant"]
    result = CliRunner().invoke(cli.app, [*arguments, "--checkpoint", small_checkpoint])
    assert result.exit_code == 1
    assert "0 done, 0 skipped, 1 failed" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--participant-label", "77"), "there is no sub-77"),
        (("--session-label", "77"), "got none that were asked for"),
        (("--bids-filter-file", "absent.json"), "absent.json: no such file"),
    ],
)
def test_absent_selection_is_a_usage_error(run, options, message):
    result = run("participant", *options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("raw", "out", "participant", "--participant-label"),
        ("raw", "out", "participant", "--participant_label", "--jobs", "2"),
        ("--session-label", "/data/raw", "out", "participant"),
        ("raw", "out", "--session-label", "participant"),
        ("raw", "out", "participant", "--participant-label", "--session-label", "1"),
    ],
)
def test_an_option_without_labels_is_a_usage_error(options):
    result = CliRunner().invoke(cli.app, ["bids", *options])
    assert result.exit_code == 2
    assert "expected a label" in result.stderr
