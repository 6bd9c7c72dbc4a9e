import threading
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat.exceptions import VolumeError
from brainfeat.models import threads
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.quality import Quality
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import (
    SegmentationNetwork,
    init_decoder,
)
from brainfeat.segmentation.prediction import (
    Segmentation,
    segment_subjects,
)
from brainfeat.subjects.subject import Subject

pytestmark = pytest.mark.usefixtures("without_registration")

CLASSES = np.array([0, 7, 300])


@pytest.fixture(scope="module")
def space(checkpoint):
    return SegmentationSpace.of_checkpoint(checkpoint.config, ("FLAIR", "T1w"))


@pytest.fixture(scope="module")
def segmented(space, modality_paths):
    """Class 7 has probability 0.6 in the left half, class 300 has 0.4 in the rest."""
    path = modality_paths["T1w"][0]
    probabilities = np.zeros((3, *space.fine_shape), np.float16)
    middle = probabilities.shape[1] // 2
    probabilities[1, :middle] = 0.6
    probabilities[2, middle:] = 0.4
    probabilities[0] = 1 - probabilities[1:].sum(axis=0)
    inputs = space.read(Subject("x", {"T1w": path}))
    return Segmentation(path, inputs, probabilities, space, CLASSES, inputs.grids[0])


def test_most_probable_class_is_chosen_in_native_voxels(segmented):
    image = segmented.to_label_map()
    source = nib.load(segmented.source)
    assert image.shape == source.shape
    np.testing.assert_array_equal(image.affine, source.affine)
    labels = np.asarray(image.dataobj)
    assert set(np.unique(labels)) == {0, 7}
    world = nib.affines.apply_affine(image.affine, np.argwhere(labels == 7))
    assert world[:, 0].max() < 4  # mm: a voxel of the encoder's grid
    np.testing.assert_array_equal(segmented.labels(), labels)


def test_probabilities_sum_to_one(segmented):
    probabilities = np.asarray(segmented.to_probability_map().dataobj)
    assert probabilities.shape == (*segmented.inputs.native.shape, 3)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, atol=1e-6)
    inside = probabilities[tuple(size // 4 for size in probabilities.shape[:3])]
    np.testing.assert_allclose(inside, [0.4, 0.6, 0.0], atol=1e-3)


def test_labels_are_of_the_most_probable_class(segmented):
    probabilities = np.asarray(segmented.to_probability_map().dataobj)
    rng = np.random.default_rng(2)
    values = rng.random((3, *segmented.probabilities.shape[1:])) ** 9
    values[2, 20:] = 0
    values = (values / values.sum(axis=0)).astype(np.float16)
    mixed = segmented._replace(probabilities=values)
    probabilities = np.asarray(mixed.to_probability_map().dataobj)
    labels = mixed.labels()
    ordered = np.sort(probabilities, axis=-1)
    is_clear = ordered[..., -1] - ordered[..., -2] > 2e-3
    expected = CLASSES[probabilities.argmax(axis=-1)]
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(labels[is_clear], expected[is_clear])
    chosen = probabilities.max(axis=-1)
    labelled = mixed.label()
    inside = segmented.space.to_native(np.ones(values.shape[1:]), segmented.inputs) > 0
    np.testing.assert_allclose(
        labelled.uncertainty[is_clear & inside],
        1 - chosen[is_clear & inside],
        atol=2e-3,
    )


def test_nothing_is_predicted_outside_the_found_brain(segmented):
    brain = segmented.space.brain_on(segmented.inputs, segmented.grid)
    inside = segmented._replace(in_brain=True)
    labels = segmented.labels()
    assert labels[~brain].any()
    np.testing.assert_array_equal(inside.labels(), np.where(brain, labels, 0))
    probabilities = np.asarray(inside.to_probability_map().dataobj)
    assert (probabilities[~brain][:, 0] == 1).all()
    assert not inside.label().uncertainty[~brain].any()


def test_voxels_without_a_probable_class_are_background(segmented):
    nowhere = segmented._replace(probabilities=np.zeros_like(segmented.probabilities))
    assert not nowhere.labels().any()
    probabilities = np.asarray(nowhere.to_probability_map().dataobj)
    assert (probabilities[..., 0] == 1.0).all()


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0, 1, 2], np.uint8),
        ([0, 1, 255], np.uint8),
        ([0, 1, 256], np.uint16),
        ([0, 1, 70_000], np.int32),
        ([0, -1, 1], np.int32),
    ],
)
def test_smallest_type_holds_the_classes(segmented, classes, expected):
    image = segmented._replace(classes=np.array(classes)).to_label_map()
    assert image.get_data_dtype() == expected


