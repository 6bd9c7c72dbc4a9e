import numpy as np
import pytest
import torch

from brainfeat.finetuning.adapters import adapt_encoder, merge_updates
from brainfeat.finetuning.network import FrozenTrunk
from brainfeat.models.encoders import build_encoder
from brainfeat.models.volume_config import VolumeConfig

SIZES = {"embed_dim": 12, "depth": 3, "num_heads": 2, "modalities": ("T1w", "FLAIR")}
VOLUMES = {"patch_size": (4, 4, 4), "volume_size": (8, 12, 16), **SIZES}
ENCODERS = {
    "joint": VolumeConfig(**VOLUMES, streams="joint", background="skipped"),
    "averaged": VolumeConfig(**VOLUMES, streams="averaged"),
}


def make_encoder(config):
    torch.manual_seed(0)
    encoder = build_encoder(config).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    return encoder


@pytest.fixture(params=["slabs", *ENCODERS])
def case(request, checkpoint):
    """An encoder with the input of two subjects, the second without FLAIR."""
    generator = torch.Generator().manual_seed(1)
    if request.param == "slabs":
        encoder = checkpoint.build_encoder().requires_grad_(False)
        inputs = torch.randn(2, 3, 6, 16, 24, generator=generator)
        present = torch.tensor([[True, True, True], [True, True, False]])
        foreground = torch.rand(2, 3, 2, 3, generator=generator) > 0.3
    else:
        encoder = make_encoder(ENCODERS[request.param])
        inputs = torch.randn(2, 2, 8, 12, 16, generator=generator)
        present = torch.tensor([[True, True], [True, False]])
        foreground = torch.rand(2, 2, 3, 4, generator=generator) > 0.3
    return encoder, inputs, {"present": present, "foreground": foreground}


def test_encoder_in_two_parts_equals_the_whole(case):
    encoder, inputs, known = case
    whole = encoder(inputs, **known)
    for n_blocks in range(encoder.config.depth + 1):
        state = encoder.forward_until(inputs, n_blocks, **known)
        parts = encoder.forward_from(state, n_blocks)
        torch.testing.assert_close(parts.patch_tokens, whole.patch_tokens)
        if whole.cls_token is not None:
            torch.testing.assert_close(parts.cls_token, whole.cls_token)


@pytest.mark.parametrize("adapt", ["lora", "last", "all"])
def test_merged_updates_are_the_adapted_encoder(case, adapt):
    encoder, inputs, known = case
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    adapted = adapt_encoder(encoder, adapt, first_block=1, rank=3, seed=0)
    start = adapted(inputs, **known).patch_tokens
    torch.testing.assert_close(start, encoder(inputs, **known).patch_tokens)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    with torch.no_grad():
        for value in trained.values():
            value.add_(0.1 * torch.randn(value.shape))
    found = adapted(inputs, **known).patch_tokens
    assert not torch.allclose(found, start, atol=1e-3)
    merged = merge_updates(before, {n: p.detach() for n, p in trained.items()})
    assert merged.keys() == before.keys()
    # The original, whose other weights are shared, is as it was.
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name])
    encoder.load_state_dict(merged)
    expected = encoder(inputs, **known).patch_tokens
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_trained_are_only_the_last_blocks(case):
    encoder = case[0]
    last = encoder.config.depth - 1
    for adapt in ("lora", "last"):
        adapted = adapt_encoder(encoder, adapt, first_block=last, rank=3, seed=0)
        names = [n for n, p in adapted.named_parameters() if p.requires_grad]
        assert all(n.startswith((f"blocks.{last}.", "norm.")) for n in names)


def test_gradients_reach_the_updates_from_what_the_trunk_kept(case):
    encoder, inputs, known = case
    first = encoder.config.depth - 1
    trunk = FrozenTrunk(encoder, first, torch.device("cpu"))
    fractions = known["foreground"][:1].float()
    view = trunk.encode(inputs[:1], known["present"][:1], fractions)
    assert view.state.x.dtype == torch.float16
    adapted = adapt_encoder(encoder, "lora", first_block=first, rank=3, seed=0)
    state = view.state._replace(x=view.state.x.float())
    adapted.forward_from(state, first).patch_tokens.square().sum().backward()
    gradients = {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}
    ups = [g for name, g in gradients.items() if name.endswith("lora_up")]
    assert all(float(g.abs().max()) > 0 for g in ups)
    assert np.all([p.grad is None for p in encoder.parameters()])
