import numpy as np
import pytest

from brainfeat import BrainFoundEmbedder, SegmentationEstimator
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.exceptions import CheckpointError, ConfigError, ModalityError
from brainfeat.subjects.contract import (
    check_checkpoint_name,
    check_modalities,
    check_weights,
    read_subjects,
)


def test_a_checkpoint_is_named(tmp_path):
    for name in ("brainfound-tiny", tmp_path):
        check_checkpoint_name(name)
    with pytest.raises(ConfigError, match="expected a name or a folder, got ndarray"):
        check_checkpoint_name(np.zeros(3))


def test_other_weights_are_told_by_both_fingerprints():
    check_weights("mine", "a" * 64, "a" * 64)
    with pytest.raises(CheckpointError, match=r"mine: .*\(a{12}\), got others \(b{12}"):
        check_weights("mine", "a" * 64, "b" * 64)


@pytest.mark.parametrize("kind", [BrainFoundEmbedder, SegmentationEstimator])
def test_a_modality_that_fit_did_not_see_is_refused(kind):
    check_modalities(kind(), ("T1w", "T2w"), ["T2w"])
    with pytest.raises(ModalityError, match=f"{kind.__name__} was .* got .*FLAIR"):
        check_modalities(kind(), ("T1w",), ["T1w", "FLAIR"])


def test_subjects_have_the_modalities_of_the_checkpoint(tmp_path):
    checkpoint = Checkpoint.load("brainfound-tiny")
    path = tmp_path / "scan.nii"
    path.touch()
    table = read_subjects([path], checkpoint, "T2w")
    assert table.modalities == ("T2w",)
    with pytest.raises(ModalityError, match="PET"):
        read_subjects([path], checkpoint, "PET")


@pytest.mark.parametrize("kind", [BrainFoundEmbedder, SegmentationEstimator])
def test_images_are_no_rows_of_numbers(kind):
    tags = kind().__sklearn_tags__().input_tags
    assert not tags.two_d_array
    assert tags.string
    assert tags.allow_nan
