import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import (
    SegmentationNetwork,
    first_decoder,
)
from brainfeat.segmentation.prediction import (
    SegmentedSubject,
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
    """The left half is 7 by sixty per cent, the rest 300 by forty: too little."""
    path = modality_paths["T1w"][0]
    chances = np.zeros((3, *space.fine_geometry.shape), np.float16)
    middle = chances.shape[1] // 2
    chances[1, :middle] = 0.6
    chances[2, middle:] = 0.4
    chances[0] = 1 - chances[1:].sum(axis=0)
    return SegmentedSubject(
        path, space.read(Subject("x", {"T1w": path})), chances, space
    )


def test_most_probable_class_is_chosen_in_native_voxels(segmented):
    image = segmented.to_label_map(CLASSES)
    source = nib.load(segmented.source)
    assert image.shape == source.shape
    np.testing.assert_array_equal(image.affine, source.affine)
    labels = np.asarray(image.dataobj)
    assert set(np.unique(labels)) == {0, 7}
    world = nib.affines.apply_affine(image.affine, np.argwhere(labels == 7))
    assert world[:, 0].max() < 4  # mm: a voxel of the encoder's grid
    np.testing.assert_array_equal(segmented.choose(CLASSES), labels)


def test_probabilities_sum_to_one(segmented):
    chances = np.asarray(segmented.to_probability_map().dataobj)
    assert chances.shape == (*segmented.placed.native.shape, 3)
    np.testing.assert_allclose(chances.sum(axis=-1), 1.0, atol=1e-6)
    inside = chances[tuple(size // 4 for size in chances.shape[:3])]
    np.testing.assert_allclose(inside, [0.4, 0.6, 0.0], atol=1e-3)


def test_what_no_class_reaches_is_background(segmented):
    nowhere = segmented._replace(probabilities=np.zeros_like(segmented.probabilities))
    assert not nowhere.choose(CLASSES).any()
    chances = np.asarray(nowhere.to_probability_map().dataobj)
    assert (chances[..., 0] == 1.0).all()


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
    image = segmented.to_label_map(np.array(classes))
    assert image.get_data_dtype() == expected


def test_subjects_come_in_order_with_their_first_image(
    checkpoint, space, modality_paths
):
    network = SegmentationNetwork.join(
        checkpoint.config,
        space,
        encoder=checkpoint.build_encoder(),
        decoder=first_decoder(checkpoint.config.encoder, space, 3, seed=0).eval(),
        prior=torch.full((3, 20, 28, 18), 1 / 3),
        device=torch.device("cpu"),
    )
    t1w, flair = modality_paths["T1w"], modality_paths["FLAIR"]
    subjects = [
        Subject("a", {"T1w": t1w[0], "FLAIR": flair[0]}),
        Subject("b", {"T1w": t1w[1]}),
        Subject("c", {"T1w": t1w[2], "FLAIR": None}),
    ]
    found = segment_subjects(network, subjects, lambda item: item.source, n_jobs=2)
    assert list(found) == [flair[0], t1w[1], t1w[2]]
