import hashlib
import json
import os

import numpy as np
import pytest
import torch

from brainfeat.exceptions import InputError, ModalityError
from brainfeat.pretraining.store import (
    StoredScan,
    StoreIndex,
    VolumeStore,
)
from brainfeat.pretraining.structures import Structures

SHAPE = (3, 4, 5)


@pytest.fixture
def make_store(tmp_path):
    def make(subjects, present=(True, True)):
        scans = []
        for number, subject in enumerate(subjects):
            data = np.full((3, *SHAPE), number, dtype=np.float16)
            data[-1] = number % 2
            np.save(tmp_path / f"{number}.npy", data)
            scan = StoredScan(subject=subject, file=f"{number}.npy", present=present)
            scans.append(scan)
        index = StoreIndex(
            modalities=("T1w", "FLAIR"),
            preprocessing={"spacing": 3.0},
            scans=tuple(scans),
        )
        index.save(tmp_path)
        return VolumeStore(tmp_path)

    return make


def scan_numbers(batch):
    return batch.volumes[:, :, 0, 0, 0, 0].int().tolist()


def test_batch_holds_volumes_presence_and_foreground(make_store):
    store = make_store("abc", present=(True, False))
    batch = store.draw(4, 2, seed=7)
    assert batch.volumes.shape == (2, 1, 2, *SHAPE)
    assert batch.volumes.dtype == torch.float32
    assert batch.present.tolist() == [[[True, False]]] * 2
    assert batch.foreground.shape == (2, 1, *SHAPE)
    numbers = batch.volumes[:, 0, 0, 0, 0, 0]
    assert torch.equal(batch.foreground[:, 0, 0, 0, 0], numbers % 2)
    assert batch.targets is None


def test_every_subject_is_drawn_once_an_epoch(make_store):
    store = make_store("abcdef")
    drawn = [
        n for step in range(6) for (n,) in scan_numbers(store.draw(step, 4, seed=3))
    ]
    epochs = [drawn[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_ranks_split_the_subjects_of_a_step(make_store):
    store = make_store("abcdefgh")
    for step in range(3):
        whole = scan_numbers(store.draw(step, 6, seed=3))
        parts = [
            number
            for rank in range(3)
            for number in scan_numbers(
                store.draw(step, 2, seed=3, process=rank, n_processes=3)
            )
        ]
        assert parts == whole


def test_a_step_is_a_function_of_its_number_and_the_seed(make_store):
    store = make_store("abcdefgh")
    later = scan_numbers(store.draw(5, 3, seed=1))
    store.draw(0, 3, seed=1)
    assert scan_numbers(store.draw(5, 3, seed=1)) == later
    assert any(
        scan_numbers(store.draw(step, 3, seed=2))
        != scan_numbers(store.draw(step, 3, seed=1))
        for step in range(4)
    )


def test_subject_with_two_scans_gives_both_and_one_with_one_repeats_it(make_store):
    store = make_store(["a", "b", "a"])
    pairs = {
        tuple(pair)
        for step in range(8)
        for pair in scan_numbers(store.draw(step, 2, seed=0))
    }
    assert pairs == {(0, 2), (2, 0), (1, 1)}


def test_index_is_read_as_it_was_written(make_store, tmp_path):
    index = make_store("ab").index
    assert StoreIndex.load(tmp_path) == index


def test_store_has_the_attributes_of_a_source(make_store):
    store = make_store("ab")
    assert store.modalities == ("T1w", "FLAIR")
    assert store.shape == SHAPE
    assert store.preprocessing == {"spacing": 3.0}
    assert store.targets == ()


def test_folder_without_index_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished store"):
        VolumeStore(tmp_path)


def test_store_without_scans_is_refused(make_store):
    with pytest.raises(InputError, match="empty"):
        make_store("")


def test_errors_name_a_missing_array(make_store, tmp_path):
    store = make_store("ab")
    (tmp_path / "1.npy").unlink()
    with pytest.raises(InputError, match=r"1\.npy.*b is missing"):
        [store.draw(step, 2, seed=0) for step in range(2)]


@pytest.mark.parametrize("length", [0, 50, 300])
def test_errors_name_a_damaged_array(make_store, tmp_path, length):
    store = make_store("ab")
    os.truncate(tmp_path / "1.npy", length)
    with pytest.raises(InputError, match=r"1\.npy: the array of b is damaged \(.*\);"):
        store.load(["a", "b"])


def test_errors_name_a_damaged_index(make_store, tmp_path):
    make_store("ab")
    os.truncate(tmp_path / "index.json", 40)
    with pytest.raises(InputError, match=r"index\.json: expected the index of a store"):
        VolumeStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format"),
        ({"scans": [{"x": 1}]}, r"damaged one \(scan: unknown keys \['x'\]"),
        ({"scans": [{"subject": "a"}]}, "damaged one"),
        ({"scans": None}, "damaged one"),
        ({"modalities": None}, "damaged one"),
        ({"preprocessing": 3}, "damaged one"),
        ({"modalities": ["T1w"]}, "expected 1 modalities of a, got 2"),
    ],
)
def test_foreign_index_is_refused(make_store, tmp_path, change, message):
    make_store("ab")
    path = tmp_path / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=rf"index\.json: .*{message}"):
        VolumeStore(tmp_path)


