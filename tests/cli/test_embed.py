"""Failures that a run of the command must survive; options are in test_app.py."""

import csv
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from brainfeat import Checkpoint, read_embeddings
from brainfeat.cli import app as cli
from brainfeat.cli.embed import EncoderOptions, _ModalityChoice
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.volumes import read_volume, write_volume
from brainfeat.subjects.failures import crash_path, failures_path
from brainfeat.volume import Geometry, Volume


def test_batch_size_is_auto_or_a_number():
    assert EncoderOptions("brainfound-tiny", "mean", "cpu", "3").spec.batch_size == 3
    with pytest.raises(ConfigError, match="batch_size"):
        EncoderOptions("brainfound-tiny", "mean", "cpu", "many").spec.build()


def test_suffix_of_the_table_is_checked_before_loading_weights(tmp_path):
    arguments = ["embed", "a.nii", "-o", tmp_path / "out.xlsx", "--checkpoint", "none"]
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == 2
    assert "expected a name that ends in" in result.stderr


@pytest.mark.parametrize("text", ["man.csv", "*.csv", "link.csv"])
def test_an_input_is_not_replaced_by_the_table(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "man.csv").write_text("T1w\na.nii\n")
    (tmp_path / "link.csv").symlink_to("man.csv")
    arguments = ["embed", text, "-o", "man.csv"]
    result = CliRunner().invoke(cli.app, [*arguments, "--overwrite"])
    assert result.exit_code == 2
    message = "error: man.csv: is an input, too; choose another output name."
    assert result.stderr.splitlines() == [message]
    assert (tmp_path / "man.csv").read_text() == "T1w\na.nii\n"


@pytest.mark.filterwarnings("ignore:.* is not trained")
@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cpu,cpu", marks=pytest.mark.slow)]
)
def test_a_corrected_brain_mask_is_embedded_again(
    small_scans, small_checkpoint, tmp_path, device
):
    checkpoint = Checkpoint.load(small_checkpoint)
    settings = {
        **checkpoint.config.preprocessing,
        "brain_mask": str(tmp_path / "{stem}_mask.nii.gz"),
    }
    config = replace(checkpoint.config, preprocessing=settings)
    masked = str(Checkpoint.untrained(config).save(tmp_path / "masked"))
    scans = sorted(small_scans.glob("sub-*/anat/*_T1w.nii.gz"))[:2]

    def write_mask(scan, threshold):
        volume = read_volume(scan)
        inside = volume.data > np.quantile(volume.data, threshold)
        name = scan.name.replace(".nii.gz", "_mask.nii.gz")
        write_volume(Volume(inside, volume.geometry), tmp_path / name)

    def embed():
        output = tmp_path / "out" / "table.csv"
        command = ["embed", *map(str, scans), "-o", str(output), "--device", device]
        result = CliRunner().invoke(cli.app, [*command, "--checkpoint", masked])
        assert result.exit_code == 0, result.stderr
        return result.stdout, read_embeddings(output)[1]

    for scan in scans:
        write_mask(scan, 0.5)
    _, first = embed()
    said, again = embed()
    assert said.startswith("2 subjects: 0 done, 2 skipped")
    np.testing.assert_array_equal(again, first)
    write_mask(scans[1], 0.8)
    said, corrected = embed()
    assert said.startswith("2 subjects: 1 done, 1 skipped")
    np.testing.assert_array_equal(corrected[0], first[0])
    assert not np.allclose(corrected[1], first[1])


def _limit_files_to(n_bytes):
    # As on a full disk, a write takes a part, and then fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


@pytest.mark.parametrize("n_bytes", [pytest.param(1000, marks=pytest.mark.slow), 6000])
def test_full_disk_loses_no_finished_row(
    small_scans, small_checkpoint, tmp_path, n_bytes
):
    output = tmp_path / "out" / "table.parquet"
    command = [sys.executable, "-m", "brainfeat", "embed", str(small_scans)]
    command += ["-o", str(output), "--checkpoint", small_checkpoint]
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: _limit_files_to(n_bytes),
    )
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].startswith(f"error: {output.parent}")
    assert "kept" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert not output.exists()
    free = CliRunner().invoke(cli.app, command[3:])
    assert free.exit_code == 0
    n_kept = int(free.stdout.split(" skipped")[0].split()[-1])
    assert n_kept >= 3
    names = sorted(path.name for path in output.parent.iterdir())
    assert names == ["table.json", "table.parquet", "table.parquet.previews"]


