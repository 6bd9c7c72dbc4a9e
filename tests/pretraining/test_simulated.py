import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.pretraining.simulated import SimulatedSource, _normalise
from brainfeat.simulation.bases import load_base
from brainfeat.simulation.training import TRUTH_NAMES, TrainingConfig

SHAPE = (20, 26, 22)
MODALITIES = ("T1w", "FLAIR")


@pytest.fixture(scope="module")
def base():
    """The template's anatomy in voxels of 4 mm."""
    return load_base(spacing=4.0)


@pytest.fixture
def build(base):
    """Function that makes a source of volumes of 8 mm."""

    def build(**changes):
        settings = {"modalities": MODALITIES, "shape": SHAPE, "spacing": 8.0}
        return SimulatedSource([base], **settings | changes)

    return build


def assert_equal(first, second):
    for name, value in vars(first).items():
        other = getattr(second, name)
        assert value is other is None or torch.equal(value, other), name


def same_subjects(first, second):
    """Whether each position of two batches has the same subject."""
    pairs = zip(first.volumes, second.volumes, strict=True)
    return [torch.equal(one, other) for one, other in pairs]


def test_batch_has_the_documented_shapes(build):
    source = build()
    batch = source.draw(0, 3, seed=0)
    n_targets = len(TRUTH_NAMES)
    assert batch.volumes.shape == (3, 1, 2, *SHAPE)
    assert batch.present.shape == (3, 1, 2)
    assert batch.present.all()
    assert batch.foreground.shape == (3, 1, *SHAPE)
    assert set(batch.foreground.unique().tolist()) == {0.0, 1.0}
    assert batch.targets.shape == (3, n_targets, *SHAPE)
    assert source.shape == batch.shape
    assert source.targets == TRUTH_NAMES
    assert len(source.target_weights) == n_targets
    assert all(torch.isfinite(part).all() for part in (batch.volumes, batch.targets))


def test_acquisitions_of_a_subject_share_its_anatomy(build):
    batch = build(n_acquisitions=2).draw(0, 2, seed=0)
    assert batch.volumes.shape == (2, 2, 2, *SHAPE)
    assert batch.present.shape == (2, 2, 2)
    brain = batch.targets[0, :-1].sum(dim=0) > 0.9
    first, second = batch.volumes[0, :, 0][:, brain]
    assert not torch.equal(first, second)
    # Tissues explain both contrasts; those of another subject do not.
    tissues = batch.targets[:, :-1][:, :, brain]  # B R N
    own, other = (explained(tissues[row].T, second) for row in (0, 1))
    assert own > 0.3
    assert own > 2 * other


def explained(columns, values):
    """Fraction of the variance of values that columns explain, linearly."""
    columns, values = columns - columns.mean(dim=0), values - values.mean()
    solved = torch.linalg.lstsq(columns, values[:, None], driver="gelsd")
    fit = columns @ solved.solution
    return 1 - float((values - fit[:, 0]).square().sum() / values.square().sum())


def test_any_step_can_be_drawn_at_any_time(build):
    in_order = build(reuse=2)
    drawn = [in_order.draw(step, 2, seed=7) for step in range(4)]
    for step in (3, 0):
        assert_equal(build(reuse=2).draw(step, 2, seed=7), drawn[step])
    assert_equal(in_order.draw(1, 2, seed=7), drawn[1])


def test_positions_take_turns_at_new_subjects(build):
    source = build(reuse=4)
    batches = [source.draw(step, 2, seed=0) for step in range(6)]
    kept = [same_subjects(*pair) for pair in itertools.pairwise(batches)]
    # The second position is half of `reuse` ahead of the first.
    assert kept == [
        [True, True],
        [True, False],
        [True, True],
        [False, True],
        [True, True],
    ]


