import sys

import numpy as np
import pytest
import torch

from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.exceptions import MissingDependencyError
from brainfeat.reporting.voxel_maps import attribute_voxels


@pytest.fixture
def gradient(rng):
    return rng.normal(size=24)


def decision(subject, data, encoder, gradient):
    network = shared_encoder(encoder.checkpoint, encoder.device, torch.float32)
    fractions = encoder.grid.token_fractions(subject.foreground)
    with torch.no_grad():
        output = network(
            torch.tensor(encoder.grid.extract(data.astype(np.float32)))[None],
            foreground=torch.tensor(fractions > 0)[None],
        )
    weights = torch.tensor(fractions / fractions.sum())
    mean = torch.einsum("shw,shwd->d", weights, output.patch_tokens[0])
    return float(mean @ torch.tensor(gradient).float())


def test_integrated_gradients_add_up_to_the_change_of_the_decision(
    tokens, small_encoder, gradient
):
    subject, baseline = tokens[1].processed, tokens[0].processed.data
    values = attribute_voxels(
        subject, baseline, small_encoder, gradient, "integrated_gradients"
    )
    assert values.shape == small_encoder.preprocessor.shape
    change = decision(subject, subject.data, small_encoder, gradient)
    change -= decision(subject, baseline, small_encoder, gradient)
    assert values.sum() == pytest.approx(change, rel=0.05, abs=1e-3)


@pytest.mark.parametrize("first", [16, 32], ids=["whole", "cut off by the edge"])
def test_occlusion_is_the_change_without_a_window(
    tokens, small_encoder, gradient, first
):
    subject, baseline = tokens[1].processed, tokens[0].processed.data
    values = attribute_voxels(subject, baseline, small_encoder, gradient, "occlusion")
    hidden = subject.data.copy()
    rows = slice(first, min(first + 16, subject.data.shape[1]))
    window = (slice(None), rows, slice(32, 48), slice(16, 20))
    hidden[window] = baseline[window]
    change = decision(subject, subject.data, small_encoder, gradient)
    change -= decision(subject, hidden, small_encoder, gradient)
    assert values[window[1:]].sum() == pytest.approx(change, rel=0.02, abs=1e-6)
    assert np.ptp(values[window[1:]]) < 1e-9


def test_missing_captum_is_reported(tokens, small_encoder, gradient, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "captum>=0\.7"'):
        attribute_voxels(
            tokens[0].processed,
            tokens[0].processed.data,
            small_encoder,
            gradient,
            "occlusion",
        )
