import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from brainfeat.cli import app as cli
from brainfeat.tables.embedding_table import read_embeddings


@pytest.fixture
def demo(monkeypatch, small_scans, small_checkpoint):
    """Run the demo on a cohort and an encoder that are quick."""

    def simulate(folder, n_subjects, **_options):
        shutil.copytree(small_scans, folder, dirs_exist_ok=True)
        names = sorted(path.name for path in folder.glob("sub-*"))[:n_subjects]
        lines = [
            {"participant_id": name, "age": 60.5 + i % 5, "diagnosis": i % 2}
            for i, name in enumerate(names)
        ]
        path = folder / "participants.tsv"
        pd.DataFrame(lines).to_csv(path, sep="\t", index=False)

    monkeypatch.setattr("brainfeat.cli.demo._CHECKPOINT", small_checkpoint)
    monkeypatch.setattr("brainfeat.simulation.cohort.simulate_cohort", simulate)
    return lambda output: CliRunner().invoke(cli.app, ["demo", str(output)])


def test_demo_prints_the_score_and_writes_table_and_report(demo, tmp_path):
    output = tmp_path / "out"
    for _ in range(2):  # a rerun replaces table and report
        result = demo(output)
        assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("simulating 32 subjects")
    assert "[12/12] sub-" in result.stderr
    assert "linear probe of the disease, 12 subjects" in result.stdout
    assert "AUC 0." in result.stdout
    assert "simulated" in result.stdout
    table, page = output / "embeddings.parquet", output / "report.html"
    for path in (table, page, output / "cohort"):
        assert f" {path}\n" in result.stdout
    assert len(read_embeddings(table)[0]) == 12
    assert "<figcaption>Calibration" in page.read_text()


@pytest.mark.parametrize("name", ["embeddings.parquet", "report.html"])
def test_demo_does_not_replace_files_of_others(demo, tmp_path, name):
    path = tmp_path / name
    path.write_text("of a study")
    result = demo(tmp_path)
    assert result.exit_code == 2
    assert f"{path}: exists, but not the cohort" in result.stderr
    assert path.read_text() == "of a study"
    assert list(tmp_path.iterdir()) == [path]


def test_demo_fails_if_a_subject_fails(demo, tmp_path):
    bad = tmp_path / "cohort" / "sub-99" / "anat" / "sub-99_T1w.nii.gz"
    bad.parent.mkdir(parents=True)
    bad.write_text("no image")
    result = demo(tmp_path)
    assert result.exit_code == 2
    assert "failures.tsv: 1 of 13 subjects failed" in result.stderr


@pytest.mark.parametrize("name", ["cohort", "report.html", "embeddings.parquet"])
def test_demo_checks_each_output_first(tmp_path, name):
    output = tmp_path / "demo"
    (output / "cohort").mkdir(parents=True)
    if name == "cohort":
        output = tmp_path / "file"
        output.touch()
    else:
        (output / name).mkdir()
    result = CliRunner().invoke(cli.app, ["demo", str(output)])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {output / name}: cannot be read or written (")
