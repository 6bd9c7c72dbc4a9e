import logging
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainfeat import BrainFoundEmbedder, pretrain
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.origin import Origin
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    InputError,
    TrainingError,
    UntrainedCheckpointWarning,
)
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.trainer import TrainingStep

ROOM = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
CONFIG = replace(
    ROOM["SMALL_CONFIG"],
    anatomy_weight=0.0,
    n_steps=4,
    batch_size=2,
    log_every=1,
)
ORIGIN = Origin(licence="CC BY-SA 4.0", source="https://example.org")
PREPROCESSOR = Preprocessor(shape=(24, 32, 20), spacing=8.0, alignment="none")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("one_thread"),
]


class Recorder:
    """Tracker that keeps what passes, and may interrupt the run after a step."""

    def __init__(self, last_step=None):
        self.last_step, self.outcomes, self.steps = last_step, [], []

    def __call__(self, items, **_total_and_description):
        for item in items:
            is_step = isinstance(item, TrainingStep)
            (self.steps if is_step else self.outcomes).append(item)
            if is_step and item.n_done == self.last_step:
                raise KeyboardInterrupt
            yield item


def interrupt(data, config, output, last_step, **options):
    """Run until a step is done."""
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            data,
            config,
            output=output,
            device="cpu",
            track=Recorder(last_step),
            **options,
        )


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    """Untrained checkpoint of the small encoder on a grid of 8 mm."""
    config = CheckpointConfig(
        encoder=replace(CONFIG.encoder, drop_path=0.0),
        preprocessing=PREPROCESSOR.to_dict(),
        missing_modalities=True,
        trained=False,
        origin=ORIGIN,
    )
    folder = tmp_path_factory.mktemp("init") / "small"
    return Checkpoint.untrained(config).save(folder)


