"""``brainfeat segment`` as a user types it."""

import csv
import json
import resource
import shutil
from contextlib import contextmanager
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brainfeat import Checkpoint, SegmentationEstimator
from brainfeat.cli import app as cli
from brainfeat.io.volumes import read_labels, read_volume, write_volume
from brainfeat.volume import Volume

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory, small_brain, small_cohort):
    """A BIDS folder of three brains, their label maps and a checkpoint."""
    root = tmp_path_factory.mktemp("data")
    for index in range(3):
        brain = np.roll(small_brain.data, index, axis=0).astype(np.float32)
        scan = root / f"bids/sub-{index}/anat/sub-{index}_T1w.nii.gz"
        write_volume(Volume(brain, small_brain.geometry), scan)
        labels = np.where(brain > 0, 12, 0)
        labels[:, 40:] *= 2
        volume = Volume(labels.astype(np.uint8), small_brain.geometry)
        write_volume(volume, root / f"truth/sub-{index}_dseg.nii.gz")
    (root / "truth/dseg.tsv").write_text("index\tname\n12\tback\n99\tother\n")
    small_cohort.write_checkpoint(root / "checkpoint", spacing=6.0)
    return root


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, ("segment", *arguments))])


def write_manifest(data, name, rows):
    path = data / name
    lines = ["T1w,label", *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def model(data):
    rows = [
        (f"bids/sub-{i}/anat/sub-{i}_T1w.nii.gz", f"truth/sub-{i}_dseg.nii.gz")
        for i in range(2)
    ]
    manifest = write_manifest(data, "train.csv", rows)
    folder = data / "model"
    result = invoke(
        *("fit", manifest, "-o", folder, "--steps", 10),
        *("--checkpoint", data / "checkpoint", "--device", "cpu", "--folds", 2),
    )
    assert result.exit_code == 0, result.output
    assert "of people that were held out (back 0." in result.output
    assert "maps:    in the brain, on the grid of T1w" in result.output
    assert "classes: 0 background, 12 back, 24 class_24" in result.output
    return folder


def test_untrained_weights_are_reported_once(data, tmp_path):
    shutil.copytree(data / "checkpoint", tmp_path / "random")
    row = ("bids/sub-0/anat/sub-0_T1w.nii.gz", "truth/sub-0_dseg.nii.gz")
    result = invoke(
        *("fit", write_manifest(data, "one.csv", [row]), "-o", tmp_path / "model"),
        *("--checkpoint", tmp_path / "random", "--device", "cpu", "--steps", 1),
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("random is not trained") == 1


def rows_of(path):
    with path.open(newline="") as file:
        return [*csv.reader(file, delimiter="\t")]


def test_model_has_the_names_of_its_classes(model):
    assert rows_of(model / "dseg.tsv") == [
        ["index", "name"],
        ["0", "background"],
        ["12", "back"],
        ["24", "class_24"],
    ]


def test_label_maps_are_a_bids_derivative(data, model, tmp_path):
    result = invoke("predict", model, data / "bids", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "3 done, 0 skipped, 0 failed" in result.output
    for index in range(3):
        path = tmp_path / f"sub-{index}/anat/sub-{index}_dseg.nii.gz"
        source = nib.load(data / f"bids/sub-{index}/anat/sub-{index}_T1w.nii.gz")
        image = nib.load(path)
        assert image.shape == source.shape
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, source.affine)
    assert rows_of(tmp_path / "dseg.tsv") == rows_of(model / "dseg.tsv")
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    (image,) = SegmentationEstimator.load(model).predict([source.get_filename()])
    np.testing.assert_array_equal(read_labels(path).data, image.dataobj)


def test_volumes_and_report_are_of_all_scans(data, model, tmp_path):
    scans = [data / f"bids/sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in range(3)]
    options = ("-o", tmp_path / "out", "--uncertainty")
    for part in (scans[:2], scans[1:]):
        result = invoke("predict", model, *part, *options)
        assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out/volumes.csv")
    assert table["participant_id"].tolist() == ["sub-0", "sub-1", "sub-2"]
    assert table["qc_brain_ml"].notna().all()
    for row in table.to_dict("records"):
        image = nib.load(tmp_path / "out" / row["label_map"])
        ml = np.prod(image.header.get_zooms()) / 1000
        count = (np.asarray(image.dataobj) == 12).sum()
        assert row["back_ml"] == pytest.approx(ml * count, rel=1e-4)
        assert row["back_count"] >= (count > 0)
        path = row["label_map"].replace("_dseg", "_uncertainty")
        assert nib.load(tmp_path / "out" / path).shape == image.shape
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<figure") == 3
    assert "class_24" in page
    uncertain = table.set_index("participant_id")["mean_uncertainty"]
    order = uncertain.sort_values(ascending=False, na_position="last").index
    places = [page.index(f"<figcaption>{name}:") for name in order]
    assert places == sorted(places)


def test_masks_of_a_manifest_are_named_by_their_columns(data, tmp_path):
    rows = ["participant_id,T1w,age,lesion,edema"]
    for index in range(2):
        truth = read_labels(data / f"truth/sub-{index}_dseg.nii.gz")
        for name, label in (("lesion", 12), ("edema", 24)):
            mask = Volume((truth.data == label).astype(np.uint8) * 255, truth.geometry)
            write_volume(mask, tmp_path / f"{index}_{name}.nii.gz")
        scan = data / f"bids/sub-{index}/anat/sub-{index}_T1w.nii.gz"
        rows.append(f"sub-{index},{scan},71,{index}_lesion.nii.gz,{index}_edema.nii.gz")
    (tmp_path / "masks.csv").write_text("\n".join(rows))
    result = invoke(
        *("fit", tmp_path / "masks.csv", "-o", tmp_path / "model", "--steps", 1),
        *("--checkpoint", data / "checkpoint", "--names", "2=swelling"),
        *("--folds", 0, "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    assert "classes: 0 background, 1 lesion, 2 swelling" in result.output
    assert "dice:    unknown" in result.output


def test_same_command_again_resumes(data, model, tmp_path):
    first = invoke("predict", model, data / "bids", "-o", tmp_path)
    assert first.exit_code == 0
    changed = tmp_path / "sub-1/anat/sub-1_dseg.nii.gz"
    kept = tmp_path / "sub-2/anat/sub-2_dseg.nii.gz"
    before = kept.stat().st_mtime_ns
    changed.unlink()
    again = invoke("predict", model, data / "bids", "-o", tmp_path)
    assert "1 done, 2 skipped, 0 failed" in again.output
    assert changed.exists()
    assert kept.stat().st_mtime_ns == before


def test_images_that_were_moved_are_not_segmented_again(data, model, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(data / "bids", before)
    invoke("predict", model, before, "-o", tmp_path / "out")
    before.rename(after)
    again = invoke("predict", model, after, "-o", tmp_path / "out")
    assert "0 done, 3 skipped, 0 failed" in again.output
    sidecar = tmp_path / "out/sub-1/anat/sub-1_dseg.json"
    sources = json.loads(sidecar.read_text())["Sources"]
    assert sources == [str(after / "sub-1/anat/sub-1_T1w.nii.gz")]


def test_scans_of_one_name_do_not_replace_each_other(data, model, tmp_path):
    """As in a loop over folders, with one run for each."""
    for index in range(2):
        scan = tmp_path / f"00{index}/T1.nii.gz"
        scan.parent.mkdir()
        shutil.copy(data / f"bids/sub-{index}/anat/sub-{index}_T1w.nii.gz", scan)
    first, second = (tmp_path / f"00{index}/T1.nii.gz" for index in range(2))
    out = tmp_path / "out"
    assert "1 done" in invoke("predict", model, first, "-o", out).output
    before = (out / "T1_dseg.nii.gz").read_bytes()
    result = invoke("predict", model, second, "-o", out)
    assert "0 done, 0 skipped, 1 failed" in result.output
    reason = f"exists and is the label map of {first}; choose another"
    assert reason in (out / "failures.tsv").read_text()
    assert (out / "T1_dseg.nii.gz").read_bytes() == before
    # A corrected scan has another content at the same path.
    shutil.copy(second, first)
    assert "1 done" in invoke("predict", model, first, "-o", out).output
    assert (out / "T1_dseg.nii.gz").read_bytes() != before


def test_participants_of_a_manifest_are_held_out_with_all_their_scans(data, tmp_path):
    """Ten are enough to hold one out; nine with a second visit are not."""
    lines = []
    for index in range(10):
        scan = tmp_path / f"scan{index}.nii.gz"
        scan.symlink_to(data / f"bids/sub-{index % 3}/anat/sub-{index % 3}_T1w.nii.gz")
        lines.append(f"p{index},{scan},{data}/truth/sub-{index % 3}_dseg.nii.gz")
    options = ("--steps", 1, "--checkpoint", data / "checkpoint", "--device", "cpu")
    options += ("--folds", 0)
    for name, first, n_scores in (("ten", "p0", 1), ("nine", "p1", 0)):
        manifest = tmp_path / f"{name}.csv"
        rows = ["participant_id,T1w,label", lines[0].replace("p0", first), *lines[1:]]
        manifest.write_text("\n".join(rows))
        result = invoke("fit", manifest, "-o", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        content = json.loads((tmp_path / name / "segmentation.json").read_text())
        assert len(content["validation_scores"]) == n_scores


@pytest.mark.filterwarnings("ignore:.* is not trained")
def test_scan_with_a_changed_brain_mask_is_segmented_again(data, tmp_path):
    checkpoint = Checkpoint.load(data / "checkpoint")
    mask = str(tmp_path / "{stem}_mask.nii.gz")
    settings = {**checkpoint.config.preprocessing, "brain_mask": mask}
    config = replace(checkpoint.config, preprocessing=settings)
    Checkpoint(config, checkpoint.state).save(tmp_path / "masked")
    scans = [data / f"bids/sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in range(2)]
    rows = [(str(s), f"{data}/truth/sub-{i}_dseg.nii.gz") for i, s in enumerate(scans)]
    manifest = write_manifest(data, "masked.csv", rows)

    def write_mask(scan, first):
        volume = read_volume(scan)
        inside = volume.data > 0
        inside[:first] = False
        name = scan.name.replace(".nii.gz", "_mask.nii.gz")
        write_volume(Volume(inside, volume.geometry), tmp_path / name)

    for scan in scans:
        write_mask(scan, 0)
    options = ("--steps", 1, "--checkpoint", tmp_path / "masked", "--device", "cpu")
    options += ("--folds", 0)
    fitted = invoke("fit", manifest, "-o", tmp_path / "model", *options)
    assert fitted.exit_code == 0, fitted.output
    predict = ("predict", tmp_path / "model", *scans, "-o", tmp_path / "out")
    assert "2 done, 0 skipped" in invoke(*predict).output
    assert "0 done, 2 skipped" in invoke(*predict).output
    write_mask(scans[1], 30)
    assert "1 done, 1 skipped" in invoke(*predict).output


def test_bad_scan_is_listed_and_others_are_segmented(data, model, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    good = data / "bids/sub-0/anat/sub-0_T1w.nii.gz"
    (scans / "a.nii.gz").write_bytes(good.read_bytes()[:2000])
    (scans / "b.nii.gz").write_bytes(good.read_bytes())
    output = tmp_path / "out"
    result = invoke("predict", model, scans, "-o", output)
    assert result.exit_code == 1, result.output
    assert (output / "b_dseg.nii.gz").exists()
    header, row = rows_of(output / "failures.tsv")
    assert header == ["participant_id", "file", "reason"]
    assert row[1] == str(scans / "a.nii.gz")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("bids/sub-0/anat/sub-0_T1w.nii.gz", "")], "column 'label'"),
        ([("bids/sub-0/anat/sub-0_T1w.nii.gz", "no.nii.gz")], "no.nii.gz: no such"),
        ([("bids/sub-0/anat/sub-0_T1w.nii.gz", ".")], "got a folder"),
        ([("", "truth/sub-0_dseg.nii.gz")], "line 2: no image"),
        (
            [("bids/sub-0/anat/sub-0_T1w.nii.gz", "truth/sub-0_dseg.nii.gz")] * 2,
            "sub-0_T1w.nii.gz again",
        ),
    ],
)
def test_manifest_that_cannot_be_trained_on_is_refused(data, tmp_path, rows, message):
    manifest = write_manifest(data, "bad.csv", rows)
    result = invoke(
        *("fit", manifest, "-o", tmp_path / "model"),
        *("--checkpoint", data / "checkpoint"),
    )
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "model").exists()


def test_manifest_without_the_column_of_label_maps_is_refused(data, tmp_path):
    manifest = write_manifest(data, "other.csv", [("a.nii", "b.nii")])
    (data / "a.nii").symlink_to(data / "bids/sub-0/anat/sub-0_T1w.nii.gz")
    manifest.write_text(manifest.read_text().replace("label", "age,dseg"))
    result = invoke("fit", manifest, "-o", tmp_path / "model")
    assert result.exit_code == 2
    assert "expected a column named label, got age, dseg." in result.output


def test_image_is_not_its_own_label_map(data, tmp_path, monkeypatch):
    scan = "bids/sub-0/anat/sub-0_T1w.nii.gz"
    write_manifest(data, "own.csv", [(scan, scan)])
    monkeypatch.chdir(data)  # images of a manifest become absolute
    result = invoke("fit", "own.csv", "-o", tmp_path / "model")
    assert result.exit_code == 2
    assert f"{scan}: expected a label map, got the image itself" in result.output


def test_model_is_not_overwritten(data, model):
    result = invoke("fit", data / "train.csv", "-o", model)
    assert result.exit_code == 2
    assert "is not an empty folder" in result.output


def test_folder_that_cannot_be_written_is_refused_before_training(data, tmp_path):
    rows = [("bids/sub-0/anat/sub-0_T1w.nii.gz", "truth/sub-0_dseg.nii.gz")]
    manifest = write_manifest(data, "one.csv", rows)
    (tmp_path / "file").touch()
    result = invoke(
        *("fit", manifest, "-o", tmp_path / "file/model", "--steps", 1),
        *("--checkpoint", data / "checkpoint", "--device", "cpu"),
    )
    assert result.exit_code == 2
    assert "file/model: cannot be written (Not a directory)" in result.output
    assert "loss" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_of_other_datasets_and_models_are_refused(data, model, tmp_path):
    description = tmp_path / "dataset_description.json"
    description.write_text('{"Name": "Raw", "BIDSVersion": "1.10.0"}')
    for folder, message in ((tmp_path, "another dataset"), (model, "holds a model")):
        result = invoke("predict", model, data / "bids", "-o", folder)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
    assert "Raw" in description.read_text()
    assert not (model / "dataset_description.json").exists()


def test_foreign_label_maps_are_not_overwritten(data, model, tmp_path):
    foreign = tmp_path / "sub-0/anat/sub-0_dseg.nii.gz"
    sidecar = tmp_path / "sub-1/anat/sub-1_dseg.json"
    for path in (foreign, sidecar):
        path.parent.mkdir(parents=True)
        path.write_text('{"Manual": true}')
    for status in ("1 done, 0 skipped", "0 done, 1 skipped"):
        result = invoke("predict", model, data / "bids", "-o", tmp_path)
        assert result.exit_code == 1
        assert f"{status}, 2 failed" in result.output
        reasons = [row[2] for row in rows_of(tmp_path / "failures.tsv")[1:]]
        assert all("exists and is not ours" in reason for reason in reasons)
        for path in (foreign, sidecar):
            assert path.read_text() == '{"Manual": true}'


def test_folder_of_scans_does_not_become_a_dataset(data, model, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    shutil.copy(data / "bids/sub-0/anat/sub-0_T1w.nii.gz", scan)
    result = invoke("predict", model, tmp_path, "-o", f"{tmp_path}/.")
    assert result.exit_code == 2
    assert "is an input, too" in " ".join(result.output.split())
    assert [*tmp_path.iterdir()] == [scan]
    for counts in ("1 done, 0 skipped", "0 done, 1 skipped"):
        assert counts in invoke("predict", model, scan, "-o", tmp_path).output


def test_foreign_table_of_names_is_not_overwritten(data, model, tmp_path):
    (tmp_path / "dseg.tsv").write_text("index\tname\n1\ttheirs\n")
    result = invoke("predict", model, data / "bids", "-o", tmp_path)
    assert result.exit_code == 2
    assert "dseg.tsv: exists and is not ours" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["dseg.tsv"]


@contextmanager
def file_size_limit(n_bytes):
    """Let writing longer files fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_label_map_that_was_cut_off_is_written_again(data, model, tmp_path):
    scan = data / "bids/sub-0/anat/sub-0_T1w.nii.gz"
    target = tmp_path / "sub-0/anat/sub-0_dseg.nii.gz"
    for exists in (False, True):
        if exists:  # from another model
            target.with_name("sub-0_dseg.json").write_text('{"ModelSHA256": "old"}')
        with file_size_limit(500):  # JSON files are shorter
            cut = invoke("predict", model, scan, "-o", tmp_path)
        assert cut.exit_code == 2
        assert "sub-0_dseg.nii.gz: cannot be written (File too large)" in cut.output
        assert target.exists() == exists
        result = invoke("predict", model, scan, "-o", tmp_path)
        assert "1 done, 0 skipped, 0 failed" in result.output


def test_full_disk_ends_the_run(data, model, tmp_path):
    """No other label map could be written, and the scans are not at fault."""
    with file_size_limit(500):
        result = invoke("predict", model, data / "bids", "-o", tmp_path)
    assert result.exit_code == 2
    last = result.output.splitlines()[-1]
    assert last.endswith("(File too large); the same command resumes.")
    assert not (tmp_path / "failures.tsv").exists()


def test_folder_without_model_is_a_usage_error(data, tmp_path):
    result = invoke("predict", tmp_path, data / "bids", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "segmentation.json" in result.output


def test_damaged_image_does_not_reserve_a_file_name(data, model, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"damaged")
    for index, name in enumerate(("good", "other")):
        scan = data / f"bids/sub-{index}/anat/sub-{index}_T1w.nii.gz"
        (tmp_path / f"{name}.nii.gz").symlink_to(scan)
    manifest = tmp_path / "scans.csv"
    rows = [f"P1,{tmp_path}/{name}.nii.gz" for name in ("bad", "good", "other")]
    manifest.write_text("\n".join(["participant_id,T1w", *rows]))
    result = invoke("predict", model, manifest, "-o", tmp_path / "out")
    assert "1 done, 0 skipped, 2 failed" in result.output
    assert (tmp_path / "out/P1_dseg.nii.gz").exists()
    reasons = (tmp_path / "out/failures.tsv").read_text()
    assert f"P1_dseg.nii.gz is the label map of {tmp_path}/good.nii.gz in" in reasons
