import os
import subprocess
import sys

import numpy as np
import pytest

from brainfeat.exceptions import InputError, TrainingError
from brainfeat.io.volumes import read_volume, write_volume
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining import store_writer
from brainfeat.pretraining.store_writer import Scan, write_store
from brainfeat.volume import Geometry, Volume

MODALITIES = ("T1w", "T2w")
KILLED_PARENT = """
import time
from brainfeat.pretraining import store_writer

if __name__ == "__main__":
    for number in store_writer._map(abs, [-3], 2):
        print(number, flush=True)
        time.sleep(60)
"""
PREPROCESSOR = Preprocessor(shape=(24, 32, 28), spacing=6.0, alignment="none")


@pytest.fixture
def scans(tmp_path):
    """Two balls of noise; the second has no T2w."""
    generator = np.random.default_rng(0)
    found = []
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
        found.append(Scan(subject=f"sub-{number}", images=images))
    return found


def test_store_holds_what_the_preprocessor_gives(scans, tmp_path):
    store, failed = write_store(
        scans, tmp_path / "store", PREPROCESSOR, modalities=MODALITIES
    )
    assert failed == []
    assert store.preprocessing == PREPROCESSOR.to_dict()
    assert [scan.present for scan in store.index.scans] == [(True, True), (True, False)]
    array = np.load(store.folder / store.index.scans[1].file)
    expected = PREPROCESSOR.apply(
        {"T1w": read_volume(scans[1].images["T1w"])}, MODALITIES
    )
    np.testing.assert_allclose(array[:2], expected.data, atol=5e-3)
    np.testing.assert_array_equal(array[2], expected.foreground)


def test_rerun_preprocesses_only_what_changed(scans, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    before, _ = write_store(scans, folder, PREPROCESSOR, modalities=MODALITIES)
    done = []
    original = Preprocessor.apply

    def counting(self, volumes, modalities):
        done.append(sorted(volumes))
        return original(self, volumes, modalities)

    monkeypatch.setattr(Preprocessor, "apply", counting)
    again, _ = write_store(scans, folder, PREPROCESSOR, modalities=MODALITIES)
    assert done == []
    assert again.index == before.index
    changed = read_volume(scans[1].images["T1w"])
    write_volume(
        Volume(changed.data[::-1].copy(), changed.geometry), scans[1].images["T1w"]
    )
    after, _ = write_store(scans, folder, PREPROCESSOR, modalities=MODALITIES)
    assert done == [["T1w"]]
    assert after.index.scans[0] == before.index.scans[0]
    assert after.index.scans[1].file != before.index.scans[1].file


def test_processes_write_the_same_store(scans, tmp_path):
    one, _ = write_store(scans, tmp_path / "1", PREPROCESSOR, modalities=MODALITIES)
    two, _ = write_store(
        scans, tmp_path / "2", PREPROCESSOR, modalities=MODALITIES, n_jobs=2
    )
    assert one.index == two.index
    for scan in one.index.scans:
        first, second = (np.load(store.folder / scan.file) for store in (one, two))
        np.testing.assert_array_equal(first, second)


def test_broken_scan_is_reported_and_the_rest_stored(scans, tmp_path):
    broken = Scan(subject="sub-x", images={"T1w": tmp_path / "no.nii.gz"})
    store, failed = write_store(
        [broken, *scans], tmp_path / "store", PREPROCESSOR, modalities=MODALITIES
    )
    assert [row.scan for row in failed] == [broken]
    assert "no.nii.gz" in str(failed[0].error)
    assert len(store.index.scans) == 2


def test_nothing_to_store_is_an_error(tmp_path):
    broken = Scan(subject="sub-x", images={"T1w": tmp_path / "no.nii.gz"})
    with pytest.raises(InputError, match=r"nothing to store.*no\.nii\.gz"):
        write_store([broken], tmp_path / "store", PREPROCESSOR, modalities=MODALITIES)


def test_a_process_that_the_system_ends_is_an_error_of_ours():
    with pytest.raises(TrainingError, match="want of memory; use fewer jobs"):
        list(store_writer._map(os._exit, [3], 2))


def test_processes_do_not_outlive_a_run_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"3\n"
    parent.kill()
    parent.communicate(timeout=20)  # what the processes have open, too, is closed