@pytest.fixture(scope="module")
def run(cohort, init, tmp_path_factory):
    """Folder of a run on the cohort."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.warns(UntrainedCheckpointWarning):
        pretrain(cohort, CONFIG, output=folder, init=init, device="cpu")
    return folder


def test_a_cohort_becomes_an_encoder_of_its_scans(cohort, run):
    checkpoint = Checkpoint.load(run)
    assert checkpoint.config.trained
    assert Preprocessor.from_dict(checkpoint.config.preprocessing) == PREPROCESSOR
    assert list(VolumeStore(run / "store").subjects) == ["sub-0", "sub-1", "sub-2"]
    assert not (run / "failures.tsv").exists()
    paths = sorted(cohort.rglob("*_T1w.nii.gz"))
    embeddings = BrainFoundEmbedder(checkpoint=run).fit_transform(paths)
    assert embeddings.shape == (3, 24)
    assert np.isfinite(embeddings).all()


def test_table_store_and_source_train_what_the_folder_does(cohort, init, run, tmp_path):
    paths = {m: sorted(cohort.rglob(f"*_{m}.nii.gz")) for m in ("T1w", "FLAIR")}
    table = pd.DataFrame(paths, index=["sub-0", "sub-1", "sub-2"]).map(str)
    expected = Checkpoint.load(run).fingerprint
    forms = {
        "table": table,
        "store": run / "store",
        "source": VolumeStore(run / "store"),
    }
    for name, data in forms.items():
        folder = tmp_path / name
        result = pretrain(data, CONFIG, output=folder, init=init, device="cpu")
        assert result.fingerprint == expected, name


def test_modalities_that_no_scan_has_are_left_out(cohort, tmp_path, caplog):
    encoder = replace(CONFIG.encoder, modalities=("T2w", "T1w", "FLAIR"))
    config = replace(CONFIG, encoder=encoder, n_steps=1)
    paths = sorted(cohort.rglob("*_FLAIR.nii.gz"))
    with caplog.at_level(logging.INFO, "brainfeat"):
        result = pretrain(paths, config, output=tmp_path, device="cpu")
    assert result.config.encoder.modalities == ("FLAIR",)
    assert "No scan has T2w or T1w: the encoder is for FLAIR." in caplog.messages
    assert "[3/3] sub-2: preprocessed" in caplog.messages


def test_fewer_subjects_than_a_batch_give_a_warning(cohort, init, tmp_path, caplog):
    config = replace(CONFIG, batch_size=7, n_steps=1)
    result = pretrain(cohort, config, output=tmp_path, init=init, device="cpu")
    assert result.config.trained
    assert any("3 subjects for a batch_size of 7" in text for text in caplog.messages)


def test_scans_and_steps_are_tracked_and_failures_listed(cohort, init, tmp_path):
    broken = tmp_path / "sub-9_T1w.nii.gz"
    broken.write_bytes(b"no image")
    recorder = Recorder()
    pretrain(
        [cohort, broken, tmp_path / "absent.nii"],
        CONFIG,
        output=tmp_path / "run",
        init=init,
        device="cpu",
        track=recorder,
    )
    statuses = [outcome.status for outcome in recorder.outcomes]
    assert statuses == ["done"] * 3 + ["failed"]
    assert [step.n_done for step in recorder.steps] == [1, 2, 3, 4]
    lines = (tmp_path / "run" / "failures.tsv").read_text().splitlines()
    files = [line.split("\t")[1] for line in lines[1:]]
    assert files == [str(tmp_path / "absent.nii"), str(broken)]
    assert lines[2].startswith(f"sub-9\t{broken}\t")


def test_failures_of_an_earlier_run_are_not_listed(run, init, tmp_path):
    (tmp_path / "failures.tsv").write_text("participant_id\tfile\treason\na\tb\tc\n")
    pretrain(run / "store", CONFIG, output=tmp_path, init=init, device="cpu")
    assert not (tmp_path / "failures.tsv").exists()


def test_scans_are_listed_if_all_fail(init, tmp_path):
    broken = [tmp_path / f"sub-{number}_T1w.nii.gz" for number in (4, 9)]
    for path in broken:
        path.write_bytes(b"not an image")
    with pytest.raises(InputError, match="nothing to store"):
        pretrain(
            [*broken, tmp_path / "absent.nii"],
            CONFIG,
            output=tmp_path / "run",
            init=init,
            device="cpu",
        )
    lines = (tmp_path / "run" / "failures.tsv").read_text().splitlines()
    files = [line.split("\t")[1] for line in lines[1:]]
    assert files == [str(path) for path in (tmp_path / "absent.nii", *broken)]


def test_labels_choose_the_best_encoder(cohort, init, tmp_path):
    paths = sorted(map(str, cohort.rglob("*_T1w.nii.gz")))
    table = pd.DataFrame({"T1w": [*paths, paths[0]]}, index=["a", "b", "c", "d"])
    labels = {"a": False, "b": True, "c": True, "d": False}
    pretrain(table, CONFIG, output=tmp_path, init=init, device="cpu", labels=labels)
    log = pd.read_json(tmp_path / "log.jsonl", lines=True)
    assert log["probe"].dropna().between(0, 1).all()
    scored = log.loc[log["probe"].notna(), "step"]
    assert [*scored] == [-1, 1, 3]  # before the first step, and every second of four
    first, *others = log["probe"].dropna()
    card = (tmp_path / "README.md").read_text()
    assert f"{max(others):.3f}, {first:.3f} before the first step" in card
    assert ("- state: trained" in card) == (max(others) > first)
    assert Checkpoint.load(tmp_path / "best").config.trained


def test_labels_need_subjects_with_names(tmp_path):
    labels = {"a": False, "b": True}
    source = ROOM["RandomSource"]()
    with pytest.raises(InputError, match="images or a store"):
        pretrain(source, CONFIG, output=tmp_path, device="cpu", labels=labels)


def test_a_resumed_run_keeps_its_weights_and_preprocessing(cohort, init, run, tmp_path):
    config = replace(CONFIG, checkpoint_every=2)
    interrupt(cohort, config, tmp_path, 3, init=init)
    shutil.rmtree(tmp_path / "store")
    result = pretrain(cohort, config, output=tmp_path, resume=True, device="cpu")
    assert result.fingerprint == Checkpoint.load(run).fingerprint


def test_a_run_of_a_store_resumes_from_its_state_alone(run, init, tmp_path):
    config = replace(CONFIG, checkpoint_every=2)
    interrupt(run / "store", config, tmp_path, 3, init=init)
    (tmp_path / "config.json").unlink()  # as if killed after the first state
    again = pretrain(run / "store", config, output=tmp_path, resume=True, device="cpu")
    assert again.fingerprint == Checkpoint.load(run).fingerprint
    # What is trained further keeps the licence of its initial weights.
    assert again.config.origin == Checkpoint.load(run).config.origin == ORIGIN


@pytest.mark.parametrize("has_init", [True, False])
def test_a_run_without_a_state_says_what_it_starts_from(
    run, init, tmp_path, caplog, has_init
):
    interrupt(run / "store", CONFIG, tmp_path, 1, init=init, resume=True)
    assert "anew" not in caplog.text  # there was no run
    init = init if has_init else None
    interrupt(run / "store", CONFIG, tmp_path, 1, init=init, resume=True)
    start = str(init) if has_init else "random weights"
    assert f"the run starts anew, from {start}." in caplog.text


def test_a_run_that_resumes_with_other_scans_warns(cohort, init, tmp_path, caplog):
    config = replace(CONFIG, checkpoint_every=1)
    paths = sorted(cohort.rglob("*_T1w.nii.gz"))

    def warnings_of(paths, last_step, *, resume=True):
        caplog.clear()
        interrupt(paths, config, tmp_path, last_step, init=init, resume=resume)
        return [text for text in caplog.messages if "with other scans" in text]

    assert warnings_of(paths, 2, resume=False) == []
    assert warnings_of(paths, 3) == []
    assert len(warnings_of(paths[:2], 3)) == 1
    assert len(warnings_of(paths[:2], 3)) == 1  # no step with these was saved


def test_an_encoder_that_cannot_encode_whole_volumes_is_refused(cohort, run, tmp_path):
    # The default volumes are 80 slices deep; those of the store 20.
    encoder = replace(CONFIG.encoder, thickness=3)
    config = replace(CONFIG, encoder=encoder)
    for data in (cohort, run / "store"):
        with pytest.raises(ConfigError, match="do not divide into axial slabs of 3"):
            pretrain(data, config, output=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_errors_are_raised_before_anything_is_written(cohort, init, tmp_path):
    wider = replace(CONFIG, encoder=replace(CONFIG.encoder, embed_dim=48))
    anatomy = replace(CONFIG, anatomy_weight=1.0)
    cases = [
        (CheckpointError, "absent", CONFIG, {"init": "absent"}),
        (ConfigError, "its encoder has embed_dim 24, that of .* 48", wider, {}),
        (ConfigError, "known anatomy", anatomy, {}),
        (ConfigError, "device: .* got 'abacus'", CONFIG, {"device": "abacus"}),
    ]
    folder = tmp_path / "run"
    for error, message, config, changes in cases:
        options = {"init": init, "device": "cpu", **changes}
        with pytest.raises(error, match=message):
            pretrain(cohort, config, output=folder, **options)
        assert not folder.exists()
    with pytest.raises(InputError, match="no such file"):
        pretrain(tmp_path / "nothing", CONFIG, output=folder)


@pytest.mark.parametrize("planes", [("axial",), ("sagittal", "coronal")])
def test_initial_weights_of_another_plane_give_a_warning(
    run, init, tmp_path, caplog, planes
):
    checkpoint = Checkpoint.load(init)
    turned = Checkpoint(replace(checkpoint.config, plane="coronal"), checkpoint.state)
    views = replace(CONFIG.views, planes=planes)
    config = replace(CONFIG, views=views, n_steps=1)
    path = turned.save(tmp_path / "turned")
    pretrain(run / "store", config, output=tmp_path / "run", init=path, device="cpu")
    expected = f"{path}: its slabs are coronal, those of this run axial (views.planes)."
    assert (expected in caplog.messages) == (planes == ("axial",))


@pytest.mark.parametrize("spacing", [8.0, 2.0])
def test_initial_weights_of_other_preprocessing_give_a_warning(
    run, init, tmp_path, caplog, spacing
):
    checkpoint = Checkpoint.load(init)
    other = replace(PREPROCESSOR, spacing=spacing).to_dict()
    config = replace(checkpoint.config, preprocessing=other)
    path = Checkpoint(config, checkpoint.state).save(tmp_path / "other")
    pretrain(
        run / "store",
        replace(CONFIG, n_steps=1),
        output=tmp_path / "run",
        init=path,
        device="cpu",
    )
    expected = (
        f"{run / 'store'}: its volumes have spacing 8.0, the initial weights were "
        "trained with spacing 2.0."
    )
    assert caplog.messages == ([] if spacing == 8.0 else [expected])


@pytest.mark.parametrize("output", ["run", "~/run"])
def test_a_run_is_not_overwritten(cohort, run, output, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    monkeypatch.chdir(run.parent)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(TrainingError, match="run: holds a run"):
        pretrain(cohort, CONFIG, output=output, device="cpu")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