def test_subjects_come_in_order_with_their_first_image(
    checkpoint, space, modality_paths
):
    grid = Preprocessor(shape=(24, 32, 20), spacing=8.0, alignment="none")
    space = replace(space, preprocessor=grid)
    network = SegmentationNetwork(
        space=space,
        encoder=checkpoint.build_encoder(),
        decoder=init_decoder(checkpoint.config.encoder, space, 3, seed=0).eval(),
        prior=torch.full((3, 12, 16, 10), 1 / 3),
        device=torch.device("cpu"),
    )
    t1w, flair = modality_paths["T1w"], modality_paths["FLAIR"]
    subjects = [
        Subject("a", {"T1w": t1w[0], "FLAIR": flair[0]}),
        Subject("b", {"T1w": t1w[1]}),
        Subject("c", {"T1w": t1w[2], "FLAIR": None}),
    ]
    outcomes = segment_subjects(
        network, CLASSES, subjects, lambda item: item.source, n_jobs=2
    )
    assert [o.unwrap() for o in outcomes] == [flair[0], t1w[1], t1w[2]]


class FakeInput(str):
    """What is read of a subject, whose quality is not known."""

    coarse = SimpleNamespace(quality=None)

    def grid_of(self, _):
        return SimpleNamespace(modality="T1w")


@pytest.fixture
def stub():
    """A network that reads the key of a subject, and predicts zero."""
    space = SimpleNamespace(
        read=lambda subject: FakeInput(subject.key), modalities=("T1w",)
    )
    return SimpleNamespace(
        space=space,
        device=torch.device("cpu"),
        probabilities=lambda *_: (np.zeros(1), None),
    )


def make_subjects(n_subjects):
    return [Subject(f"sub-{i}", {"T1w": f"{i}.nii"}) for i in range(n_subjects)]


def segment(network, subjects, **options):
    options = {"n_jobs": 1} | options
    return [
        *segment_subjects(network, CLASSES, subjects, lambda s: s.source, **options)
    ]


def test_failure_is_an_outcome_and_others_are_segmented(stub):
    def read(subject):
        if subject.participant_id == "sub-1":
            raise VolumeError("1.nii: cut short.")
        return FakeInput(subject.key)

    def probabilities(key, _):
        if "2.nii" in key:
            raise RuntimeError("out of memory")
        return np.zeros(1), None

    stub.space.read, stub.probabilities = read, probabilities
    outcomes = segment(stub, make_subjects(4))
    assert [o.status for o in outcomes] == ["done", "failed", "failed", "done"]
    assert [o.subject.participant_id for o in outcomes] == [
        f"sub-{i}" for i in range(4)
    ]
    with pytest.raises(VolumeError, match="cut short"):
        outcomes[1].unwrap()


def test_doubts_are_one_warning_or_failures(stub, caplog):
    def read(subject):
        inputs = FakeInput(subject.key)
        doubt = "" if subject.participant_id == "sub-2" else "far off"
        inputs.coarse = SimpleNamespace(quality=Quality(0.9, 1400.0, doubt))
        return inputs

    stub.space.read = read
    outcomes = segment(stub, make_subjects(4))
    assert [o.status for o in outcomes] == ["done"] * 4
    (message,) = caplog.messages
    assert message.startswith("3 subjects in doubt: 0.nii: far off; 1.nii: far off")
    outcomes = segment(stub, make_subjects(4), strict=True)
    assert [o.status for o in outcomes] == ["failed", "failed", "done", "failed"]
    assert str(outcomes[1].error) == "1.nii: in doubt: far off"
    assert len(caplog.messages) == 1


def test_what_is_done_is_not_read(stub):
    names = []
    stub.space.read = lambda subject: (
        names.append(subject.participant_id) or FakeInput("read")
    )
    outcomes = segment(
        stub, make_subjects(3), is_done=lambda s: s.participant_id == "sub-1"
    )
    assert [o.status for o in outcomes] == ["done", "skipped", "done"]
    assert names == ["sub-0", "sub-2"]


def test_next_subject_is_read_while_one_is_segmented(stub, monkeypatch):
    monkeypatch.setattr(threads, "count_threads", lambda *_: 1)
    both = threading.Barrier(2, timeout=30)

    def read(subject):
        if subject.participant_id == "sub-1":
            both.wait()  # until the first is being segmented
        return FakeInput(subject.key)

    def probabilities(key, _):
        if "0.nii" in key:
            both.wait()  # until the second is being read
        return np.zeros(1), None

    stub.space.read, stub.probabilities = read, probabilities
    assert [o.status for o in segment(stub, make_subjects(2))] == ["done", "done"]


def test_subjects_are_segmented_in_several_threads_of_a_cpu(stub, monkeypatch):
    monkeypatch.setattr(threads, "count_threads", lambda *_: 2)
    both = threading.Barrier(2, timeout=30)
    stub.probabilities = lambda *_: (both.wait(), None)
    outcomes = segment(stub, make_subjects(4), n_jobs=2)
    assert [o.unwrap() for o in outcomes] == [f"{i}.nii" for i in range(4)]
