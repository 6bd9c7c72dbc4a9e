"""Commands as a user types them: output, messages and exit statuses."""

import errno
import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brainfeat.checkpoint import sharing
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.cli import app as cli
from brainfeat.cli import options
from brainfeat.io.volumes import write_volume
from brainfeat.tables.embedding_table import read_embeddings
from brainfeat.volume import Volume

HEAVY = {"torch", "numpy", "scipy", "pandas", "nibabel", "sklearn", "SimpleITK"}
HEAVY |= {"nilearn", "pyarrow", "joblib", "safetensors", "rich"}


@pytest.fixture(scope="session")
def checkpoint(small_cohort, tmp_path_factory):
    """Folder of a small checkpoint for T1w and FLAIR that needs no alignment."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    return str(small_cohort.write_checkpoint(folder, spacing=6.0))


@pytest.fixture(scope="session")
def scans(tmp_path_factory, small_brain):
    """Folder with four brains of different brightness and position, 3 mm."""
    folder = tmp_path_factory.mktemp("scans")
    for index in range(4):
        data = np.roll(small_brain.data, index, axis=0) * (1 + index)
        volume = Volume(data.astype(np.float32), small_brain.geometry)
        write_volume(volume, folder / f"sub-{index}_T1w.nii.gz")
    return folder


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "table.csv"


@pytest.fixture
def unloaded(monkeypatch):
    """No checkpoint is loaded yet: it warns once per process."""
    monkeypatch.setattr(sharing, "_CHECKPOINTS", sharing._LRUCache())


def _run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def _embed(output, checkpoint, *arguments):
    return _run("embed", *arguments, "-o", output, "--checkpoint", checkpoint)


def _command(*arguments):
    return [sys.executable, "-m", "brainfeat", *map(str, arguments)]


def _names(output):
    return read_embeddings(output)[0]["participant_id"].tolist()


@pytest.mark.usefixtures("unloaded")
def test_embed_prints_progress_and_summary(scans, checkpoint, output):
    result = _embed(output, checkpoint, scans)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert re.fullmatch(
        r"4 subjects: 4 done, 0 skipped, 0 failed in \d+ s \(\d+\.\d\d s a volume\)",
        first,
    )
    assert second == f"table:    {output}"
    lines = result.stderr.splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d "
    assert re.match(f"{time}brainfeat .* on host .*, device cpu, Python", lines[0])
    assert re.match(f"{time}warning: {checkpoint} is not trained", lines[1])
    assert re.fullmatch(f"{time}4 subjects", lines[2])
    assert len(lines) == 7
    assert re.fullmatch(rf"{time}\[4/4\] sub-3: done after \d+\.\d s", lines[6])
    _, embeddings, provenance = read_embeddings(output)
    assert embeddings.shape == (4, 24)
    assert provenance["checkpoint"] == checkpoint
    assert provenance["trained"] is False
    assert provenance["precision"] in {"bfloat16", "float32"}  # the processor decides
    assert provenance["preprocessing"]["spacing"] == 6.0


def test_options_reach_the_encoder(scans, checkpoint, output, tmp_path):
    result = _embed(
        *(output, checkpoint, scans / "sub-1_T1w.nii.gz", "--modality", "FLAIR"),
        *("--pooling", "cls+mean", "--batch-size", 3, "--jobs", -1),
        *("--cache", tmp_path / "cache", "--device", "cpu"),
    )
    assert result.exit_code == 0
    metadata, embeddings, provenance = read_embeddings(output)
    assert embeddings.shape == (1, 48)
    assert metadata["T1w"].isna().all()
    assert metadata["FLAIR"][0] == str(scans / "sub-1_T1w.nii.gz")
    assert provenance["pooling"] == "cls+mean"
    assert any((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_can_be_set(scans, checkpoint, output, tmp_path, dtype):
    options = ("--checkpoint", checkpoint, "--dtype", dtype)
    _run("embed", scans / "sub-1_T1w.nii.gz", "-o", output, *options)
    image = tmp_path / "raw/sub-1/anat/sub-1_T1w.nii.gz"
    image.parent.mkdir(parents=True)
    image.symlink_to(scans / "sub-1_T1w.nii.gz")
    _run("bids", tmp_path / "raw", tmp_path / "derived", "participant", *options)
    (derived,) = (tmp_path / "derived").rglob("*.parquet")
    for table in (output, derived):
        assert read_embeddings(table)[2]["precision"] == dtype


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_anatomy_columns_have_names(scans, checkpoint, tmp_path, ending):
    output = tmp_path / f"anatomy.{ending}"
    halves = [tmp_path / f"anatomy-{n}of2.{ending}" for n in (1, 2)]
    for shard, half in zip(("1/2", "2/2"), halves, strict=True):
        result = _embed(
            half, checkpoint, scans, "--pooling", "anatomy", "--shard", shard
        )
        assert result.exit_code == 0, result.stderr
    assert _run("merge", *halves, "-o", output).exit_code == 0
    read = pd.read_csv if ending == "csv" else pd.read_parquet
    table = read(output)
    assert list(table.columns[-2:]) == ["emb_csf", "emb_ventricle"]
    assert len(table) == 4
    assert read_embeddings(output)[1].shape == (4, 2)


def test_rerun_skips_old_rows_and_appends_new_ones(scans, checkpoint, output):
    _embed(output, checkpoint, scans / "sub-2_T1w.nii.gz")
    result = _embed(output, checkpoint, scans)
    assert "3 done, 1 skipped, 0 failed" in result.stdout
    assert _names(output) == ["sub-2", "sub-0", "sub-1", "sub-3"]
    result = _embed(output, checkpoint, scans)
    assert "0 done, 4 skipped, 0 failed" in result.stdout


def test_table_of_another_pooling_is_not_extended(scans, checkpoint, output):
    path = scans / "sub-2_T1w.nii.gz"
    _embed(output, checkpoint, path)
    result = _embed(output, checkpoint, path, "--pooling", "cls")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {output}: made with")
    result = _embed(output, checkpoint, path, "--pooling", "cls", "--overwrite")
    assert result.exit_code == 0
    assert read_embeddings(output)[2]["pooling"] == "cls"


def _nifti(data, affine=None):
    image = nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1]) if affine is None else affine)
    return image.to_bytes()


def _brain(shape=(20, 24, 18)):
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return (np.clip(1 - (grid**2).sum(0), 0, None) * 100).astype(np.float32)


def _affine_of_zeros():
    content = bytearray(_nifti(_brain()))
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    content[252:256] = b"\0\0\2\0"  # qform_code 0, sform_code 2
    return bytes(content)


BAD_SCANS = {
    "text": lambda: b"this is no image",
    "truncated": lambda: gzip.compress(_nifti(_brain()))[:3000],
    "2D": lambda: gzip.compress(_nifti(_brain()[:, :, 9])),
    "4D": lambda: gzip.compress(_nifti(np.stack([_brain()] * 5, axis=-1))),
    "complex": lambda: gzip.compress(_nifti(_brain().astype(np.complex64))),
    "zero": lambda: gzip.compress(_nifti(_brain() * 0)),
    "nan": lambda: gzip.compress(_nifti(_brain() * np.nan)),
    "affine": lambda: gzip.compress(_affine_of_zeros()),
    "empty": lambda: b"",
}


@pytest.fixture(scope="session")
def bad_scans(tmp_path_factory):
    """Folder with one damaged file of each kind."""
    folder = tmp_path_factory.mktemp("bad")
    for name, make in BAD_SCANS.items():
        (folder / f"{name}.nii.gz").write_bytes(make())
    return folder


@pytest.mark.usefixtures("unloaded")
def test_bad_scans_are_one_line_each_and_others_are_embedded(
    scans, bad_scans, checkpoint, output, tmp_path
):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "empty.csv").touch()
    bad = [*sorted(bad_scans.iterdir()), tmp_path / "absent.nii.gz"]
    bad += [tmp_path / "nothing", tmp_path / "empty.csv"]
    result = _embed(
        *(output, checkpoint, scans / "sub-0_T1w.nii.gz"),
        *(*bad, scans / "sub-1_T1w.nii.gz"),
    )
    assert result.exit_code == 1
    assert _names(output) == ["sub-0", "sub-1"]
    lines = result.stderr.splitlines()
    assert len(lines) == 4 + 2 + len(bad)  # header, warnings, count; good and bad
    listed = output.with_name("table.failures.tsv").read_text()
    for path in bad:
        (line,) = [line for line in lines if f"failed: {path}: " in line]
        assert "Error" not in line
        assert str(path) in listed
    assert "Traceback" not in result.stderr + result.stdout
    assert f"2 done, 0 skipped, {len(bad)} failed" in result.stdout


@pytest.mark.parametrize("name", BAD_SCANS)
def test_single_bad_scan_is_one_line(bad_scans, checkpoint, output, name):
    path = bad_scans / f"{name}.nii.gz"
    result = _embed(output, checkpoint, path)
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if str(path) in line]
    assert len(lines) == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.nii.gz"], "absent.nii.gz: no such file."),
        (["*.mgz"], "*.mgz: matches no file."),
        (["nothing"], "nothing: expected images"),
        (["empty.csv"], "empty.csv: the manifest is empty."),
        (["columns.csv"], "columns.csv: expected a column named T1w or FLAIR"),
        (["a.nii", "--modality", "PET"], "unknown modality 'PET'"),
        (["a.nii", "--checkpoint", "absent"], "unknown checkpoint 'absent'"),
        (["a.nii", "--device", "abacus"], "device"),
        (["a.nii", "--batch-size", "many"], "batch_size"),
        (["a.nii", "-o", "out.xlsx"], "out.xlsx: expected a name that ends in"),
    ],
)
def test_usage_error_is_one_line(checkpoint, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("nothing").mkdir()
    Path("empty.csv").touch()
    Path("columns.csv").write_text("participant_id,age\nP1,71\n")
    Path("a.nii").touch()
    result = _run("embed", "-o", "out.csv", "--checkpoint", checkpoint, *arguments)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert not Path("out.csv").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_jobs_respect_the_cpu_affinity():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert options._count_jobs(-1) == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("bad", ["absent.nii", "bad.nii"])
def test_stopping_at_the_first_error_exits_with_1(
    scans, checkpoint, output, tmp_path, bad
):
    (tmp_path / "bad.nii").write_bytes(b"no image")
    result = _embed(
        *(output, checkpoint, tmp_path / bad, scans, "--stop-on-first-error"),
        *("--batch-size", 1),
    )
    assert result.exit_code == 1
    assert result.stderr.count("failed: ") == 1
    listed = output.with_name("table.failures.tsv").read_text()
    assert str(tmp_path / bad) in listed
    n_done = int(
        re.match(r"5 subjects: (\d) done, 0 skipped, 1 failed", result.stdout)[1]
    )
    assert f", 1 failed, {4 - n_done} not begun" in result.stdout
    assert n_done == (len(_names(output)) if output.exists() else 0)
    assert n_done < 4


@pytest.mark.parametrize(
    "arguments",
    ["", "fly", "info a b", "embed a.nii", "embed -o a.csv", "simulate a -n 0"]
    + [
        f"embed a.nii -o a.csv {option}"
        for option in ("--jobs 0", "--pooling max", "--memory-limit inf")
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    assert _run(*arguments.split()).exit_code == 2


def test_manifest_may_have_gaps_and_own_columns(scans, checkpoint, output):
    manifest = output.parent.parent / "manifest.tsv"
    lines = ["participant_id\tT1w\tFLAIR\tage"]
    lines += [f"P1\t{scans}/sub-0_T1w.nii.gz\t{scans}/sub-1_T1w.nii.gz\t71"]
    lines += [f"P2\tn/a\t{scans}/sub-1_T1w.nii.gz\tn/a", "P3\tabsent.nii\t\t64"]
    manifest.write_text("\n".join(lines))
    result = _embed(output, checkpoint, manifest)
    assert result.exit_code == 1
    assert f"failed: {manifest.parent}/absent.nii: no such file." in result.stderr
    metadata, _, _ = read_embeddings(output)
    assert metadata["participant_id"].tolist() == ["P1", "P2"]
    assert metadata["age"][0] == 71


def test_duplicate_input_is_warned_about(scans, checkpoint, output):
    path = scans / "sub-0_T1w.nii.gz"
    result = _embed(output, checkpoint, path, path)
    assert result.exit_code == 0
    assert f"warning: {path}: given more than once, used once." in result.stderr
    assert _names(output) == ["sub-0"]


@pytest.fixture(scope="session")
def uninterrupted(scans, checkpoint, tmp_path_factory):
    """Folder of seven scans, and the table of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("seven")
    for index in range(7):
        name = f"sub-{index:02d}_T1w.nii.gz"
        shutil.copy(scans / f"sub-{index % 4}_T1w.nii.gz", folder / name)
    output = tmp_path_factory.mktemp("uninterrupted") / "table.csv"
    assert _embed(output, checkpoint, folder).exit_code == 0
    return folder, output


