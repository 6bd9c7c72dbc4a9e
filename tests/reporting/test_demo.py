import re

import numpy as np
import pandas as pd
import pytest

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.exceptions import InputError, UntrainedCheckpointWarning
from brainfeat.io.volumes import write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.reporting.demo import format_demo, run_demo
from brainfeat.tables.embedding_table import read_embeddings
from brainfeat.volume import Volume


@pytest.fixture
def demo(tmp_path, monkeypatch, small_brain, rng):
    """Call the demo with a small encoder and a cohort that is quick to make."""
    preprocessor = Preprocessor(shape=(32, 40, 24), spacing=6.0, alignment="none")
    encoder = EncoderConfig(
        thickness=2, image_size=(40, 32), embed_dim=24, depth=1, num_heads=3
    )
    config = CheckpointConfig(
        encoder=encoder,
        preprocessing=preprocessor.to_dict(),
        missing_modalities=True,
        trained=False,
    )
    checkpoint = Checkpoint.untrained(config).save(tmp_path / "checkpoint")
    monkeypatch.setattr("brainfeat.reporting.demo._CHECKPOINT", str(checkpoint))

    def simulate(folder, n_subjects, **_options):
        people = []
        for number in range(n_subjects):
            name, ill = f"sub-{number:02d}", number % 2
            noise = rng.normal(size=small_brain.data.shape) * (5 + 20 * ill)
            data = np.where(small_brain.data > 0, small_brain.data + noise, 0)
            volume = Volume(data.astype(np.float32), small_brain.geometry)
            write_volume(volume, folder / name / "anat" / f"{name}_T1w.nii.gz")
            people.append(
                {"participant_id": name, "age": 60.5 + number, "sex": "FM"[ill]}
            )
            people[-1]["diagnosis"] = ill
        pd.DataFrame(people).to_csv(folder / "participants.tsv", sep="\t", index=False)

    monkeypatch.setattr("brainfeat.reporting.demo.simulate_cohort", simulate)
    return run_demo


def test_the_demo_tells_what_it_found_and_where_it_is(demo, tmp_path):
    told = []
    with pytest.warns(UntrainedCheckpointWarning):
        result = demo(tmp_path / "out", n_subjects=12, tell=told.append)
    assert told[0].startswith("simulating 12 subjects")
    embedding, people = result.scores
    assert embedding.n_features == 24
    assert people.mean > 0.9  # sex tells the classes apart in this cohort
    text = format_demo(result)
    assert re.search(r"^embedding +24 +\d\.\d\d +\d\.\d\d$", text, re.MULTILINE)
    for path in (result.table, result.report, result.cohort):
        assert path.exists()
        assert str(path) in text
    assert "simulated" in text
    assert "not trained" in text
    assert max(map(len, text.splitlines())) < 160
    assert len(read_embeddings(result.table)[0]) == 12


def test_the_page_shows_the_cohort_also_when_run_again(demo, tmp_path):
    for _ in range(2):
        with pytest.warns(UntrainedCheckpointWarning):
            result = demo(tmp_path / "out", n_subjects=10)
    assert len(read_embeddings(result.table)[0]) == 10
    page = result.report.read_text()
    assert page.count("data:image/png;base64,") == 6
    assert page.count("<circle") == 5 + 1  # the controls, and the legend's
    assert "sub-00, control, 60 years" in page
    assert "not trained" in page
    assert str(tmp_path) not in page.replace(str(tmp_path / "checkpoint"), "")


@pytest.mark.parametrize("name", ["embeddings.parquet", "report.html"])
def test_what_is_no_demos_is_not_replaced(tmp_path, name):
    path = tmp_path / name
    path.write_text("of a study")
    with pytest.raises(InputError, match=rf"{name}: exists without the cohort"):
        run_demo(tmp_path)
    assert path.read_text() == "of a study"
    assert list(tmp_path.iterdir()) == [path]


def test_a_cohort_that_fails_is_an_error(demo, tmp_path):
    bad = tmp_path / "out" / "cohort" / "sub-99" / "anat" / "sub-99_T1w.nii.gz"
    bad.parent.mkdir(parents=True)
    bad.write_text("no image")
    with (
        pytest.warns(UntrainedCheckpointWarning),
        pytest.raises(InputError, match=r"failures\.tsv: 1 subjects failed"),
    ):
        demo(tmp_path / "out", n_subjects=2)
