import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from brainfeat.exceptions import InputError, TrainingError
from brainfeat.io.volumes import read_volume, write_volume
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining import store_writer
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.store_writer import write_store
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.volume import Geometry, Volume

MODALITIES = ("T1w", "T2w")
KILLED_PARENT = """
import time
from pathlib import Path
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.store_writer import preprocess_subjects
from brainfeat.subjects.subject import Subject

if __name__ == "__main__":
    subjects = [Subject("sub-x", {"T1w": "no.nii"})]
    for outcome in preprocess_subjects(
        subjects, Path("store"), Preprocessor(), modalities=("T1w",), n_jobs=2
    ):
        print(outcome.status, flush=True)
        time.sleep(60)
"""
# One of two ranks: it prints the subjects that it preprocessed.
RANK = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.store_writer import write_store
from brainfeat.subjects.subject import Subject

folder, number, rows = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
)

def track(outcomes, *, total, description):
    for outcome in outcomes:
        print(outcome.subject.participant_id)
        # A preprocessed scan is not read again.
        Path(outcome.subject.image).unlink(missing_ok=True)
        yield outcome

_, failed = write_store(
    [Subject(name, {"T1w": path}) for name, path in rows],
    f"{folder}/shared",
    Preprocessor(shape=(24, 32, 28), spacing=6.0, alignment="none"),
    modalities=("T1w",),
    track=track,
)
print("failed:", *[outcome.subject.participant_id for outcome in failed])
dist.destroy_process_group()
"""
PREPROCESSOR = Preprocessor(shape=(24, 32, 28), spacing=6.0, alignment="none")


@pytest.fixture
def subjects(tmp_path):
    """Two balls of noise; the second has no T2w."""
    generator = np.random.default_rng(0)
    made = []
    for number, names in enumerate([MODALITIES, MODALITIES[:1]]):
        images = {}
        for name in names:
            grid = (
                np.indices((30, 36, 33)) - np.array([15, 18, 16])[:, None, None, None]
            )
            ball = np.linalg.norm(grid, axis=0) < 12
            noise = generator.random(ball.shape, dtype=np.float32)
            geometry = Geometry(ball.shape, np.diag([5.0, 5.0, 5.0, 1.0]))
            path = tmp_path / f"{number}_{name}.nii.gz"
            images[name] = write_volume(Volume(ball * (1 + noise), geometry), path)
        made.append(Subject(f"sub-{number}", images))
    return made


def test_store_holds_what_the_preprocessor_gives(subjects, tmp_path):
    store, failed = write_store(
        subjects, tmp_path / "store", PREPROCESSOR, modalities=MODALITIES
    )
    assert failed == []
    assert store.preprocessing == PREPROCESSOR.to_dict()
    assert [scan.present for scan in store.index.scans] == [(True, True), (True, False)]
    array = np.load(store.folder / store.index.scans[1].file)
    expected = PREPROCESSOR.apply(
        {"T1w": read_volume(subjects[1].images["T1w"])}, MODALITIES
    )
    np.testing.assert_allclose(array[:2], expected.data, atol=5e-3)
    np.testing.assert_array_equal(array[2], expected.foreground)


def test_rerun_preprocesses_only_what_changed(subjects, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    before, _ = write_store(subjects, folder, PREPROCESSOR, modalities=MODALITIES)
    done = []
    original = Preprocessor.apply

    def counting(self, volumes, modalities):
        done.append(sorted(volumes))
        return original(self, volumes, modalities)

    monkeypatch.setattr(Preprocessor, "apply", counting)
    again, _ = write_store(subjects, folder, PREPROCESSOR, modalities=MODALITIES)
    assert done == []
    assert again.index == before.index
    changed = read_volume(subjects[1].images["T1w"])
    write_volume(
        Volume(changed.data[::-1].copy(), changed.geometry), subjects[1].images["T1w"]
    )
    after, _ = write_store(subjects, folder, PREPROCESSOR, modalities=MODALITIES)
    assert done == [["T1w"]]
    assert after.index.scans[0] == before.index.scans[0]
    assert after.index.scans[1].file != before.index.scans[1].file


def test_scans_in_doubt_are_named_each_time(subjects, tmp_path, monkeypatch, caplog):
    original = Preprocessor.apply

    def doubting(self, volumes, modalities):
        result = original(self, volumes, modalities)
        doubt = "" if len(volumes) > 1 else "no brain"
        return replace(result, quality=result.quality._replace(doubt=doubt))

    monkeypatch.setattr(Preprocessor, "apply", doubting)
    for n_degraded in (0, 0, 1, 1):
        caplog.clear()
        write = partial(write_store, subjects, tmp_path / "store", PREPROCESSOR)
        store, failed = write(modalities=MODALITIES, n_degraded=n_degraded)
        assert failed == []
        doubts = [scan.doubt for scan in store.index.scans if not scan.degradation]
        assert doubts == ["", "no brain"]
        (message,) = [
            r.getMessage() for r in caplog.records if r.levelname == "WARNING"
        ]
        assert message.startswith("1 subject in doubt, but stored: ")
        assert message.endswith("no brain")


@pytest.fixture
def labelled(subjects, tmp_path):
    """The subjects, the second with a label map of its left and right halves."""
    labels = np.zeros((30, 36, 33), np.int32)
    labels[5:15, 8:28, 6:26], labels[15:25, 8:28, 6:26] = 17, 53
    geometry = Geometry(labels.shape, np.diag([5.0, 5.0, 5.0, 1.0]))
    path = write_volume(Volume(labels, geometry), tmp_path / "map.nii.gz")
    table = tmp_path / "map.tsv"
    table.write_text("index\tname\n17\tleft\n53\tright\n")
    names = {"label_map": str(path), "label_table": str(table)}
    second = replace(subjects[1], metadata=names, session_id="b")
    return [subjects[0], second], table


def test_copies_and_label_maps_go_through_the_same_preprocessing(
    labelled, tmp_path, monkeypatch
):
    rows, table = labelled
    write = partial(write_store, rows, tmp_path / "store", PREPROCESSOR)
    plain = Preprocessor.apply
    store, failed = write(modalities=MODALITIES, n_degraded=3)
    assert failed == []
    scans = store.index.scans
    assert [bool(scan.degradation) for scan in scans] == [False, *[True] * 3] * 2
    assert {scan.visit for scan in store.subjects["sub-1"]} == {"b"}
    assert all(scan.thickness == 5.0 for scan in scans)
    assert not any(scan.labels for scan in store.subjects["sub-0"])
    foregrounds = []
    for scan in store.subjects["sub-1"]:
        foregrounds.append(np.load(store.folder / scan.file)[-1])
        labels = np.load(store.folder / scan.labels)
        assert labels.shape == PREPROCESSOR.shape
        assert set(np.unique(labels)) == {0, 1, 2}
        assert scan.known == (True, True)
    assert len({f.tobytes() for f in foregrounds}) > 1
    # Nothing is done again, and nothing is random.
    monkeypatch.setattr(Preprocessor, "apply", None)
    again, _ = write(modalities=MODALITIES, n_degraded=3)
    assert again.index == store.index
    monkeypatch.setattr(Preprocessor, "apply", plain)
    other = partial(write_store, rows, tmp_path / "other", PREPROCESSOR)
    assert other(modalities=MODALITIES, n_degraded=3)[0].index == store.index
    table.write_text("index\tname\n17\thalf\n53\thalf\n")
    changed, _ = write(modalities=MODALITIES, n_degraded=0)
    assert changed.targets == ("half",)


def test_label_maps_of_another_space_are_refused(labelled, tmp_path):
    (_, subject), _ = labelled
    far = Geometry((9, 8, 7), np.array([*np.eye(4)[:3] + 1e-9, [0, 0, 0, 1.0]]))
    write_volume(Volume(np.full((9, 8, 7), 17, np.int32), far), tmp_path / "far.nii")
    moved = {**subject.metadata, "label_map": str(tmp_path / "far.nii")}
    with pytest.raises(InputError, match=r"far\.nii: expected labels in the brain"):
        write_store(
            [replace(subject, metadata=moved)],
            tmp_path / "store",
            PREPROCESSOR,
            modalities=MODALITIES,
        )


@pytest.mark.slow
def test_processes_write_the_same_store(subjects, tmp_path):
    one, _ = write_store(subjects, tmp_path / "1", PREPROCESSOR, modalities=MODALITIES)
    two, _ = write_store(
        subjects, tmp_path / "2", PREPROCESSOR, modalities=MODALITIES, n_jobs=2
    )
    assert one.index == two.index
    for scan in one.index.scans:
        first, second = (np.load(store.folder / scan.file) for store in (one, two))
        # The number of threads of a matrix product changes its rounding.
        np.testing.assert_allclose(first, second, rtol=2e-3, atol=1e-4)


def test_broken_scan_is_reported_and_the_rest_stored(subjects, tmp_path):
    broken = Subject("sub-x", {"T1w": str(tmp_path / "no.nii.gz")})
    store, failed = write_store(
        [broken, *subjects], tmp_path / "store", PREPROCESSOR, modalities=MODALITIES
    )
    assert [outcome.subject for outcome in failed] == [broken]
    assert "no.nii.gz" in str(failed[0].error)
    assert len(store.index.scans) == 2


def test_nothing_to_store_is_an_error(tmp_path):
    broken = Subject("sub-x", {"T1w": str(tmp_path / "no.nii.gz")})
    with pytest.raises(InputError, match=r"nothing to store.*no\.nii\.gz"):
        write_store([broken], tmp_path / "store", PREPROCESSOR, modalities=MODALITIES)


def test_a_process_that_the_system_ends_is_reported(subjects, tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "_start_worker", partial(os._exit, 3))
    with pytest.raises(TrainingError, match="want of memory; use fewer jobs"):
        write_store(subjects, tmp_path, PREPROCESSOR, modalities=MODALITIES, n_jobs=2)


@pytest.mark.slow
def test_two_ranks_share_the_work_and_write_the_store_of_one(subjects, tmp_path):
    subjects = [replace(subject, images={"T1w": subject.image}) for subject in subjects]
    subjects += [Subject("sub-x", {"T1w": str(tmp_path / "no.nii")})]
    alone, _ = write_store(
        subjects, tmp_path / "alone", PREPROCESSOR, modalities=("T1w",)
    )
    rows = json.dumps([[s.participant_id, str(s.image)] for s in subjects])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(number), rows],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for number in range(2)
    ]
    printed = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    failed = ["failed:", "sub-x"]
    assert printed == [["sub-0", "sub-x", *failed], ["sub-1", *failed]]
    assert VolumeStore(tmp_path / "shared").index == alone.index


def test_outcomes_pass_through_the_tracker_in_order(subjects, tmp_path):
    calls, outcomes = [], []

    def track(items, **options):
        calls.append(options)
        for outcome in items:
            outcomes.append(outcome)
            yield outcome

    broken = Subject("sub-x", {"T1w": str(tmp_path / "no.nii.gz")})
    _, failed = write_store(
        [*subjects, broken],
        tmp_path / "store",
        PREPROCESSOR,
        modalities=MODALITIES,
        track=track,
    )
    assert calls == [{"total": 3, "description": "preprocessing"}]
    assert [outcome.subject for outcome in outcomes] == [*subjects, broken]
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed"]
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert failed == outcomes[2:]


@pytest.mark.slow
def test_processes_end_with_a_run_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT)
    command = [sys.executable, script]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path)
    assert parent.stdout.readline() == b"failed\n"
    parent.kill()
    parent.communicate(timeout=20)  # what the processes have open, too, is closed