def test_ranks_split_the_subjects_of_a_step(build):
    whole = build(reuse=2).draw(1, 2, seed=0).volumes
    parts = [
        build(reuse=2).draw(1, 1, seed=0, process=rank, n_processes=2).volumes
        for rank in range(2)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_without_reuse_all_subjects_are_new(build):
    source = build(reuse=1)
    first, second = (source.draw(step, 2, seed=0) for step in (0, 1))
    assert not any(same_subjects(first, second))


def test_subjects_differ_between_positions_and_seeds(build):
    batch, other = (build().draw(0, 2, seed=seed) for seed in (0, 1))
    assert not any(same_subjects(batch, other))
    assert not torch.equal(batch.volumes[0], batch.volumes[1])


def test_foreground_is_brain_with_at_most_a_margin_or_a_head(build):
    batch = build().draw(0, 5, seed=3)
    brain = batch.targets[:, :-1].sum(dim=1) > 0.5
    inside = batch.foreground[:, 0].bool()
    assert (inside & brain).sum() > 0.99 * brain.sum()
    fractions = inside.float().mean(dim=(1, 2, 3))
    assert fractions.unique().numel() > 1


def test_configuration_reaches_the_subjects(build):
    plain = TrainingConfig()
    stripped = replace(plain, stripped_fraction=1.0)
    batches = [
        build(config=config).draw(0, 1, seed=0) for config in (None, plain, stripped)
    ]
    assert_equal(batches[0], batches[1])
    stripped_batch = batches[2]
    brain = stripped_batch.targets[:, :-1].sum(dim=1) > 0.5
    assert torch.equal(stripped_batch.foreground[:, 0].bool(), brain)


def test_preprocessing_has_the_grid(build):
    assert build().preprocessing == {"shape": [*SHAPE], "spacing": 8.0}
    given = {"shape": [1, 2, 3], "bias_correction": True}
    assert build(preprocessing=given).preprocessing == given


def test_normalised_volume_is_clipped_and_standardised(rng):
    # Blocks as wide as the stride, so that the sample is the volume itself.
    blocks = rng.gamma(2.0, 50.0, size=(2, 3, 6, 7, 5))
    inside = rng.random((2, 6, 7, 5)) < 0.6
    volumes, mask = (
        torch.from_numpy(part.repeat(3, -3).repeat(3, -2).repeat(3, -1))
        for part in (blocks.astype("float32"), inside)
    )
    got = _normalise(volumes, mask).numpy()
    for row, modality in np.ndindex(2, 3):
        values = blocks[row, modality][inside[row]]
        low, high = np.percentile(values, [0.5, 99.5])
        values = np.clip(values, low, high)
        expected = np.where(mask[row], volumes[row, modality].clip(low, high), low)
        expected = (expected - values.mean()) / values.std(ddof=1)
        np.testing.assert_allclose(got[row, modality], expected, rtol=1e-3, atol=1e-3)


def test_normalised_volume_ignores_scale_and_offset():
    generator = torch.Generator().manual_seed(0)
    volumes = torch.rand(1, 2, 9, 12, 15, generator=generator)
    mask = torch.rand(1, 9, 12, 15, generator=generator) < 0.7
    changed = _normalise(70 * volumes + 30, mask)
    torch.testing.assert_close(changed, _normalise(volumes, mask), rtol=1e-3, atol=1e-3)


def test_flat_volume_stays_finite():
    mask = torch.ones(1, 6, 5, 4, dtype=torch.bool)
    assert torch.isfinite(_normalise(torch.full((1, 1, 6, 5, 4), 8.0), mask)).all()


def test_pairs_show_one_anatomy_in_other_protocols(build):
    batch = build().draw_pairs(3, 2, seed=1)
    assert batch.volumes.shape == (2, 2, 2, *SHAPE)
    assert batch.foreground.shape == (2, 2, *SHAPE)
    assert batch.reference.volumes.shape == (2, 1, 2, *SHAPE)
    assert batch.reference.present.tolist() == [[[True, False]]] * 2
    again = build().draw_pairs(3, 2, seed=1)
    assert torch.equal(batch.volumes, again.volumes)
    # The ventricle is dark in a clean T1w of the same subject only.
    ventricle = batch.targets[:, TRUTH_NAMES.index("ventricle")] > 0.9
    clean = batch.reference.volumes[:, 0, 0]
    own = torch.stack([clean[n][ventricle[n]].mean() for n in range(2)])
    other = torch.stack([clean[n][ventricle[1 - n]].mean() for n in range(2)])
    assert (own < other).all()
    assert not torch.equal(batch.volumes[:, 0], batch.volumes[:, 1])
