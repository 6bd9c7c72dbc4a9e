from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.segmentation.stacks import StackPlan, StackSizes
from brainfeat.segmentation.store import LabelledStore, LabelledVolumes
from brainfeat.slabs.grid import SlabGrid

SHAPE = (8, 12, 10)
GRID = SlabGrid(thickness=2)
SIZES = StackSizes(n_stacks=3, n_slabs=2)


@pytest.fixture
def store(tmp_path):
    """One subject; class 1 is in the last slab, class 2 in all, class 3 nowhere."""
    counts = np.zeros((1, 4, 5), np.int64)
    counts[0, 1, 4] = 3
    counts[0, 2] = 50
    every = np.ones((1, 2), bool)
    return LabelledStore(tmp_path, (0, 1, 2, 3), counts, every, every, (0, 1, 2, 3), 2)


def draw(store, seed=0, hide=False):
    generator = torch.Generator().manual_seed(seed)
    return StackPlan.draw(
        store,
        np.array([0]),
        SHAPE,
        GRID,
        sizes=SIZES,
        hide=hide,
        generator=generator,
    )


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


def test_rare_class_has_its_turn(store):
    firsts = [f for seed in range(40) for f in draw(store, seed).first_slabs]
    assert set(firsts) <= {0, 1, 2, 3}
    # Half of the draws are for class 1, which lies in the last of five slabs.
    assert np.mean(np.array(firsts) == 3) > 0.4


def test_subject_without_any_class_shows_background(store):
    counts = np.zeros_like(store.slab_counts)
    counts[0, 0] = 9
    empty = replace(store, slab_counts=counts)
    firsts = [f for seed in range(40) for f in draw(empty, seed).first_slabs]
    assert set(firsts) == {0, 1, 2, 3}


def test_same_seed_gives_the_same_stacks(store):
    first, again = (
        draw(store, 3).apply(volumes(), [0, 1], GRID.thickness, 2) for _ in range(2)
    )
    assert torch.equal(first.voxels, again.voxels)
    assert torch.equal(first.coarse, again.coarse)
    other = draw(store, 4).apply(volumes(), [0, 1], GRID.thickness, 2)
    assert not torch.equal(first.coarse, other.coarse)


def test_shapes_are_those_of_encoder_and_decoder(store):
    stacks = draw(store).apply(volumes(), [0, 1], GRID.thickness, 2)
    assert stacks.coarse.shape == (1, 3, 10, 12, 8)
    assert stacks.foreground.shape == (3, 1, 4, 12, 8)
    assert stacks.voxels.shape == (3, 2, 8, 24, 16)
    assert stacks.labels.shape == (3, 1, 8, 24, 16)
    assert set(stacks.labels.unique().tolist()) <= {0.0, 3.0}


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
    stacks = draw(store, 2).apply(subject, [0], GRID.thickness, 2)
    for voxels, truth in zip(stacks.voxels[:, 0], stacks.labels[:, 0], strict=True):
        if truth.mean() in {0.0, 1.0}:
            continue
        # Bias and noise change values, but not which half is the brighter one.
        assert voxels[truth == 1].mean() > voxels[truth == 0].mean() + 0.3


def test_one_of_several_modalities_is_hidden_now_and_then(store):
    plans = [draw(store, seed, hide=True) for seed in range(60)]
    hidden = [plan for plan in plans if plan.hidden >= 0]
    assert 3 <= len(hidden) <= 25
    stacks = hidden[0].apply(volumes(), [1, 0], GRID.thickness, 2)
    place = hidden[0].hidden
    assert stacks.present.sum() == 3
    assert not stacks.present[:, place].any()
    assert not stacks.encoder_present[0, [1, 0][place]]
    assert all(draw(store, seed).hidden == -1 for seed in range(60))
