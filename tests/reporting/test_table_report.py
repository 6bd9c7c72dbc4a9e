import numpy as np
import pandas as pd
import pytest

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import InputError, TableError
from brainfeat.reporting.table_report import report_on_table
from brainfeat.subjects.subject import Subject
from brainfeat.tables.embedding_table import EmbeddingTable


def _write(path, rows, rng):
    """Write a table by the bundled encoder."""
    checkpoint = Checkpoint.load("brainfound-tiny")
    provenance = {
        "brainfeat_version": "0.1.0",
        "checkpoint": "brainfound-tiny",
        "checkpoint_sha256": checkpoint.fingerprint,
        "preprocessing_sha256": "0" * 64,
        "preprocessing": checkpoint.config.preprocessing,
        "pooling": "mean",
        "modalities": ["T1w"],
        "n_features": 12,
        "precision": "bfloat16, float32",
    }
    with EmbeddingTable(path, provenance) as writer:
        for number, row in enumerate(rows):
            vector = rng.normal(size=12) + 3.0 * (number % 2) * (np.arange(12) == 0)
            writer.append(row, f"{number:064d}", vector.astype(np.float32))
        writer.finish(rows)
    return path


@pytest.fixture
def table(tmp_path, rng):
    """A table of 20 scans that do not exist."""
    rows = [
        Subject(participant_id=f"sub-{i}", images={"T1w": f"/gone/sub-{i}_T1w.nii.gz"})
        for i in range(20)
    ]
    return _write(tmp_path / "embeddings.csv", rows, rng)


@pytest.fixture
def participants(tmp_path):
    path = tmp_path / "participants.tsv"
    frame = pd.DataFrame(
        {
            "participant_id": [f"sub-{i}" for i in range(20)],
            "group": ["patient" if i % 2 else "control" for i in range(20)],
            "handedness": ["left"] * 10 + ["right"] * 10,
        }
    )
    frame.to_csv(path, sep="\t", index=False)
    return path


def test_page_is_written_without_the_scans(table, participants):
    report = report_on_table(table, labels=participants)
    assert report.path == table.with_suffix(".html")
    assert len(report.failures) == 20
    page = report.path.read_text()
    assert "group: <b>patient</b> against <b>control</b>" in page
    assert "/gone/sub-3_T1w.nii.gz" in page
    # Precision may look like a difference of sites: it is shown at the top, too.
    assert page.count("bfloat16, float32") == 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_runs_of_a_session_have_different_names(tmp_path, rng, suffix):
    visits = [("ses-1", "1"), ("ses-1", "2"), ("ses-2", None), (None, None)]
    rows = [
        Subject(
            participant_id=f"sub-{participant}",
            session_id=session,
            images={"T1w": f"/gone/{participant}_{session}_{run}_T1w.nii.gz"},
            metadata={"run": run},
        )
        for participant in "abc"
        for session, run in visits
    ]
    report = report_on_table(_write(tmp_path / f"table{suffix}", rows, rng))
    page = report.path.read_text()
    for name in ("sub-b ses-1 run-1", "sub-b ses-1 run-2", "sub-b ses-2", "sub-b"):
        assert f"<title>{name}</title>" in page


def test_label_column_and_output_may_be_named(table, participants, tmp_path):
    lines = pd.read_csv(participants, sep="\t")
    participants = tmp_path / "PARTICIPANTS.CSV"
    lines.to_csv(participants, index=False)
    output = tmp_path / "other" / "page.html"
    report_on_table(table, output, labels=participants, label_column="handedness")
    assert "handedness: <b>right</b> against <b>left</b>" in output.read_text()


def test_page_does_not_replace_the_table(table):
    before = table.read_bytes()
    with pytest.raises(InputError, match="expected a name that ends in"):
        report_on_table(table, output=table)
    assert table.read_bytes() == before


def test_page_of_another_program_is_not_replaced_unless_it_is_named(table):
    page = table.with_suffix(".html")
    page.write_text("<html>a notebook's</html>")
    with pytest.raises(InputError, match=r"html: exists and is not ours"):
        report_on_table(table)
    assert page.read_text() == "<html>a notebook's</html>"
    report_on_table(table, page)
    assert report_on_table(table).path == page


def test_without_its_encoder_the_page_has_no_images(table):
    sidecar = table.with_suffix(".json")
    text = sidecar.read_text()
    sidecar.write_text(text.replace('"brainfound-tiny"', '"/gone/encoder"'))
    page = report_on_table(table).path.read_text()
    assert "Images are not shown: unknown checkpoint" in page
    sidecar.unlink()
    page = report_on_table(table).path.read_text()
    assert "the table does not name the encoder that made it" in page


def test_wrong_files_are_usage_errors(table, tmp_path):
    with pytest.raises(TableError, match=r"none\.csv: no such file"):
        report_on_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"none\.tsv: cannot be read \(No such file"):
        report_on_table(table, labels=tmp_path / "none.tsv")
