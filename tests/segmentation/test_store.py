import resource

import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat.exceptions import InputError, TrainingError
from brainfeat.io.volumes import read_labels, read_volume, to_image
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.store import write_store
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

pytestmark = pytest.mark.usefixtures("without_registration")

SPACE = SegmentationSpace(
    preprocessor=Preprocessor(shape=(24, 32, 20), spacing=8.0),
    slab_grid=SlabGrid(thickness=2, plane="coronal"),
    encoder_modalities=("T1w", "T2w", "FLAIR"),
    modalities=("T1w", "FLAIR"),
    allow_missing=True,
)


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
    return write_store(subjects, label_maps, SPACE, tmp_path, n_jobs=2, verbose=0)


def test_classes_are_those_of_all_subjects(store):
    assert store.classes == (0, -3, 4, 9, 500)
    has_class = store.slab_counts.sum(axis=2) > 0
    assert has_class.tolist() == [
        [True, False, True, True, False],
        [True, True, False, True, True],
    ]
    assert store.present.tolist() == [[True, True], [True, False]]
    assert store.encoder_present[1].tolist() == [True, False, False]


def test_stored_subject_equals_the_subject(store, subjects, label_maps):
    volumes = store.load(0)
    inputs = SPACE.read(subjects[0])
    np.testing.assert_allclose(volumes.fine[0], inputs.voxels, atol=5e-3)
    np.testing.assert_allclose(volumes.coarse[0, :-1], inputs.coarse.data, atol=5e-3)
    np.testing.assert_array_equal(volumes.coarse[0, -1], inputs.coarse.foreground)
    labels = SPACE.to_grid(read_labels(label_maps[0]), inputs)
    stored = np.array(store.classes)[volumes.labels[0, 0].int()]
    np.testing.assert_array_equal(stored, labels)


def test_slabs_are_counted_along_the_encoder_s_plane(store):
    labels = store.load(1).labels[0, 0].numpy()
    slabs = labels.reshape(labels.shape[0], 16, 4, labels.shape[2])
    for index in range(5):
        expected = (slabs == index).sum(axis=(0, 2, 3))
        np.testing.assert_array_equal(store.slab_counts[1, index], expected)


def test_prior_is_a_probability_and_positive_everywhere(store):
    prior = store.prior(np.array([0, 1]))
    assert prior.shape == (5, 12, 16, 10)
    torch.testing.assert_close(prior.sum(0), torch.ones(12, 16, 10))
    assert (prior > 0).all()
    # Class 9 is at the back, class 500 at the front.
    back, front = prior[3].mean((0, 2)), prior[4].mean((0, 2))
    assert back.argmax() < front.argmax()


def test_labels_that_fill_the_grid_leave_a_background(subjects, tmp_path):
    """Or its logarithm in the prior would be minus infinity."""
    wide = Geometry((40, 45, 50), nib.affines.from_matvec(np.eye(3) * 9, [-180] * 3))
    maps = [to_image(Volume(np.full(wide.shape, 3, np.int32), wide))] * 2
    store = write_store(subjects, maps, SPACE, tmp_path, n_jobs=1, verbose=0)
    assert store.slab_counts[:, 0].sum() == 0
    prior = store.prior(np.array([0, 1]))
    assert torch.isfinite(prior.log()).all()
    assert (prior[0] < 1e-3).all()


def test_intensities_are_refused_as_labels(
    subjects, label_maps, modality_paths, tmp_path
):
    image = read_volume(modality_paths["T1w"][0])
    values = (image.data * 1000).astype(np.int32)
    maps = [to_image(Volume(values, image.geometry)), label_maps[1]]
    message = r"^label map of a: expected a label map of at most 2000 classes, got \d+"
    with pytest.raises(InputError, match=message):
        write_store(subjects, maps, SPACE, tmp_path, n_jobs=1, verbose=0)


def test_prior_is_of_the_given_subjects_alone(store):
    # Classes -3 and 500 are those of the second subject.
    prior = store.prior(np.array([0]))
    assert prior.shape == (5, 12, 16, 10)
    assert prior.sum((1, 2, 3)).gt(0).tolist() == [True, False, True, True, False]


def test_label_maps_without_any_foreground_are_refused(
    subjects, modality_paths, tmp_path
):
    nothing = [label(path, 0) for path in modality_paths["T1w"][:2]]
    with pytest.raises(InputError, match=r"labels other than 0 .* in any of 2"):
        write_store(subjects, nothing, SPACE, tmp_path, n_jobs=1, verbose=0)


def test_subject_without_foreground_is_kept(
    subjects, label_maps, modality_paths, tmp_path
):
    maps = [label(modality_paths["T1w"][0], 0), label_maps[1]]
    store = write_store(subjects, maps, SPACE, tmp_path, n_jobs=1, verbose=0)
    assert store.classes == (0, -3, 9, 500)
    assert store.slab_counts[0].sum(axis=1).tolist() == [48 * 64 * 40, 0, 0, 0]
    assert not store.load(0).labels.any()


def test_label_too_small_for_the_grid_does_not_lie_outside(
    subjects, label_maps, tmp_path
):
    like = read_labels(label_maps[0])
    labels = np.zeros_like(like.data)
    middle = tuple(np.argwhere(like.data == 9)[99])
    tiny = like.geometry.affine @ np.diag([0.01, 0.01, 0.01, 1.0])
    tiny[:3, 3] += like.geometry.affine[:3, :3] @ middle
    labels[0, 0, 0] = 9
    maps = [to_image(Volume(labels, Geometry(labels.shape, tiny))), label_maps[1]]
    store = write_store(subjects, maps, SPACE, tmp_path, n_jobs=1, verbose=0)
    assert not store.slab_counts[0, 1:].any()


def test_several_failures_are_reported_at_once(subjects, label_maps, tmp_path):
    flat = Volume(np.ones((9, 9, 9), np.float32), Geometry((9, 9, 9), np.eye(4)))
    subjects = [*subjects, Subject("c", {"T1w": to_image(flat)})]
    halves = nib.Nifti1Image(np.full((9, 9, 9), 0.5, np.float32), np.eye(4))
    maps = [halves, label_maps[1], label_maps[1]]
    message = r"^2 subjects cannot be used: label map of a: .* c: .*contrast"
    with pytest.raises(InputError, match=message):
        write_store(subjects, maps, SPACE, tmp_path, n_jobs=2, verbose=0)
    many = [Subject(f"n{i}", {}) for i in range(99)]
    with pytest.raises(InputError, match=r"^10 subjects .* n9: [^:]*:[^:]*$"):
        write_store(many, [halves] * 99, SPACE, tmp_path, n_jobs=2, verbose=0)


def test_full_disk_is_reported_with_the_remedy(subjects, label_maps, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = r"0_coarse\.npy: cannot be written .* set TMPDIR to a folder with more"
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(TrainingError, match=message):
            write_store(subjects, label_maps, SPACE, tmp_path, n_jobs=1, verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
