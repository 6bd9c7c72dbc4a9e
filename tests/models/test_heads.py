import pytest
import torch
from torch.nn import functional as F

from brainfeat.models.heads import AnatomyHead, Projector, PrototypeHead


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_projector_is_three_maps_and_a_normalisation():
    projector = Projector(6, hidden_dim=10, out_dim=4)
    tokens = torch.randn(3, 5, 6)
    linear = [layer for layer in projector.layers if isinstance(layer, torch.nn.Linear)]
    hidden = tokens
    for layer in linear[:2]:
        hidden = F.gelu(hidden @ layer.weight.T + layer.bias)
    out = hidden @ linear[2].weight.T + linear[2].bias
    expected = out / out.square().sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(projector(tokens), expected)
    assert len(linear) == 3


def test_projections_keep_their_scale_through_the_maps():
    projector = Projector(64, hidden_dim=96, out_dim=48)
    out = projector.layers(torch.randn(200, 64))
    # Far from where normalising would divide by its guard.
    assert 0.1 < out.std() < 1


def test_projection_of_zero_is_finite():
    projector = Projector(6, hidden_dim=10, out_dim=4)
    tokens = torch.zeros(2, 6, requires_grad=True)
    projected = projector(tokens)
    projected.sum().backward()
    assert torch.equal(projected, torch.zeros(2, 4))
    assert torch.isfinite(tokens.grad).all()


def test_logits_are_cosines_with_the_prototypes():
    head = PrototypeHead(6, 9, hidden_dim=10, bottleneck_dim=4)
    tokens = torch.randn(3, 5, 6)
    logits = head(tokens)
    assert logits.shape == (3, 5, 9)
    projected = head.projector(tokens)
    for k, prototype in enumerate(head.last_layer.weight):
        expected = F.cosine_similarity(projected, prototype, dim=-1)
        torch.testing.assert_close(logits[..., k], expected)
    assert logits.abs().max() <= 1 + 1e-6


def test_lengths_of_prototypes_do_not_matter():
    head = PrototypeHead(6, 9, hidden_dim=10, bottleneck_dim=4)
    tokens = torch.randn(7, 6)
    before = head(tokens)
    with torch.no_grad():
        head.last_layer.weight.mul_(torch.rand(9, 1) + 0.1)
    torch.testing.assert_close(head(tokens), before)


def test_gradient_reaches_every_weight_of_the_head():
    head = PrototypeHead(6, 9, hidden_dim=10, bottleneck_dim=4)
    head(torch.randn(7, 6)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_logits_are_float32_under_autocast():
    head = PrototypeHead(6, 9, hidden_dim=10, bottleneck_dim=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(torch.randn(7, 6))
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_calibrated_sample_has_mean_zero_and_spread_one():
    head = AnatomyHead(6, 3)
    targets = torch.rand(4, 5, 3) * torch.tensor([1.0, 9.0, 0.3]) + 2.0
    weights = torch.rand(4, 5)
    head.calibrate(targets, weights)
    standard = head.standardise(targets)
    fraction = (weights / weights.sum())[..., None]
    mean = (fraction * standard).sum((0, 1))
    variance = (fraction * (standard - mean).square()).sum((0, 1))
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(variance, torch.ones(3), atol=1e-4, rtol=0)


def test_mean_and_spread_invert_the_standardisation():
    head = AnatomyHead(6, 3)
    targets = torch.rand(4, 5, 3)
    head.calibrate(targets, torch.ones(4, 5))
    back = head.standardise(targets) * head.spread + head.mean
    torch.testing.assert_close(back, targets)


def test_patches_without_weight_do_not_count():
    weighted, short = AnatomyHead(6, 3), AnatomyHead(6, 3)
    targets = torch.rand(8, 3)
    weighted.calibrate(targets, torch.tensor([1.0] * 5 + [0.0] * 3))
    short.calibrate(targets[:5], torch.ones(5))
    torch.testing.assert_close(weighted.mean, short.mean)
    torch.testing.assert_close(weighted.spread, short.spread)


def test_weight_of_constant_targets_is_bounded():
    head = AnatomyHead(6, 2)
    targets = torch.stack([torch.full((7,), 0.4), torch.arange(7.0)], dim=-1)
    head.calibrate(targets, torch.ones(7))
    torch.testing.assert_close(head.spread, torch.tensor([0.01, 2.0]))


def test_prediction_is_a_linear_map_of_the_patch_token():
    head = AnatomyHead(6, 3)
    first, second = torch.randn(2, 4, 5, 6)
    assert head(first).shape == (4, 5, 3)
    torch.testing.assert_close(head(2 * first - second), 2 * head(first) - head(second))


def test_calibration_is_saved_with_the_weights():
    head, other = AnatomyHead(6, 3), AnatomyHead(6, 3)
    head.calibrate(torch.rand(9, 3), torch.rand(9))
    other.load_state_dict(head.state_dict())
    targets = torch.rand(2, 3)
    assert torch.equal(head.standardise(targets), other.standardise(targets))