def _signal_midway(number, output, arguments):
    """Send a signal once two rows are kept; return status and messages."""
    rows = output.parent / f".{output.name}.partial" / "rows"
    process = subprocess.Popen(
        _command(*arguments),
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore interrupts, and so do their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120  # a busy machine starts slowly
    while len([*rows.glob("*/[!.]*.npy")]) < 2:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.005)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
    ids=["killed", "interrupted", "terminated"],
)
def test_interrupted_run_resumes_to_the_same_table(
    uninterrupted, checkpoint, output, number, status
):
    folder, whole = uninterrupted
    arguments = ["embed", folder, "-o", output, "--checkpoint", checkpoint]
    returncode, messages = _signal_midway(number, output, arguments)
    assert returncode == status
    assert not output.exists()
    assert "Traceback" not in messages
    if status > 0:
        assert re.search(r"error: interrupted: \d+ of 7 are kept", messages)
    result = _run(*arguments)
    done, skipped = map(int, re.findall(r"(\d+) (?:done|skipped)", result.stdout))
    assert done + skipped == 7
    assert skipped >= 2
    assert output.read_bytes() == whole.read_bytes()
    names = [path.name for path in sorted(output.parent.iterdir())]
    assert names == ["table.csv", "table.csv.previews", "table.json"]


