import resource
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat.exceptions import InputError, TrainingError
from brainfeat.io.volumes import read_labels, read_volume, to_image
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.store import LabelledStore, write_store
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

pytestmark = pytest.mark.usefixtures("without_registration")

SPACE = SegmentationSpace(
    Preprocessor(shape=(24, 32, 20), spacing=8.0),
    ("T1w", "T2w", "FLAIR"),
    ("T1w", "FLAIR"),
)
GRID = SlabGrid(thickness=2, plane="coronal")


def label(path, *values):
    """A brain whose quarters, from back to front, have these labels."""
    volume = read_volume(path)
    labels = np.zeros(volume.data.shape, np.int32)
    parts = np.array_split(np.arange(labels.shape[1]), len(values))
    for value, part in zip(values, parts, strict=True):
        labels[:, part] = value
    return to_image(Volume(labels * (volume.data > 0), volume.geometry))


@pytest.fixture
def subjects(modality_paths):
    return [
        Subject(
            "a", {"T1w": modality_paths["T1w"][0], "FLAIR": modality_paths["FLAIR"][0]}
        ),
        Subject("b", {"T1w": modality_paths["T1w"][1]}),
    ]


@pytest.fixture
def label_maps(modality_paths):
    return [
        label(modality_paths["T1w"][0], 9, 4),
        label(modality_paths["T1w"][1], 9, -3, 500),
    ]


@pytest.fixture
def store(subjects, label_maps, tmp_path):
    return write_store(subjects, label_maps, SPACE, GRID, tmp_path, n_jobs=2, verbose=0)


def test_classes_are_those_of_all_subjects(store):
    assert store.classes == (0, -3, 4, 9, 500)
    has_class = store.slab_counts.sum(axis=2) > 0
    assert has_class.tolist() == [
        [True, False, True, True, False],
        [True, True, False, True, True],
    ]
    assert store.present.tolist() == [[True, True], [True, False]]
    assert store.encoder_present[1].tolist() == [True, False, False]


def test_stored_subject_is_the_subject(store, subjects, label_maps):
    volumes = store.load(0)
    placed = SPACE.read(subjects[0])
    np.testing.assert_allclose(volumes.fine[0], placed.voxels, atol=5e-3)
    np.testing.assert_allclose(volumes.coarse[0, :-1], placed.coarse.data, atol=5e-3)
    np.testing.assert_array_equal(volumes.coarse[0, -1], placed.coarse.foreground)
    labels = SPACE.to_grid(read_labels(label_maps[0]), placed)
    found = np.array(store.classes)[volumes.labels[0, 0].int()]
    np.testing.assert_array_equal(found, labels)


def test_slabs_are_counted_along_the_encoder_s_plane(store):
    labels = store.load(1).labels[0, 0].numpy()
    slabs = labels.reshape(labels.shape[0], 16, 4, labels.shape[2])
    for place in range(5):
        expected = (slabs == place).sum(axis=(0, 2, 3))
        np.testing.assert_array_equal(store.slab_counts[1, place], expected)


def test_prior_is_a_probability_that_is_nowhere_zero(store):
    prior = store.prior(np.array([0, 1]))
    assert prior.shape == (5, 12, 16, 10)
    torch.testing.assert_close(prior.sum(0), torch.ones(12, 16, 10))
    assert (prior > 0).all()
    # Class 9 is at the back, class 500 at the front.
    back, front = prior[3].mean((0, 2)), prior[4].mean((0, 2))
    assert back.argmax() < front.argmax()


def test_labels_that_fill_the_grid_leave_a_background(subjects, tmp_path):
    """Its logarithm, which the decoder corrects, was minus infinity."""
    wide = Geometry((40, 45, 50), nib.affines.from_matvec(np.eye(3) * 9, [-180] * 3))
    maps = [to_image(Volume(np.full(wide.shape, 3, np.int32), wide))] * 2
    store = write_store(subjects, maps, SPACE, GRID, tmp_path, n_jobs=1, verbose=0)
    assert store.slab_counts[:, 0].sum() == 0
    prior = store.prior(np.array([0, 1]))
    assert torch.isfinite(prior.log()).all()
    assert (prior[0] < 1e-3).all()


def test_intensities_are_no_labels(subjects, label_maps, modality_paths, tmp_path):
    image = read_volume(modality_paths["T1w"][0])
    values = (image.data * 1000).astype(np.int32)
    maps = [to_image(Volume(values, image.geometry)), label_maps[1]]
    message = r"^label map of a: expected a label map of at most 2000 classes, got \d+"
    with pytest.raises(InputError, match=message):
        write_store(subjects, maps, SPACE, GRID, tmp_path, n_jobs=1, verbose=0)


def test_prior_knows_the_rows_that_count_only(store):
    # Classes -3 and 500 are those of the second subject.
    prior = store.prior(np.array([0]))
    assert prior.shape == (5, 12, 16, 10)
    assert prior.sum((1, 2, 3)).gt(0).tolist() == [True, False, True, True, False]


def test_label_maps_without_any_foreground_are_refused(
    subjects, modality_paths, tmp_path
):
    nothing = [label(path, 0) for path in modality_paths["T1w"][:2]]
    with pytest.raises(InputError, match=r"labels other than 0 .* in any of 2"):
        write_store(subjects, nothing, SPACE, GRID, tmp_path, n_jobs=1, verbose=0)


