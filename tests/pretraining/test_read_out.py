from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.exceptions import InputError
from brainfeat.models.pooling import pool_volumes
from brainfeat.pretraining.read_out import _refit, calibrate_read_out
from brainfeat.pretraining.store import (
    StoredScan,
    StoreIndex,
    VolumeStore,
)
from brainfeat.pretraining.structures import Structures
from brainfeat.slabs.grid import SlabGrid

SHAPE = (40, 56, 36)  # of the checkpoint's preprocessing
N_SUBJECTS = 12
STRUCTURES = Structures(
    names=("deep_gray", "csf", "thalamus", "ventricle"),
    members=(
        (True, True, False),
        (False, False, True),
        (True, False, False),
        (False, True, True),
    ),
)


@pytest.fixture
def reading(checkpoint, make_checkpoint):
    """A checkpoint whose volumes mostly grow with the number of patches."""
    encoder = replace(
        checkpoint.config.encoder,
        tissues=("csf", "deep_gray"),
        structures=("thalamus",),
    )
    read = make_checkpoint(encoder=encoder)
    read.state["anatomy.weight"] *= 0.005
    read.state["anatomy.bias"] = torch.tensor([0.1, 0.025, 0.02])
    return read


@pytest.fixture
def store(tmp_path):
    """Brains of different sizes, with structures that grow with them."""
    rng = np.random.default_rng(3)
    scans = []
    for number in range(N_SUBJECTS):
        data = 0.1 * rng.normal(size=(4, *SHAPE)).astype(np.float16)
        # Tokens tell where the middle is, whose size is the same in all brains.
        data[0, 8:24, 16:32, 8:20] += 5.0
        size = rng.integers(20, 34)
        data[3] = 0.0
        data[3, 4 : 4 + size, 6 : 12 + size, 2:34] = 1.0
        labels = np.zeros(SHAPE, np.uint8)
        end = 20 + rng.integers(-1, 2)
        labels[10 : 12 + size // 3, 10:30, 8:end] = 1
        labels[10 : 12 + size // 3, 30:33, 8:end] = 2
        labels[8 : 8 + rng.integers(2, 5) + size // 4, 10:20, 22:31] = 3
        np.save(tmp_path / f"{number}.npy", data)
        np.save(tmp_path / f"{number}-labels.npy", labels)
        scans.append(
            StoredScan(
                subject=f"s{number}",
                file=f"{number}.npy",
                present=(True, True, True),
                labels=f"{number}-labels.npy",
                known=(True, number % 2 == 0, True, True),
            )
        )
    preprocessing = {"shape": list(SHAPE), "spacing": 4.0}
    names = ("T1w", "T2w", "FLAIR")
    StoreIndex(
        modalities=names,
        preprocessing=preprocessing,
        scans=tuple(scans),
        structures=STRUCTURES,
    ).save(tmp_path)
    return VolumeStore(tmp_path)


@torch.no_grad()
def read_volumes(checkpoint, store):
    """Read volumes as embedding does: (subjects, structures), in patches."""
    grid, rows = SlabGrid(thickness=2), []
    for name in store.subjects:
        subject = store.load([name])
        slabs = torch.from_numpy(grid.extract(subject.volumes[0, 0].numpy()))[None]
        output = checkpoint.build_encoder()(slabs, present=subject.present[:, 0])
        fractions = grid.token_fractions(subject.foreground[0, 0].numpy(), 8)
        state = checkpoint.state
        rows.append(
            pool_volumes(
                output,
                torch.from_numpy(fractions)[None],
                state["anatomy.weight"],
                state["anatomy.bias"],
            )[0].numpy()
        )
    return np.array(rows)


def test_calibrated_volumes_regress_on_label_maps_as_themselves(reading, store):
    before = read_volumes(reading, store)
    calibrated = calibrate_read_out(reading, store)
    after = read_volumes(calibrated, store)
    labels = [np.load(store.folder / f"{n}-labels.npy") for n in range(N_SUBJECTS)]
    true = np.array([[(one > 0).sum() - (one == 3).sum(), (one == 1).sum()]
                     for one in labels]) / (2 * 8 * 8)  # fmt: skip
    for column, row in ((0, 1), (1, 2)):
        slope_before, _ = np.polyfit(true[:, column], before[:, row], 1)
        slope, offset = np.polyfit(true[:, column], after[:, row], 1)
        assert 0.4 < slope_before < 0.8, slope_before
        assert abs(slope - 1) < 0.08
        assert abs(offset) < 0.08 * true[:, column].mean()
    # Half of the subjects know csf, which is too few.
    np.testing.assert_allclose(after[:, 0], before[:, 0], rtol=1e-4)
    assert calibrated.config == reading.config


def test_wrong_label_maps_do_not_count(reading, store):
    expected = read_volumes(calibrate_read_out(reading, store), store)
    path = store.folder / "5-labels.npy"
    swapped = np.load(path)
    swapped[swapped == 1] = 0
    swapped[0, 0, 0] = 1
    np.save(path, swapped)
    found = read_volumes(calibrate_read_out(reading, store), store)
    # Without one of the twelve subjects, so they are not the same.
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], rtol=0.1)


def test_a_map_is_refitted_only_if_it_reads_subjects_that_are_left_out_better():
    rng = np.random.default_rng(5)
    number = rng.uniform(0.8, 1.2, 60)
    columns = number[:, None] * np.hstack([np.ones((60, 1)), rng.normal(size=(60, 9))])
    best, noise = rng.normal(size=10), 0.3 * rng.normal(size=60)
    true = columns @ best + noise
    poor = best + np.r_[0.0, 1.2 * rng.normal(size=9)]
    refit = _refit(columns, columns @ poor, true)
    again = columns @ (refit.scale * poor + refit.change) + refit.shift
    assert np.corrcoef(columns @ poor, true)[0, 1] < 0.8
    assert np.corrcoef(refit.left_out, true)[0, 1] > 0.85
    assert np.std(again - true) < np.std(refit.left_out - true)
    # The volume of a subject comes from a fit without it.
    others = np.arange(60) != 7
    scale = true.std() / (columns @ poor).std()
    table = np.hstack([columns, np.ones((60, 1))])
    penalty = np.full(11, 60 * columns[:, 1:].var(axis=0).mean())
    penalty[[0, -1]] = 0.0
    rest = (true - scale * columns @ poor)[others]
    gram = table[others].T @ table[others] + np.diag(penalty)
    change = np.linalg.solve(gram, table[others].T @ rest)
    expected = scale * columns[7] @ poor + table[7] @ change
    assert refit.left_out[7] == pytest.approx(expected)
    assert _refit(columns, columns @ best, true) is None
    assert _refit(columns, columns @ poor, rng.normal(size=60)) is None


def test_calibration_needs_label_maps_and_a_read_out(reading, store, make_checkpoint):
    blind = make_checkpoint(
        encoder=replace(reading.config.encoder, tissues=(), structures=())
    )
    with pytest.raises(InputError, match="got 12 subjects and 0 structures"):
        calibrate_read_out(blind, store)
    index = store.index
    scans = tuple(replace(scan, labels="", known=()) for scan in index.scans)
    replace(index, scans=scans).save(store.folder)
    with pytest.raises(InputError, match="got 0 subjects and 3 structures"):
        calibrate_read_out(reading, VolumeStore(store.folder))
