"""The segmentation that comes with the library names structures without labels."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from brainfeat import SegmentationEstimator
from brainfeat.exceptions import CheckpointError
from brainfeat.io.volumes import to_image
from brainfeat.preprocessing.template import load_template
from brainfeat.segmentation.locate import bundled_models, find_model, locate_model

NAME = "brainfound-tiny-anatomy"


def test_model_is_bundled_and_small():
    assert bundled_models() == [NAME]
    folder = locate_model(NAME)
    assert find_model(NAME) == folder
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8 * 2**20
    assert find_model("brainfound-tiny") is find_model(3) is None
    assert (folder / "README.md").is_file()


def test_unknown_name_lists_the_bundled_models():
    with pytest.raises(CheckpointError, match=NAME):
        SegmentationEstimator.load("brainfound-tiny-anatomi")


@pytest.mark.slow
def test_left_and_right_structures_lie_in_their_halves():
    model = SegmentationEstimator.load(NAME)
    assert model.encoder_ == "brainfound-tiny"
    assert len(model.classes_) == 32
    scan = to_image(load_template("T1w"))
    predicted = model.predict([{"T1w": scan}])[0]
    labels = np.asarray(predicted.dataobj)
    centers = {
        name: apply_affine(predicted.affine, np.argwhere(labels == label).mean(0))
        for label, name in model.names_.items()
        if label and name.rpartition("_")[2] in {"left", "right"}
    }
    assert len(centers) == 28
    for name, (x, _, _) in centers.items():
        assert (x < -3) if name.endswith("left") else (x > 3), name
    hippocampus = np.count_nonzero(labels == 17) * abs(np.linalg.det(predicted.affine))
    assert 1500 < hippocampus < 6500