def test_subject_without_foreground_is_kept(
    subjects, label_maps, modality_paths, tmp_path
):
    maps = [label(modality_paths["T1w"][0], 0), label_maps[1]]
    store = write_store(subjects, maps, SPACE, GRID, tmp_path, n_jobs=1, verbose=0)
    assert store.classes == (0, -3, 9, 500)
    assert store.slab_counts[0].sum(axis=1).tolist() == [48 * 64 * 40, 0, 0, 0]
    assert not store.load(0).labels.any()


def test_label_too_small_for_the_grid_is_no_label_beside_it(
    subjects, label_maps, tmp_path
):
    like = read_labels(label_maps[0])
    labels = np.zeros_like(like.data)
    middle = tuple(np.argwhere(like.data == 9)[99])
    tiny = like.geometry.affine @ np.diag([0.01, 0.01, 0.01, 1.0])
    tiny[:3, 3] += like.geometry.affine[:3, :3] @ middle
    labels[0, 0, 0] = 9
    maps = [to_image(Volume(labels, Geometry(labels.shape, tiny))), label_maps[1]]
    store = write_store(subjects, maps, SPACE, GRID, tmp_path, n_jobs=1, verbose=0)
    assert not store.slab_counts[0, 1:].any()


def split(has_class, fraction, *, people=None, seed=0):
    """Split subjects that are not on disk, by their classes."""
    counts = np.array(has_class, np.int64)[:, :, None]
    every = np.ones((len(counts), 1), bool)
    classes = tuple(range(counts.shape[1]))
    store = LabelledStore(Path(), classes, counts, every, every, classes, 2)
    people = np.arange(len(store)) if people is None else np.array(people)
    return store.split(fraction, people, np.random.RandomState(seed))


def test_no_more_are_held_out_than_are_checked():
    train_rows, held_out = split(np.ones((40, 2)), 0.5)
    assert (len(train_rows), len(held_out)) == (36, 4)
    assert sorted([*train_rows, *held_out]) == list(range(40))


def test_last_subject_of_a_class_is_not_held_out():
    has_class = np.ones((5, 3))
    has_class[:, 2] = [0, 0, 1, 0, 0]
    for seed in range(10):
        _, held_out = split(has_class, 0.8, seed=seed)
        assert len(held_out) == 4
        assert 2 not in held_out


def test_all_that_is_wrong_is_told_at_once(subjects, label_maps, tmp_path):
    flat = Volume(np.ones((9, 9, 9), np.float32), Geometry((9, 9, 9), np.eye(4)))
    subjects = [*subjects, Subject("c", {"T1w": to_image(flat)})]
    halves = nib.Nifti1Image(np.full((9, 9, 9), 0.5, np.float32), np.eye(4))
    maps = [halves, label_maps[1], label_maps[1]]
    message = r"^2 subjects cannot be used: label map of a: .* c: .*contrast"
    with pytest.raises(InputError, match=message):
        write_store(subjects, maps, SPACE, GRID, tmp_path, n_jobs=2, verbose=0)
    many = [Subject(f"n{i}", {}) for i in range(99)]
    with pytest.raises(InputError, match=r"^10 subjects .* n9: [^:]*:[^:]*$"):
        write_store(many, [halves] * 99, SPACE, GRID, tmp_path, n_jobs=2, verbose=0)


def test_full_disk_is_told_with_the_remedy(subjects, label_maps, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = r"0_coarse\.npy: cannot be written .* TMPDIR names a folder with more"
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(TrainingError, match=message):
            write_store(
                subjects, label_maps, SPACE, GRID, tmp_path, n_jobs=1, verbose=0
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_subject_without_any_class_is_not_held_out():
    has_class = np.array([[1, 1], [1, 0], [1, 1], [1, 0]])
    for seed in range(10):
        _, held_out = split(has_class, 0.8, seed=seed)
        assert set(held_out) < {0, 2}
        assert len(held_out) == 1


def test_nobody_is_on_both_sides():
    people = np.repeat(np.arange(12), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 9])
    for seed in range(30):
        train_rows, held_out = split(np.ones((30, 2)), 0.3, people=people, seed=seed)
        assert 1 <= len(held_out) <= 4
        assert not set(people[train_rows]) & set(people[held_out])
        # Nobody is lost but further scans of those who are held out.
        assert set(people[train_rows]) | set(people[held_out]) == set(range(12))


def test_share_is_one_of_people():
    people = np.repeat(np.arange(5), 4)
    train_rows, held_out = split(np.ones((20, 2)), 0.1, people=people)
    assert (len(train_rows), len(held_out)) == (20, 0)
    train_rows, held_out = split(np.ones((20, 2)), 0.2, people=people)
    assert (len(train_rows), len(held_out)) == (16, 4)


def test_scan_without_any_class_of_one_who_is_held_out_is_not_checked():
    has_class = np.array([[1, 1], [1, 0], [1, 1], [1, 0]])
    for seed in range(4):
        train_rows, held_out = split(has_class, 0.5, people=[0, 0, 1, 1], seed=seed)
        assert (train_rows.tolist(), held_out.tolist()) in (
            ([2, 3], [0]),
            ([0, 1], [2]),
        )
