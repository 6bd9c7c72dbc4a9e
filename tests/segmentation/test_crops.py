from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.segmentation.crops import CropPlan, CropSizes
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.store import LabelledStore, LabelledVolumes
from brainfeat.slabs.grid import SlabGrid

SHAPE = (8, 12, 10)
SIZES = CropSizes(n_crops=3, n_slabs=2)
SPACE = SegmentationSpace(
    preprocessor=Preprocessor(shape=SHAPE, spacing=2.0),
    slab_grid=SlabGrid(thickness=2),
    encoder_modalities=("T1w", "T2w"),
    modalities=("T1w", "T2w"),
    allow_missing=False,
)


@pytest.fixture
def store(tmp_path):
    """One subject; class 1 is in the last slab, class 2 in all, class 3 nowhere."""
    counts = np.zeros((1, 4, 5), np.int64)
    counts[0, 1, 4] = 3
    counts[0, 2] = 50
    every = np.ones((1, 2), bool)
    return LabelledStore(tmp_path, (0, 1, 2, 3), counts, every, every, (0, 1, 2, 3), 2)


def draw(store, seed=0, space=SPACE):
    generator = torch.Generator().manual_seed(seed)
    return CropPlan.draw(store, np.array([0]), space, sizes=SIZES, generator=generator)


def volumes():
    generator = torch.Generator().manual_seed(1)
    fine = torch.rand(1, 2, 16, 24, 20, generator=generator)
    coarse = torch.nn.functional.avg_pool3d(fine, 2)
    labels = (fine[:, :1] > 0.5).float() * 3
    foreground = torch.ones(1, 1, *SHAPE)
    every = torch.ones(1, 2, dtype=torch.bool)
    return LabelledVolumes(
        torch.cat([coarse, foreground], 1), fine, labels, every, every
    )


def test_rare_class_is_drawn_as_often_as_others(store):
    firsts = [f for seed in range(40) for f in draw(store, seed).first_slabs]
    assert set(firsts) <= {0, 1, 2, 3}
    # Half of the draws are for class 1, which lies in the last of five slabs.
    assert np.mean(np.array(firsts) == 3) > 0.4


def test_subject_without_foreground_shows_background(store):
    counts = np.zeros_like(store.slab_counts)
    counts[0, 0] = 9
    empty = replace(store, slab_counts=counts)
    firsts = [f for seed in range(40) for f in draw(empty, seed).first_slabs]
    assert set(firsts) == {0, 1, 2, 3}


def test_same_seed_gives_the_same_crops(store):
    first, again = (draw(store, 3).apply(volumes(), SPACE) for _ in range(2))
    assert torch.equal(first.voxels, again.voxels)
    assert torch.equal(first.coarse, again.coarse)
    other = draw(store, 4).apply(volumes(), SPACE)
    assert not torch.equal(first.coarse, other.coarse)


def test_shapes_are_those_of_encoder_and_decoder(store):
    crops = draw(store).apply(volumes(), SPACE)
    assert crops.coarse.shape == (1, 3, 10, 12, 8)
    assert crops.foreground.shape == (3, 1, 4, 12, 8)
    assert crops.voxels.shape == (3, 2, 8, 24, 16)
    assert crops.labels.shape == (3, 1, 8, 24, 16)
    assert set(crops.labels.unique().tolist()) <= {0.0, 3.0}


def test_labels_move_with_their_voxels(store):
    # A smooth image whose label is where it is bright, before and after.
    shape = (16, 24, 20)
    i, j, k = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    fine = (torch.sin(i / 4) + torch.cos(j / 5) + torch.sin(k / 3))[None, None]
    labels = (fine > 0).float()
    every = torch.ones(1, 1, dtype=torch.bool)
    coarse = torch.nn.functional.avg_pool3d(fine, 2)
    subject = LabelledVolumes(
        torch.cat([coarse, coarse, coarse], 1),
        fine,
        labels,
        torch.ones(1, 2, dtype=torch.bool),
        every,
    )
    crops = draw(store, 2).apply(subject, replace(SPACE, modalities=("T1w",)))
    for voxels, truth in zip(crops.voxels[:, 0], crops.labels[:, 0], strict=True):
        if truth.mean() in {0.0, 1.0}:
            continue
        # Bias and noise change values, but not which half is the brighter one.
        assert voxels[truth == 1].mean() > voxels[truth == 0].mean() + 0.3


def test_one_of_several_modalities_is_sometimes_hidden(store):
    space = replace(SPACE, allow_missing=True, modalities=("T2w", "T1w"))
    plans = [draw(store, seed, space) for seed in range(60)]
    hidden = [plan for plan in plans if plan.hidden is not None]
    assert 3 <= len(hidden) <= 25
    crops = hidden[0].apply(volumes(), space)
    index = hidden[0].hidden
    assert crops.present.sum() == 3
    assert not crops.present[:, index].any()
    assert not crops.encoder_present[0, [1, 0][index]]
    assert all(draw(store, seed).hidden is None for seed in range(60))