@pytest.mark.slow
def test_run_with_closed_standard_error_works(scans, checkpoint, output):
    command = [sys.executable, "-m", "brainfeat", "embed", scans / "sub-0_T1w.nii.gz"]
    closed = ["bash", "-c", '"$@" 2>&-', "-"]
    subprocess.run(
        [*closed, *command, "-o", output, "--checkpoint", checkpoint], check=True
    )
    assert len(read_embeddings(output)[0]) == 1


def test_terminated_run_reports_it(scans, checkpoint, output, monkeypatch):
    def terminate(*_arguments, **_options):
        cli._terminate(signal.SIGTERM, None)

    monkeypatch.setattr("brainfeat.tables.runs.embed_to_table", terminate)
    result = _embed(output, checkpoint, scans)
    assert result.exit_code == 143
    assert result.stderr.splitlines()[-1].startswith("error: interrupted: 0 of 4")


def test_help_lists_all_commands_in_full():
    result = _run("--help")
    assert result.exit_code == 0
    commands = re.findall(r"^  ([a-z]+)  +[A-Z]", result.stdout, re.MULTILINE)
    assert set(commands) == {
        *("embed", "bids", "merge", "report", "segment", "pretrain"),
        *("compare", "convert", "info", "simulate", "demo", "finetune", "predict"),
        "register",
    }
    assert result.stdout.count("...") == 1  # in the usage: no text is cut