def test_unusual_file_names_are_rows_or_failures_of_one_line(
    small_scans, small_checkpoint, tmp_path
):
    source = next(small_scans.rglob("*.nii.gz"))
    folder = tmp_path / "scans"
    (folder / "deep,er").mkdir(parents=True)
    good = ["a,b\tc.nii.gz", 'quo"te.nii.gz', "new\nline.nii.gz", "deep,er/é.nii.gz"]
    for name in good:
        shutil.copy(source, folder / name)
    (folder / "up").symlink_to("..")  # not followed
    shutil.copy(source, os.fsencode(folder) + b"/\xff.nii.gz")
    (folder / "loop.nii.gz").symlink_to("loop.nii.gz")
    (folder / "bad\x1b[2J\n.nii.gz").write_bytes(b"no image")
    os.mkfifo(folder / "pipe.nii.gz")
    output = tmp_path / "table.csv"
    arguments = ["embed", folder, f'{folder}/../scans/quo"te.nii.gz', "-o", output]
    result = CliRunner().invoke(
        cli.app, [*map(str, arguments), "--checkpoint", small_checkpoint]
    )
    assert result.exit_code == 1, result.output
    assert "4 done, 0 skipped, 4 failed" in result.stdout
    assert "given more than once" in result.stderr
    assert all(line.isprintable() for line in result.stderr.splitlines())
    images = read_embeddings(output)[0]["image"]
    assert sorted(images) == sorted(str(folder / name) for name in good)
    with failures_path(output).open(newline="") as file:
        failed = {line[1]: line[2] for line in csv.reader(file, delimiter="\t")}
    assert "a name that is not text" in failed[f"{folder}/\\udcff.nii.gz"]
    assert failed[f"{folder}/loop.nii.gz"] == "no such file."
    assert "a device or a pipe" in failed[f"{folder}/pipe.nii.gz"]
    assert f"{folder}/bad\x1b[2J\n.nii.gz" in failed
    assert "Traceback" in crash_path(failures_path(output)).read_text()


def test_unreadable_input_is_a_failure(
    small_scans, small_checkpoint, tmp_path, bound_by_permissions
):
    source = next(small_scans.rglob("*.nii.gz"))
    scans = [
        *("bids/sub-1/anat/sub-1_T1w.nii.gz", "bids/sub-2/anat/sub-2_T1w.nii.gz"),
        "bids/sub-3/ses-1/anat/sub-3_ses-1_T1w.nii.gz",
        "bids/sub-3/ses-2/anat/sub-3_ses-2_T1w.nii.gz",
        *("scans/a.nii.gz", "scans/shut/b.nii.gz", "c.nii.gz"),
    ]
    for name in scans:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / name)
    long = "x" * 300
    (tmp_path / "bids/sub-4").mkdir()
    for name in ("bids/sub-4/anat", "scans/far.nii.gz"):
        (tmp_path / name).symlink_to(long)
    (tmp_path / "m.csv").write_text(f"T1w\n{long}.nii\n{scans[5]}\n{scans[6]}\n")
    shut = ["bids/sub-1", "bids/sub-3/ses-1/anat", "scans/shut"]
    command = [sys.executable, "-m", "brainfeat", "embed", "bids", "scans", "m.csv"]
    for name in shut:
        (tmp_path / name).chmod(0)
    result = subprocess.run(
        [*command, long, "-o", "table.csv", "--checkpoint", small_checkpoint],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=bound_by_permissions,
    )
    for name in shut:
        (tmp_path / name).chmod(0o700)
    assert result.returncode == 1, result.stderr
    images = read_embeddings(tmp_path / "table.csv")[0]["image"].tolist()
    assert images == [str(tmp_path / scans[index]) for index in (1, 3, 4, 6)]
    with (tmp_path / "table.failures.tsv").open(newline="") as file:
        failed = {line["file"]: line for line in csv.DictReader(file, delimiter="\t")}
    forbidden = ["bids/sub-1/sub-1_sessions.tsv", *shut[1:], scans[5]]
    numbers = dict.fromkeys(forbidden, errno.EACCES)
    too_long = ["bids/sub-4/anat", "scans/far.nii.gz", long, f"{long}.nii"]
    numbers |= dict.fromkeys(too_long, errno.ENAMETOOLONG)
    assert {name: line["reason"] for name, line in failed.items()} == {
        str(tmp_path / name): f"cannot be read ({os.strerror(number)})."
        for name, number in numbers.items()
    }
    participants = {line["participant_id"] for line in failed.values()}
    assert {"sub-1", "sub-3", "sub-4"} <= participants


