from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.preprocessing.template import BRAIN_CENTER
from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.training import (
    TRUTH_NAMES,
    TrainingConfig,
    draw_subjects,
    encoder_lattice,
)

LATTICE = encoder_lattice((20, 26, 22), 8.0)
CONFIG = TrainingConfig()


def draw(base, n=3, seed=0, config=CONFIG, modalities=("T1w", "FLAIR")):
    return draw_subjects(
        base,
        n,
        generator=torch.Generator().manual_seed(seed),
        modalities=modalities,
        lattice=LATTICE,
        config=config,
    )


@pytest.fixture(scope="module")
def usual(base):
    return draw(base)


def test_shapes_and_ranges(usual):
    batch = usual
    assert batch.volumes.shape == (3, 2, 20, 26, 22)
    assert batch.truth.shape == (3, len(TRUTH_NAMES), 20, 26, 22)
    assert batch.brain.shape == batch.foreground.shape == (3, 20, 26, 22)
    assert torch.isfinite(batch.volumes).all()
    assert batch.volumes.min() >= 0
    assert torch.isfinite(batch.truth).all()
    fractions = batch.truth[:, :-1]
    assert fractions.min() >= -1e-5
    assert fractions.sum(1).max() <= 1 + 1e-4


def test_same_seed_gives_the_same_batch(base, usual):
    again = draw(base)
    assert torch.equal(usual.volumes, again.volumes)
    assert torch.equal(usual.truth, again.truth)
    assert not torch.equal(usual.volumes, draw(base, seed=1).volumes)


def test_truth_matches_the_volume(base):
    plain = replace(
        CONFIG,
        stripped_fraction=1.0,
        contrast=replace(CONFIG.contrast, random_fraction=0.0, jitter=0.0),
        artifacts=replace(
            CONFIG.artifacts,
            noise=(0.0, 0.0),
            bias=(0.0, 0.0),
            gamma=(1.0, 1.0),
            resolution=(1.0, 1.0),
        ),
    )
    batch = draw(base, config=plain)
    t1 = batch.volumes[:, 0]
    white = batch.truth[:, BRAIN_CLASSES.index("white_matter")] > 0.9
    fluid = batch.truth[:, BRAIN_CLASSES.index("ventricle")] > 0.6
    assert t1[white].mean() > 2 * t1[fluid].mean()
    assert torch.equal(batch.foreground, batch.brain)


def test_full_heads_reach_beyond_the_brain(base):
    batch = draw(base, config=replace(CONFIG, stripped_fraction=0.0))
    assert batch.foreground.sum() > 1.2 * batch.brain.sum()


@pytest.mark.parametrize(
    ("weights", "expected"), [((1.0, 0.0, 0.0), False), ((0.0, 0.0, 1.0), True)]
)
def test_disease_weights_choose_the_disease(base, weights, expected):
    config = replace(CONFIG, disease_weights=weights, healthy_fraction=0.0)
    truth = draw(base, config=config).truth
    assert bool(truth[:, TRUTH_NAMES.index("pathology")].max() > 0.5) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"stripped_fraction": 1.0},
        {"healthy_fraction": 1.0},
        {"ages": (20.0, 30.0)},
        {"disease_weights": (0.0, 1.0, 0.0)},
        {"tissue_sd": 1.0},
    ],
)
def test_each_setting_changes_something(base, usual, change):
    changed = draw(base, config=replace(CONFIG, **change))
    assert not torch.equal(usual.volumes, changed.volumes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stripped_fraction": 1.2},
            r"stripped_fraction: .* in \[0, 1\], got 1.2",
        ),
        ({"tissue_sd": -1.0}, "tissue_sd: expected float >= 0, got -1.0"),
        ({"ages": (90.0, 50.0)}, "ages: expected the lower limit first"),
        ({"disease_weights": (0.0, 0.0, 0.0)}, "disease_weights: .*positive sum"),
        ({"contrast": None}, "contrast: expected ContrastConfig, got None"),
    ],
)
def test_invalid_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**change)


def test_encoder_lattice_covers_the_brain(base):
    lattice = encoder_lattice()
    assert lattice.shape == (80, 104, 80)
    middle = (lattice.affine @ [39.5, 51.5, 39.5, 1.0])[:3]
    np.testing.assert_allclose(middle, BRAIN_CENTER)
    brain = base.lattice.points()[base.labels > 0]
    corners = lattice.points()[[0, -1], [0, -1], [0, -1]]
    assert (brain > corners[0]).all()
    assert (brain < corners[1]).all()


def test_truth_follows_varied_tissues(base, usual):
    varied = draw(base, config=replace(CONFIG, tissue_sd=1.0))
    assert not torch.allclose(varied.truth[:, :-2], usual.truth[:, :-2], atol=0.1)
