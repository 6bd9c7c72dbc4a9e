from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.pooling import pool_tokens
from brainfeat.pretraining.probe import LinearProbe, area_under_curve, fit_logistic
from brainfeat.pretraining.subjects import SubjectBatch
from brainfeat.slabs.grid import SlabGrid


@pytest.fixture
def rows():
    torch.manual_seed(0)
    labels = torch.arange(30) % 3 == 0
    return torch.randn(30, 7) * torch.arange(1, 8) + labels[:, None], labels


@pytest.fixture
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


def make_subjects(n_subjects, shape, labels=None):
    volumes = torch.randn(n_subjects, 1, 2, *shape)
    if labels is not None:
        volumes[labels] += 2.0
    present = torch.ones(n_subjects, 1, 2, dtype=torch.bool)
    present[1, 0, 1] = False
    foreground = torch.rand(n_subjects, *shape) < 0.5
    return SubjectBatch(volumes, present, foreground.float())


@pytest.mark.parametrize("penalty", [0.3, 1.0, 5.0])
def test_logistic_regression_is_scikit_learns(rows, penalty):
    x, y = rows
    ours = fit_logistic(x[:20], y[:20], penalty=penalty)(x[20:])
    scaler = StandardScaler().fit(x[:20])
    theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000)
    theirs.fit(scaler.transform(x[:20]), y[:20])
    expected = theirs.decision_function(scaler.transform(x[20:]))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_constant_columns_do_not_matter(rows):
    x, y = rows
    wider = torch.cat([x, torch.full((30, 2), 4.0)], dim=1)
    torch.testing.assert_close(fit_logistic(wider, y)(wider), fit_logistic(x, y)(x))


def test_area_under_curve_is_scikit_learns():
    torch.manual_seed(0)
    scores = torch.randint(5, (40,)).float()  # with ties
    labels = torch.rand(40) < 0.4
    expected = roc_auc_score(labels, scores)
    assert area_under_curve(scores, labels) == pytest.approx(expected)


@pytest.mark.parametrize("background", ["kept", "skipped"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_probe_sees_the_slabs_that_embedding_does(encoder, plane, background):
    torch.manual_seed(0)
    # Patches hardly see each other with the first LayerScale of a training.
    config = replace(encoder.config, background=background, layer_scale=1.0)
    encoder = SlabEncoder(config).eval()
    subjects = make_subjects(2, (12, 16, 8) if plane == "axial" else (8, 16, 12))
    subjects.foreground[:, :6, :9] = 0
    probe = LinearProbe(subjects, torch.tensor([False, True]), plane=plane)
    rows = probe.embed(encoder)
    grid = SlabGrid(thickness=2, plane=plane)
    for number, row in enumerate(rows):
        slabs = grid.extract(subjects.volumes[number, 0].numpy())
        foreground = subjects.foreground[number].numpy() > 0
        fractions = grid.token_fractions(foreground, 4)
        if background == "skipped":
            fractions[fractions < 0.1] = 0.0
        shares = torch.from_numpy(fractions)[None]
        with torch.no_grad():
            output = encoder(
                torch.from_numpy(slabs)[None],
                present=subjects.present[number],
                foreground=shares > 0,
            )
        expected = pool_tokens(output, shares)
        torch.testing.assert_close(row, expected[0])


def test_score_is_high_where_classes_differ_and_even_where_they_do_not(encoder):
    torch.manual_seed(0)
    labels = torch.arange(24) % 2 == 0
    shape = (12, 16, 8)
    easy = LinearProbe(make_subjects(24, shape, labels), labels, n_train=8)
    hard = LinearProbe(make_subjects(24, shape), labels, n_train=8)
    assert easy(encoder) > 0.95
    assert 0.2 < hard(encoder) < 0.8


def test_score_depends_on_the_encoder_alone(encoder):
    labels = torch.arange(12) % 2 == 0
    probe = LinearProbe(make_subjects(12, (12, 16, 8)), labels, n_train=4)
    first = probe(encoder)
    torch.rand(3)
    assert probe(encoder) == first