def test_a_volume_beyond_the_limit_is_refused(small_scans, small_checkpoint, tmp_path):
    output = tmp_path / "table.parquet"
    arguments = ["embed", small_scans, "-o", output, "--checkpoint", small_checkpoint]
    options = ["--memory-limit", "0.001"]
    source = next(small_scans.rglob("*.nii.gz"))
    volume = read_volume(source)
    large = Volume(np.tile(volume.data, (4, 4, 4)), Geometry((72, 80, 64), np.eye(4)))
    arguments.append(write_volume(large, tmp_path / "large.nii.gz"))
    result = CliRunner().invoke(cli.app, [*map(str, arguments), *options])
    assert result.exit_code == 1, result.output
    assert "expected a volume that takes at most 0.001 GB of memory" in result.stderr
    assert read_embeddings(output)[1].shape == (12, 24)


def test_verbose_shows_tracebacks(tmp_path, small_checkpoint):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    arguments = ["embed", bad, "-o", tmp_path / "a.csv", "--checkpoint"]
    arguments.append(small_checkpoint)
    quiet = CliRunner().invoke(cli.app, list(map(str, arguments)))
    loud = CliRunner().invoke(cli.app, [*map(str, arguments), "--verbose"])
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


@pytest.mark.parametrize("command", ["embed", "bids"])
def test_a_table_has_the_absolute_path_of_its_checkpoint(
    command, small_scans, small_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "encoder").symlink_to(small_checkpoint)
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "out" / "participant.tsv"
    arguments = {
        "embed": ["embed", str(small_scans), "-o", str(table)],
        "bids": ["bids", str(small_scans), str(table.parent), "participant"],
    }[command]
    result = CliRunner().invoke(cli.app, [*arguments, "--checkpoint", "encoder"])
    assert result.exit_code == 0
    sidecars = [p for p in table.parent.rglob("*.json") if "sha256" in p.read_text()]
    assert sidecars
    for path in sidecars:
        found = json.loads(path.read_text())
        assert str(tmp_path / "encoder") in json.dumps(found), path


@pytest.mark.slow
def test_several_devices_make_the_same_table(small_scans, small_checkpoint, tmp_path):
    options = ["--checkpoint", small_checkpoint]
    for name, device in (("one", "cpu"), ("two", "cpu,cpu")):
        arguments = ["embed", str(small_scans), "-o", str(tmp_path / f"{name}.parquet")]
        result = CliRunner().invoke(cli.app, [*arguments, *options, "--device", device])
        assert result.exit_code == 0
    one, two = ((tmp_path / f"{n}.parquet").read_bytes() for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("embed", "absent.nii", "-o", "file/out.csv"), "file/out.csv"),
        (("embed", "absent.nii", "-o", "a.csv", "--cache", "file/c"), "file/c"),
        (("bids", "absent", "file/out", "participant"), "file/out"),
        (("bids", "absent", "out", "participant", "-w", "file/w"), "file/w"),
    ],
)
def test_output_that_cannot_be_written_fails_before_the_work(
    tmp_path, monkeypatch, options, named
):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    result = CliRunner().invoke(cli.app, [*options, "--checkpoint", "absent"])
    assert result.exit_code == 2
    message = f"error: {named}: cannot be written (Not a directory)."
    assert result.stderr.splitlines() == [message]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_segmentation_that_cannot_be_written_fails_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "maps"
    result = CliRunner().invoke(
        cli.app, ["segment", "predict", "absent", "a.nii", "-o", str(folder)]
    )
    assert result.exit_code == 2
    message = f"error: {folder}: cannot be written (Not a directory)."
    assert result.stderr.splitlines() == [message]