@pytest.mark.parametrize(
    ("number", "array", "message"),
    [
        (0, np.zeros(7, np.float16), r"0\.npy: expected 2 modalities .* \(7,\)"),
        (0, np.zeros((4, *SHAPE), np.float16), r"0\.npy: expected 2 modalities"),
        (
            2,
            np.zeros((4, *SHAPE), np.float16),
            r"2\.npy: expected 488 bytes .* c again",
        ),
    ],
)
def test_errors_name_an_array_of_another_shape(
    make_store, tmp_path, number, array, message
):
    make_store("abc")
    np.save(tmp_path / f"{number}.npy", array)
    with pytest.raises(InputError, match=message):
        VolumeStore(tmp_path)


def test_an_incomplete_copy_of_a_store_is_reported_on_opening(make_store, tmp_path):
    make_store("abc")
    os.truncate(tmp_path / "2.npy", 300)
    with pytest.raises(InputError, match=r"2\.npy: expected 488 bytes .* got 300"):
        VolumeStore(tmp_path)
    (tmp_path / "2.npy").unlink()
    with pytest.raises(InputError, match=r"2\.npy: array of c is missing"):
        VolumeStore(tmp_path)


STRUCTURES = Structures(
    names=("left", "right", "both"),
    members=((True, False), (False, True), (True, True)),
)


@pytest.fixture
def make_visits(tmp_path):
    """Function that stores a subject's visits of scans and copies."""

    def make(rows, structures=STRUCTURES):
        scans = []
        for number, row in enumerate(rows):
            present = row.pop("present", (True, True))
            shape = (1 + sum(present) if "degradation" in row else 3, *SHAPE)
            data = np.full(shape, number, dtype=np.float16)
            data[-1] = 100 + number
            np.save(tmp_path / f"{number}.npy", data)
            if "known" in row:
                np.save(tmp_path / f"{number}-l.npy", np.full(SHAPE, 2, np.uint8))
                row["labels"] = f"{number}-l.npy"
            file = f"{number}.npy"
            scans.append(StoredScan(subject="a", file=file, present=present, **row))
        StoreIndex(
            modalities=("T1w", "FLAIR"),
            preprocessing={"spacing": 3.0},
            scans=tuple(scans),
            structures=structures,
        ).save(tmp_path)
        return VolumeStore(tmp_path)

    return make


def test_pairs_are_of_one_visit_and_the_reference_is_its_best_scan(make_visits):
    flair, t1w = {"present": (False, True)}, {"present": (True, False)}
    store = make_visits(
        [
            {"visit": "1", **flair, "thickness": 0.5},
            {"visit": "1", **t1w, "thickness": 5.0},
            {"visit": "1", "thickness": 1.0},
            {"visit": "1", **t1w, "degradation": "noise"},
            {"visit": "2", **flair, "thickness": 2.0},
            {"visit": "2", **flair, "degradation": "bias"},
        ]
    )
    seen = set()
    for step in range(90):
        batch = store.draw_pairs(step, 1, seed=4)
        assert batch.foreground.shape == (1, 2, *SHAPE)
        pair = (batch.foreground[0, :, 0, 0, 0] - 100).int().tolist()
        best = (batch.reference.foreground[0, 0, 0, 0, 0] - 100).int().item()
        assert best == (2 if max(pair) < 4 else 4)
        shown = batch.reference.present[0, 0].tolist()
        assert shown == ([True, False] if best == 2 else [False, True])
        seen.add(tuple(sorted(pair)))
    assert seen == {*((i, j) for i in range(4) for j in range(i + 1, 4)), (4, 5)}


def test_copies_hold_only_the_modalities_that_they_have(make_visits):
    store = make_visits([{}, {"present": (False, True), "degradation": "noise"}])
    for step in range(10):
        batch = store.draw_pairs(step, 1, seed=0)
        order = (batch.foreground[0, :, 0, 0, 0] - 100).int().tolist()
        copy = batch.volumes[0, order.index(1), :, 0, 0, 0]
        assert copy.tolist() == [0.0, 1.0]
        assert batch.present[0, order.index(1)].tolist() == [False, True]
    np.save(store.folder / "1.npy", np.zeros((3, *SHAPE), np.float16))
    with pytest.raises(InputError, match=r"1\.npy: expected 2 arrays of the grid"):
        [store.draw_pairs(step, 1, seed=0) for step in range(10)]