def test_help_loads_no_heavy_library():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['brainfeat', 'embed', '--help']\n"
        "try:\n"
        "    runpy.run_module('brainfeat', run_name='__main__')\n"
        "finally:\n"
        f"    sys.exit(sorted({HEAVY} & sys.modules.keys()) or 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert result.returncode == 0, result.stderr
    assert b"--checkpoint" in result.stdout


def test_version_is_printed():
    assert re.fullmatch(r"brainfeat \d+\.\d+\.\S+\n", _run("--version").stdout)


def test_info_describes_without_a_warning(checkpoint):
    result = _run("info", checkpoint)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "not trained: random weights" in result.stdout
    assert "T1w, FLAIR" in result.stdout


def test_convert_does_not_overwrite(checkpoint, tmp_path):
    result = _run("convert", checkpoint, "-o", tmp_path / "copy")
    assert result.exit_code == 0
    assert result.stdout == f"checkpoint: {tmp_path / 'copy'}\n"
    with pytest.warns(UserWarning, match="not trained"):
        copy = Checkpoint.load(tmp_path / "copy")
    with pytest.warns(UserWarning, match="not trained"):
        assert copy.fingerprint == Checkpoint.load(checkpoint).fingerprint
    result = _run("convert", checkpoint, "-o", tmp_path / "copy")
    assert result.exit_code == 2
    assert "not an empty folder" in result.stderr


def test_error_has_no_control_characters(tmp_path):
    (tmp_path / "a\x07b.pth").write_bytes(b"no weights")
    result = _run("info", tmp_path / "a\x07b.pth")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/a?b.pth: ")
    assert line.isprintable()


def test_broken_pipe_is_no_error(monkeypatch):
    def leave(_source):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(Checkpoint, "load", leave)
    assert "error" not in _run("info", "anything").output


def test_full_disk_is_one_line(monkeypatch):
    def fill(_source):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr(Checkpoint, "load", fill)
    result = _run("info", "anything")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize("command", ["simulate", "demo", "report"])
def test_unwritable_output_is_one_line(scans, checkpoint, output, tmp_path, command):
    (tmp_path / "file").touch()
    table = []
    if command == "report":
        _embed(output, checkpoint, scans / "sub-0_T1w.nii.gz")
        table = [output, "-o"]
    result = _run(command, *table, tmp_path / "file" / "out.html")
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path / 'file'}")
    assert re.search(r": cannot be read or written \([A-Z][\w ]+\)\.$", line)


def test_simulate_passes_its_options(monkeypatch, tmp_path):
    def simulate(_output, n_subjects, *, modalities, random_state, disease_kind):
        assert (n_subjects, modalities, random_state) == (7, ("T2w", "FLAIR"), 3)
        assert disease_kind == "lesions"
        return range(n_subjects)

    monkeypatch.setattr("brainfeat.simulation.cohort.simulate_cohort", simulate)
    options = ["-n", 7, "--modality", "T2w", "--modality", "FLAIR", "--seed", 3]
    options += ["--disease", "lesions"]
    result = _run("simulate", tmp_path / "cohort", *options)
    assert result.stdout == f"7 subjects\nfolder:   {tmp_path / 'cohort'}\n"
