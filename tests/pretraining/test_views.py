import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.pretraining.views import DrawnViews, ViewConfig
from brainfeat.slabs.crops import CropConfig
from brainfeat.slabs.grid import SlabGrid
from brainfeat.slabs.intensity import IntensityConfig

SHAPE = (12, 16, 8)
ENCODER = EncoderConfig(
    modalities=("T1w", "T2w", "FLAIR"), thickness=2, patch_size=4, image_size=(16, 12)
)
CONFIG = ViewConfig(
    global_crops=CropConfig(size=(8, 12), n_slabs=3),
    local_crops=CropConfig(size=(4, 8), n_slabs=2, area=(0.2, 0.4)),
    n_global=3,
    n_local=4,
)
STILL = IntensityConfig(gamma=0, contrast=0, bias=0, noise=0, blur=0, coarse=0)
WHOLE = replace(
    CONFIG,
    # The volume itself, in its axial slabs.
    global_crops=CropConfig(
        size=(16, 12),
        n_slabs=4,
        area=(1.0, 1.0),
        aspect=1.0,
        rotation=0.0,
        tilt=0.0,
        thickness_scale=1.0,
        flip=0.0,
        jitter=0.0,
    ),
    intensity=STILL,
)


@pytest.fixture
def subjects():
    """Five subjects in two acquisitions, with two anatomy targets."""
    generator = torch.Generator().manual_seed(2)
    present = torch.rand(5, 2, 3, generator=generator) < 0.6
    present[..., 1] = True
    volumes = torch.randn(5, 2, 3, *SHAPE, generator=generator)
    return SubjectBatch(
        volumes=volumes * present[..., None, None, None],
        present=present,
        foreground=(torch.rand(5, 2, *SHAPE, generator=generator) < 0.7).float(),
        targets=torch.rand(5, 2, *SHAPE, generator=generator),
    )


def draw(config, subjects, *, step=0, seed=0):
    return DrawnViews.draw(
        config,
        ENCODER,
        subjects,
        step=step,
        generator=torch.Generator().manual_seed(seed),
    )


def assert_equal_groups(first, second):
    for name, value in vars(first).items():
        other = getattr(second, name)
        assert (value is None) == (other is None), name
        if value is not None:
            assert torch.equal(value, other), name


def test_views_have_the_shapes_that_the_encoder_expects(subjects):
    views = draw(CONFIG, subjects).apply(subjects, ENCODER)
    global_views, local_views = views.global_views, views.local_views
    assert global_views.slabs.shape == (3, 5, 3, 6, 8, 12)
    assert global_views.present.shape == global_views.visible.shape == (3, 5, 3)
    assert global_views.fractions.shape == global_views.masks.shape == (3, 5, 3, 2, 3)
    assert global_views.targets.shape == (3, 5, 3, 2, 3, 2)
    assert local_views.slabs.shape == (4, 5, 2, 6, 4, 8)
    assert local_views.fractions.shape == (4, 5, 2, 1, 2)


def test_same_draw_gives_the_same_views(subjects):
    drawn = draw(CONFIG, subjects, seed=1)
    first = drawn.apply(subjects, ENCODER)
    again = drawn.apply(subjects, ENCODER)
    redrawn = draw(CONFIG, subjects, seed=1).apply(subjects, ENCODER)
    other = draw(CONFIG, subjects, seed=2).apply(subjects, ENCODER)
    for views in (again, redrawn):
        assert_equal_groups(first.global_views, views.global_views)
        assert_equal_groups(first.local_views, views.local_views)
    assert not torch.equal(first.global_views.slabs, other.global_views.slabs)
    assert not torch.equal(first.local_views.slabs, other.local_views.slabs)


def test_view_without_augmentation_is_the_acquisition_in_slabs(subjects):
    views = draw(WHOLE, subjects).apply(subjects, ENCODER).global_views
    grid = SlabGrid(thickness=2)
    for view in range(3):
        acquisition = view % 2
        assert torch.equal(views.present[view], subjects.present[:, acquisition])
        for subject in range(5):
            volumes = subjects.volumes[subject, acquisition].numpy()
            torch.testing.assert_close(
                views.slabs[view, subject],
                torch.from_numpy(grid.extract(volumes)),
                rtol=1e-4,
                atol=1e-4,
            )