def test_label_maps_are_the_anatomy_of_those_who_have_one(make_visits):
    store = make_visits([{"known": (True, True, False)}])
    assert store.targets == ("left", "right", "both")
    assert store.tissues == ("left", "right")
    assert store.structures == ("both",)
    assert store.target_weights == (1.0, 1.0, 1.0)
    batch = store.draw(0, 2, seed=0)
    assert batch.labels.shape == (2, 1, *SHAPE)
    assert batch.labels.unique().tolist() == [2]
    assert batch.members[0].T.bool().tolist() == [*map(list, STRUCTURES.members)]
    assert batch.known.tolist() == [[True, True, False]] * 2
    without = make_visits([{}]).draw(0, 1, seed=0)
    assert without.labels.sum() == 0
    assert not without.known.any()


def test_tissues_of_the_simulation_are_tissues_in_any_order_of_the_table():
    members = {
        "hippocampus": (True, False, False, False),
        "csf": (False, False, True, False),
        "cortex": (False, True, False, False),
        "gray_matter": (True, True, False, False),
        "skull": (False, False, False, True),
        "head": (True, True, True, True),
    }
    for names in (members, reversed(members)):
        rows = {name: members[name] for name in names}
        structures = Structures(names=tuple(rows), members=tuple(rows.values()))
        # Others are tissues, too, if they share nothing with an earlier one.
        assert structures.partition == ("csf", "gray_matter", "skull")


def test_a_store_without_copies_and_label_maps_is_as_before(make_store, tmp_path):
    store = make_store("ab")
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["format"] == "brainfeat-store-1"
    assert [*index] == ["format", "modalities", "preprocessing", "scans"]
    assert [*index["scans"][0]] == ["subject", "file", "present"]
    # Of the first version, so that its runs resume without a warning.
    scans = [
        {"subject": name, "file": f"{n}.npy", "present": [True, True]}
        for n, name in enumerate("ab")
    ]
    text = json.dumps(scans).encode()
    assert hashlib.sha256(text).hexdigest() == store.fingerprint


@pytest.mark.parametrize(
    "names", [("T1w",), ("FLAIR",), ("T1w", "FLAIR"), ("FLAIR", "T1w")]
)
def test_some_modalities_of_a_store_are_read_in_the_order_asked_for(make_visits, names):
    store = make_visits(
        [{}, {"present": (False, True), "degradation": "noise"}], Structures()
    )
    volumes = torch.arange(1.0, 4.0).half().view(3, 1, 1, 1) + torch.zeros(3, *SHAPE)
    np.save(store.folder / "0.npy", volumes.half().numpy())
    some, whole = store.select(names), store.load("a")
    columns = [store.modalities.index(name) for name in names]
    assert some.modalities == names
    batch = some.load("a")
    assert torch.equal(batch.volumes, whole.volumes[:, :, columns])
    assert torch.equal(batch.foreground, whole.foreground)
    assert torch.equal(batch.present, whole.present[:, :, columns])
    drawn = some.draw(0, 1, seed=1)
    assert len(drawn.volumes[0]) == (1 if names == ("T1w",) else 2)
    assert drawn.present.any(dim=-1).all()


def test_a_modality_that_no_scan_has_is_refused(make_store):
    store = make_store("ab", present=(True, False))
    with pytest.raises(ModalityError, match="expected volumes of PET, the store has T"):
        store.select(["PET"])
    with pytest.raises(ModalityError, match="no scan of the store has FLAIR"):
        store.select(["FLAIR"])


@pytest.mark.parametrize("present", [(True, True), (True, False)])
def test_half_precision_reads_the_same_numbers_without_mapping_files(
    make_store, monkeypatch, present
):
    store = make_store("abcd", present=present)
    half, plain = store.in_half_precision(), store.draw(1, 3, seed=2)
    monkeypatch.setattr(np, "load", None)
    batch = half.draw(1, 3, seed=2)
    assert batch.volumes.dtype == batch.foreground.dtype == torch.float16
    moved = batch.to(torch.device("cpu"))
    for name in ("volumes", "present", "foreground"):
        assert torch.equal(getattr(moved, name), getattr(plain, name))
        assert getattr(moved, name).dtype == getattr(plain, name).dtype


def test_half_precision_reads_copies_and_other_layouts_too(make_visits):
    store = make_visits([{}, {"present": (False, True), "degradation": "noise"}])
    array = np.load(store.folder / "0.npy")
    np.save(store.folder / "0.npy", np.asfortranarray(array))
    for used in (store, store.select(["FLAIR"])):
        half = used.in_half_precision().draw_pairs(0, 1, seed=0)
        plain = used.draw_pairs(0, 1, seed=0)
        moved = half.to(torch.device("cpu"))
        assert torch.equal(moved.volumes, plain.volumes)
        assert torch.equal(moved.reference.volumes, plain.reference.volumes)
