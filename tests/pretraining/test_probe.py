from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.probe import LinearProbe
from brainfeat.pretraining.source import SubjectBatch
from brainfeat.slabs.grid import SlabGrid

SHAPE = (12, 16, 8)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = EncoderConfig(
        modalities=("T1w", "T2w"),
        thickness=2,
        patch_size=4,
        image_size=(16, 12),
        embed_dim=24,
        depth=1,
        num_heads=3,
    )
    return SlabEncoder(config).eval()


def make_subjects(n_subjects, shape=SHAPE, labels=None):
    volumes = torch.randn(n_subjects, 1, 2, *shape)
    if labels is not None:
        volumes[labels] += 2.0
    present = torch.ones(n_subjects, 1, 2, dtype=torch.bool)
    present[1, 0, 1] = False
    foreground = torch.rand(n_subjects, 1, *shape) < 0.5
    return SubjectBatch(volumes, present, foreground.float())


def alternating(n_subjects):
    return torch.arange(n_subjects) % 2 == 0


@pytest.mark.parametrize("background", ["kept", "skipped"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_probe_encodes_the_slabs_of_an_embedding(encoder, plane, background):
    torch.manual_seed(0)
    # With the initial LayerScale of a training, patches hardly interact.
    config = replace(encoder.config, background=background, layer_scale=1.0)
    encoder = SlabEncoder(config).eval()
    subjects = make_subjects(2, SHAPE if plane == "axial" else (8, 16, 12))
    subjects.foreground[:, :, :6, :9] = 0
    rows = LinearProbe(subjects, [False, True], plane=plane).embed(encoder)
    grid = SlabGrid(thickness=2, plane=plane)
    for number, row in enumerate(rows):
        slabs = grid.extract(subjects.volumes[number, 0].numpy())
        foreground = subjects.foreground[number, 0].numpy() > 0
        fractions = grid.token_fractions(foreground, 4)
        if background == "skipped":
            fractions[fractions < 0.1] = 0.0
        fractions = torch.from_numpy(fractions)[None]
        with torch.no_grad():
            output = encoder(
                torch.from_numpy(slabs)[None],
                present=subjects.present[number],
                foreground=fractions > 0,
            )
        expected = pool_tokens(output, fractions)[0]
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_subjects_that_were_trained_on_are_not_scored():
    # With more columns than rows the probe fits any labels of its training rows.
    rows = np.random.default_rng(0).normal(size=(40, 200)).astype(np.float32)
    probe = LinearProbe(make_subjects(40), alternating(40))
    assert 0.25 < probe.score(rows) < 0.75


@pytest.mark.parametrize("n_positive", [2, 12])
def test_classes_that_differ_are_separated(n_positive):
    rng = np.random.default_rng(0)
    labels = np.arange(24) < n_positive
    rows = rng.normal(size=(24, 5)) + 6 * labels[:, None]
    probe = LinearProbe(make_subjects(24), labels)
    assert probe.score(rows) > 0.95
    # Units and constant columns make no difference.
    scaled = np.hstack([rows * [1, 9, 0.1, 1e4, 1], np.full((24, 2), 4.0)])
    assert probe.score(scaled) == pytest.approx(probe.score(rows))


def test_score_is_a_function_of_the_encoder(encoder):
    torch.manual_seed(0)
    labels = alternating(12)
    probe = LinearProbe(make_subjects(12, labels=labels), labels)
    first = probe(encoder)
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002 (scikit-learn's default source)
    assert probe(encoder) == first > 0.95