def test_maps_are_averages_over_the_patches_of_the_view(subjects):
    views = draw(WHOLE, subjects).apply(subjects, ENCODER).global_views
    grid = SlabGrid(thickness=2)
    for subject, view in itertools.product(range(5), range(3)):
        foreground = subjects.foreground[subject, view % 2]
        maps = torch.cat([foreground[None], subjects.targets[subject]])
        expected = torch.stack(
            [torch.from_numpy(grid.token_fractions(m.numpy(), 4)) for m in maps], -1
        )
        got = torch.cat(
            [
                views.fractions[view, subject, ..., None],
                views.targets[view, subject],
            ],
            dim=-1,
        )
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_view_does_not_depend_on_other_modalities_and_subjects(subjects):
    drawn = draw(CONFIG, subjects)
    before = drawn.apply(subjects, ENCODER).global_views.slabs
    volumes = subjects.volumes.clone()
    volumes[3] = 9.0
    volumes[:, :, 2] = 5.0
    after = drawn.apply(replace(subjects, volumes=volumes), ENCODER).global_views.slabs
    kept = [0, 1, 2, 4]
    # Channels 4 and 5 are the slices of the third modality.
    assert torch.equal(before[:, kept, :, :4], after[:, kept, :, :4])
    assert not torch.equal(before[:, kept, :, 4:], after[:, kept, :, 4:])


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_at_least_one_present_modality_stays_visible(subjects, probability):
    config = replace(CONFIG, hidden_modalities=probability, n_global=40)
    group = draw(config, subjects).global_views
    assert not (group.visible & ~group.present).any()
    assert group.visible.any(dim=-1).all()
    if probability == 0:
        assert torch.equal(group.visible, group.present)
    if probability == 1:
        assert (group.visible.sum(dim=-1) == 1).all()


def test_subject_without_modalities_has_none_visible(subjects):
    absent = replace(subjects, present=torch.zeros(5, 2, 3, dtype=torch.bool))
    group = draw(CONFIG, absent).global_views
    assert not group.visible.any()


def test_masks_hide_the_requested_fraction_of_global_views_only(subjects):
    config = replace(CONFIG, mask_probability=0.4, mask_ratio=(0.5, 0.5))
    views = draw(config, subjects).apply(subjects, ENCODER)
    n_hidden = views.global_views.masks.flatten(2).sum(dim=2)
    assert n_hidden.unique().tolist() == [0, 9]
    assert (n_hidden > 0).sum() == 6  # of 15 views
    assert views.local_views.masks is None


def test_skipped_background_is_not_masked(subjects):
    foreground = subjects.foreground.clone()
    foreground[:, :, :8] = 0
    subjects = replace(subjects, foreground=foreground)
    drawn = draw(WHOLE, subjects)
    kept = drawn.apply(subjects, ENCODER).global_views
    skipped = drawn.apply(subjects, replace(ENCODER, background="skipped")).global_views
    is_brain = kept.fractions >= 0.1
    assert kept.masks[~is_brain].any()
    assert torch.equal(skipped.masks, kept.masks & is_brain)
    assert torch.equal(skipped.fractions > 0, is_brain)
    assert torch.equal(skipped.fractions[is_brain], kept.fractions[is_brain])


def test_planes_take_turns(subjects):
    config = replace(WHOLE, planes=("coronal", "axial"))
    first, second, third = (
        draw(config, subjects, step=step).global_views.boxes.matrices
        for step in (0, 1, 2)
    )
    # The volume axis of the slices is j in coronal and k in axial slabs.
    assert first[0, 0, :, 0].nonzero().item() == 1
    assert second[0, 0, :, 0].nonzero().item() == 2
    assert torch.equal(first, third)


def test_views_of_a_subject_are_near_each_other(subjects):
    config = replace(
        CONFIG,
        global_crops=replace(CONFIG.global_crops, n_slabs=1, jitter=0.0),
        local_crops=replace(CONFIG.local_crops, n_slabs=1, jitter=0.0),
    )
    drawn = draw(config, subjects)
    middles = []
    for group in (drawn.global_views, drawn.local_views):
        half = (torch.tensor(group.boxes.size) - 1.0) / 2
        linear, start = group.boxes.matrices[..., :3], group.boxes.matrices[..., 3]
        middles.append((linear @ half + start)[..., 2])  # B V
    along = torch.cat(middles, dim=1)
    assert (along.amax(dim=1) - along.amin(dim=1)).max() < 0.2
    assert along[:, 0].std() > 0.5


