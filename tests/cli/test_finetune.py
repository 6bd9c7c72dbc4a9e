"""``brainfeat finetune`` and ``brainfeat predict`` as a user types them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brainfeat import BrainFoundClassifier, BrainFoundRegressor
from brainfeat.cli import app as cli

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore::brainfeat.exceptions.UntrainedCheckpointWarning"
    ),
]
LABELS = ["cn", "ad"] * 5


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def manifest(small_scans, tmp_path_factory):
    """Ten labelled scans, and one without a label."""
    images = sorted(small_scans.rglob("*_T1w.nii.gz"))[:11]
    frame = pd.DataFrame({"T1w": images, "group": [*LABELS, None]})
    frame["age"] = [60.5 + index for index in range(11)]
    path = tmp_path_factory.mktemp("finetune") / "train.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def model(manifest, small_checkpoint):
    folder = manifest.parent / "model"
    result = invoke(
        *("finetune", manifest, "-o", folder, "--label-column", "group"),
        *("--checkpoint", small_checkpoint, "--steps", 2, "--folds", 2),
    )
    assert result.exit_code == 0, result.output
    assert "score:   AUC" in result.stdout
    assert "group of 10 subjects (ad, cn)" in result.stdout
    assert "1 subjects without group" in result.stderr
    return folder


def test_model_is_that_of_the_estimator(model, small_scans):
    estimator = BrainFoundClassifier.load(model)
    assert estimator.classes_.tolist() == ["ad", "cn"]
    assert np.isfinite(estimator.held_out_score_)
    images = sorted(map(str, small_scans.rglob("*_T1w.nii.gz")))[:2]
    assert estimator.predict_proba(images).shape == (2, 2)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_table_has_predictions_and_quality(model, small_scans, tmp_path, suffix):
    output = tmp_path / f"predicted.{suffix}"
    result = invoke("predict", model, small_scans, "-o", output)
    assert result.exit_code == 0, result.output
    assert "12 subjects: 12 done" in result.stdout
    readers = {"parquet": pd.read_parquet}
    read = readers.get(suffix, lambda p: pd.read_csv(p, sep=None, engine="python"))
    table = read(output)
    assert len(table) == 12
    assert {"participant_id", "T1w", "qc_brain_ml", "input_sha256"} <= {*table}
    probabilities = table[["probability_ad", "probability_cn"]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    chosen = np.array(["ad", "cn"])[probabilities.argmax(axis=1)]
    assert table["prediction"].tolist() == chosen.tolist()
    estimator = BrainFoundClassifier.load(model)
    expected = estimator.predict_proba(table["T1w"].tolist())
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert [*tmp_path.glob(".*")] == []


def test_failed_scan_is_listed_and_others_are_predicted(model, small_scans, tmp_path):
    folder = shutil.copytree(small_scans, tmp_path / "bids")
    broken = sorted(folder.rglob("*_T1w.nii.gz"))[3]
    broken.write_bytes(b"nothing")
    output = tmp_path / "out.csv"
    result = invoke("predict", model, folder, "-o", output)
    assert result.exit_code == 1
    assert len(pd.read_csv(output)) == 11
    failures = pd.read_csv(tmp_path / "out.failures.tsv", sep="\t")
    assert broken.name in failures.to_string()


def test_killed_run_resumes(model, small_scans, tmp_path, monkeypatch):
    from brainfeat.tables.prediction_table import PredictionTable

    output, append = tmp_path / "out.csv", PredictionTable.append

    def fail_at_fifth(self, row, result):
        append(self, row, result)
        if len(kept) == 4:
            raise KeyboardInterrupt
        kept.append(row.key)

    kept = []
    monkeypatch.setattr(PredictionTable, "append", fail_at_fifth)
    assert invoke("predict", model, small_scans, "-o", output).exit_code == 130
    monkeypatch.setattr(PredictionTable, "append", append)
    result = invoke("predict", model, small_scans, "-o", output)
    assert "7 done, 5 skipped" in result.stdout
    assert len(pd.read_csv(output)) == 12


def test_foreign_table_is_kept(model, small_scans, tmp_path):
    output = tmp_path / "mine.csv"
    output.write_text("a,b\n1,2\n")
    result = invoke("predict", model, small_scans, "-o", output)
    assert result.exit_code == 2
    assert "is no table of predictions" in result.stderr
    assert output.read_text() == "a,b\n1,2\n"


def test_numbers_are_regressed(small_checkpoint, small_scans, tmp_path):
    labels = tmp_path / "participants.tsv"
    rows = [f"sub-{i:05d}\t{60.5 + i}" for i in range(8)]
    labels.write_text("\n".join(["participant_id\tage", *rows]) + "\n")
    folder = tmp_path / "model"
    result = invoke(
        *("finetune", small_scans, "-o", folder, "--label-column", "age"),
        *("--labels", labels, "--checkpoint", small_checkpoint, "--steps", 0),
        *("--folds", 2),
    )
    assert result.exit_code == 0, result.output
    assert "the probe alone" in result.stdout
    assert BrainFoundRegressor.load(folder).n_steps_ == 0
    output = tmp_path / "out.csv"
    assert invoke("predict", folder, small_scans, "-o", output).exit_code == 0
    assert pd.read_csv(output)["prediction"].between(30, 120).all()


def test_errors_say_what_is_wrong(manifest, model, small_checkpoint, tmp_path):
    lines = manifest.read_text().splitlines()
    missing = tmp_path / "missing.csv"
    missing.write_text("\n".join([*lines, "sub-99_T1w.nii.gz,cn,70"]) + "\n")
    result = invoke(
        *("finetune", missing, "-o", tmp_path / "m", "--label-column", "group"),
        *("--checkpoint", small_checkpoint, "--steps", 0, "--folds", 0),
    )
    assert result.exit_code == 2
    assert "sub-99_T1w.nii.gz: no such file" in result.stderr
    assert not (tmp_path / "m").exists()
    result = invoke(
        *("finetune", manifest, "-o", tmp_path / "m", "--label-column", "diagnosis"),
        *("--checkpoint", small_checkpoint),
    )
    assert result.exit_code == 2
    assert "expected a column 'diagnosis'" in result.stderr
    result = invoke("predict", tmp_path, manifest, "-o", tmp_path / "o.csv")
    assert result.exit_code == 2
    assert "got none with config.json" in result.stderr
    config = json.loads((model / "config.json").read_text())
    copy = shutil.copytree(model, tmp_path / "copy")
    changed = json.dumps(config | {"base_fingerprint": "0" * 64})
    (copy / "config.json").write_text(changed)
    result = invoke("predict", copy, manifest, "-o", tmp_path / "o.csv")
    assert result.exit_code == 2
    assert "expected the weights that were fitted" in result.stderr