def test_rows_without_required_modalities_are_failures(
    small_scans, small_checkpoint, tmp_path
):
    names = sorted(path.name for path in small_scans.glob("sub-*"))[:3]
    for name in names:
        shutil.copytree(small_scans / name, tmp_path / "bids" / name)
    (scan,) = (tmp_path / "bids" / names[0]).rglob("*_T1w.nii.gz")
    shutil.copy(scan, str(scan).replace("_T1w", "_FLAIR"))
    output, page = tmp_path / "out.csv", {}
    checkpoint = ["--checkpoint", str(small_checkpoint)]
    for option in (["--require", "T1w,FLAIR"], ["--only", "T1w"], []):
        arguments = ["embed", str(tmp_path / "bids"), "-o", str(output), *option]
        result = CliRunner().invoke(cli.app, [*arguments, "--overwrite", *checkpoint])
        page[" ".join(option)] = result, read_embeddings(output)[0]
        if option[:1] == ["--require"]:
            text = failures_path(output).read_text()
            assert text.count("left out: no FLAIR, --require (has T1w).") == 2
    result, metadata = page["--require T1w,FLAIR"]
    assert result.exit_code == 1
    assert metadata["modalities"].tolist() == ["T1w+FLAIR"]
    assert "2 failed" in result.stdout
    result, metadata = page["--only T1w"]
    assert result.exit_code == 0
    assert metadata["modalities"].tolist() == ["T1w"] * 3
    assert metadata["FLAIR"].isna().all()
    result, metadata = page[""]
    assert metadata["modalities"].tolist() == ["T1w+FLAIR", "T1w", "T1w"]
    expected = "rows differ in their modalities: T1w (2 rows), T1w+FLAIR (1 rows)"
    assert expected in result.stderr


@pytest.mark.parametrize(
    ("value", "t1w"),
    [
        ("*", "sub-01_acq-a_T1w.nii"),
        (None, "sub-01_T1w.nii"),
        ("a", "sub-01_acq-a_T1w.nii"),
        (["a", None], None),
    ],
)
def test_a_filter_file_chooses_images_of_bids_folders(tmp_path, value, t1w):
    anat = tmp_path / "ds/sub-01/anat"
    anat.mkdir(parents=True)
    for suffix in ("T1w", "acq-a_T1w", "FLAIR"):
        (anat / f"sub-01_{suffix}.nii").touch()
    path = tmp_path / "filters.json"
    path.write_text(json.dumps({"t1w": {"acquisition": value}}))
    choice = _ModalityChoice([], [], [], path)
    if t1w is None:
        with pytest.raises(InputError, match="several T1w images fit"):
            choice.collect([str(anat)], ("T1w", "FLAIR"))
        return
    (row,) = choice.collect([str(anat)], ("T1w", "FLAIR")).rows
    assert row.images == {"T1w": f"{anat / t1w}", "FLAIR": f"{anat}/sub-01_FLAIR.nii"}


def test_a_filter_file_without_a_bids_folder_is_an_error(tmp_path):
    image = tmp_path / "scan_T1w.nii"
    image.touch()
    path = tmp_path / "filters.json"
    path.write_text(json.dumps({"t1w": {"acquisition": "a"}}))
    with pytest.raises(InputError, match="expected a BIDS folder to filter"):
        _ModalityChoice([], [], [], path).collect([str(image)], ("T1w", "FLAIR"))


@pytest.mark.filterwarnings("ignore:.* is not trained")
def test_strict_turns_doubts_into_failures(small_brain, small_checkpoint, tmp_path):
    checkpoint = Checkpoint.load(small_checkpoint)
    settings = {**checkpoint.config.preprocessing, "alignment": "rigid"}
    config = replace(checkpoint.config, preprocessing=settings)
    aligned = Checkpoint(config, checkpoint.state).save(tmp_path / "aligned")
    ball = np.hypot(*np.ogrid[-9:9, -9:9])[..., None] + np.ogrid[-9:9] ** 2
    scrap = Volume(ball.astype(np.float32), Geometry(ball.shape, np.eye(4)))
    scans = [
        str(write_volume(volume, tmp_path / "in" / f"{name}_T1w.nii.gz"))
        for name, volume in (("brain", small_brain), ("scrap", scrap))
    ]
    output = tmp_path / "table.csv"

    def embed(*options):
        command = ["embed", *scans, "-o", str(output), "--checkpoint", str(aligned)]
        result = CliRunner().invoke(cli.app, [*command, *options])
        return result, read_embeddings(output)[0]

    result, table = embed()
    assert result.exit_code == 0, result.output
    assert "warning: 1 subject in doubt (column qc_doubt; --strict" in result.stderr
    assert f"{scans[1]}: not aligned" in result.stderr
    assert table["qc_doubt"].str.len().gt(0).tolist() == [False, True]
    assert (table["qc_brain_ml"] > 0).all()
    result, table = embed("--strict")
    assert result.exit_code == 1
    assert table["image"].tolist() == scans[:1]
    (line,) = failures_path(output).read_text().splitlines()[1:]
    assert line.split("\t")[1:] == [
        scans[1],
        "in doubt: not aligned to the template, only centred",
    ]
    assert "warning" not in result.stderr