def test_no_local_views_and_no_targets_are_none(subjects):
    bare = replace(subjects, targets=None)
    views = draw(replace(CONFIG, n_local=0), bare).apply(bare, ENCODER)
    assert views.local_views is None
    assert views.global_views.targets is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_global": 0}, "n_global"),
        ({"n_local": -1}, "n_local"),
        ({"planes": ()}, "planes"),
        ({"planes": ("oblique",)}, "oblique"),
        ({"hidden_modalities": 1.2}, "hidden_modalities"),
        ({"mask_probability": -0.2}, "mask_probability"),
        ({"mask_ratio": (0.0, 0.5)}, "mask_ratio"),
        ({"mask_ratio": (0.5, 1.0)}, r"\(0\.5, 1\.0\)"),
        ({"mask_ratio": (0.5, 0.4)}, r"\(0\.5, 0\.4\)"),
    ],
)
def test_impossible_views_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ViewConfig(**changes)


def test_whole_views_are_the_acquisitions_in_all_slabs(subjects):
    for planes, axes in ((("axial",), (2, 1, 0)), (("coronal",), (1, 2, 0))):
        config = replace(
            CONFIG, global_boxes="whole", intensity=STILL, n_local=0, planes=planes
        )
        views = draw(config, subjects).apply(subjects, ENCODER).global_views
        grid = SlabGrid(thickness=2, plane=planes[0])
        assert views.masks.shape == views.fractions.shape
        for view, subject in itertools.product(range(3), range(5)):
            volumes = subjects.volumes[subject, view % 2].numpy()
            expected = torch.from_numpy(grid.extract(volumes))
            torch.testing.assert_close(
                views.slabs[view, subject], expected, rtol=1e-4, atol=1e-4
            )
        assert views.slabs.shape[3:] == (6, *(SHAPE[axis] for axis in axes[1:]))


@pytest.mark.parametrize("boxes", ["shared", "whole"])
def test_patches_of_all_views_and_of_the_reference_correspond(subjects, boxes):
    same = subjects.volumes[:, :1].expand(-1, 2, -1, -1, -1, -1)
    clean = SubjectBatch(
        same[:, :1], subjects.present[:, :1], subjects.foreground[:, 1]
    )
    subjects = replace(subjects, volumes=same, reference=clean)
    config = replace(CONFIG, global_boxes=boxes, intensity=STILL)
    views = draw(config, subjects).apply(subjects, ENCODER)
    group, reference = views.global_views, views.reference
    for view in range(3):
        torch.testing.assert_close(
            group.slabs[view], reference.slabs[0], rtol=1e-4, atol=1e-4
        )
    assert torch.equal(group.fractions[1], reference.fractions[0])
    assert torch.equal(reference.visible[0], subjects.present[:, 0])
    own = draw(replace(config, global_boxes="own"), subjects).apply(subjects, ENCODER)
    assert own.reference is None
    assert not torch.equal(own.global_views.slabs[0], own.global_views.slabs[1])


def test_structures_are_the_fractions_of_their_labels(subjects):
    generator = torch.Generator().manual_seed(8)
    labels = torch.randint(4, (5, 2, *SHAPE), generator=generator, dtype=torch.uint8)
    members = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # L R
    known = torch.tensor([[True, False]]).expand(5, 2)
    subjects = replace(
        subjects,
        targets=None,
        labels=labels,
        members=members.expand(5, -1, -1),
        known=known,
    )
    config = replace(CONFIG, global_boxes="whole", intensity=STILL, n_local=0)
    views = draw(config, subjects).apply(subjects, ENCODER).global_views
    assert views.targets.shape == (3, 5, 4, 4, 3, 2)
    assert torch.equal(views.known, known)
    grid = SlabGrid(thickness=2)
    for view, subject in itertools.product(range(3), range(5)):
        for structure, values in enumerate([(1, 3), (2,)]):
            is_inside = np.isin(labels[subject, view % 2].numpy(), values)
            expected = torch.from_numpy(grid.token_fractions(is_inside, 4))
            torch.testing.assert_close(
                views.targets[view, subject, ..., structure], expected
            )
