import dataclasses

import pytest
import torch
from torch import nn

from brainfeat.exceptions import InputError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder

CONFIG = EncoderConfig(
    modalities=("T1w", "T2w"),
    thickness=3,
    patch_size=4,
    image_size=(20, 12),
    embed_dim=24,
    depth=4,
    num_heads=2,
    num_register_tokens=3,
    slab_mixing=(1, 2),
    layer_scale=0.5,
)


def make_encoder(seed=0, **changes):
    torch.manual_seed(seed)
    encoder = SlabEncoder(dataclasses.replace(CONFIG, **changes))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder.eval()


@pytest.fixture
def slabs():
    return torch.randn(2, 7, 6, 20, 12, generator=torch.Generator().manual_seed(1))


def assert_same(output, expected):
    for ours, theirs in zip(output, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def differs(output, expected):
    return any(
        (ours - theirs).abs().max() > 1e-4
        for ours, theirs in zip(output, expected, strict=True)
    )


def test_shapes_of_tokens(slabs):
    output = make_encoder()(slabs)
    assert output.cls_token.shape == (2, 7, 24)
    assert output.patch_tokens.shape == (2, 7, 5, 3, 24)


def test_patch_tokens_follow_their_pixels(slabs):
    encoder = make_encoder(slab_mixing=())
    changed = slabs.clone()
    changed[1, 2, 4, 9, 6] += 100.0  # slab 2, patch (2, 1)
    before, after = (encoder._embed(x, None, None)[0] for x in (slabs, changed))
    rows, tokens = torch.nonzero((before != after).any(-1), as_tuple=True)
    n_prefix = 1 + 3
    assert rows.tolist() == [1 * 7 + 2]
    assert tokens.tolist() == [n_prefix + 2 * 3 + 1]
    output = encoder(slabs).patch_tokens
    order = encoder.forward_intermediates(slabs, [3])[0].patch_tokens
    torch.testing.assert_close(output, order)


def test_row_depends_on_its_own_subject_only(slabs):
    encoder = make_encoder()
    together = encoder(slabs)
    for row in range(2):
        alone = encoder(slabs[row : row + 1])
        assert_same([x[0] for x in alone], [x[row] for x in together])


def test_slabs_are_independent_without_mixing(slabs):
    encoder = make_encoder(slab_mixing=())
    together = encoder(slabs)
    for s in range(7):
        alone = encoder(slabs[:, s : s + 1])
        assert_same([x[:, 0] for x in alone], [x[:, s] for x in together])


def test_slabs_are_independent_while_mixing_is_zero(slabs):
    torch.manual_seed(0)
    encoder = SlabEncoder(CONFIG).eval()
    alone = encoder(slabs[:, 3:4])
    assert_same([x[:, 0] for x in alone], [x[:, 3] for x in encoder(slabs)])


def test_mixing_reaches_two_neighbours_with_two_layers(slabs):
    encoder = make_encoder()
    changed = slabs.clone()
    changed[:, 3] += 1.0
    before, after = encoder(slabs).cls_token, encoder(changed).cls_token
    reached = (before - after).abs().amax((0, 2)) > 1e-5
    assert reached.tolist() == [False, True, True, True, True, True, False]


def test_patch_embedding_is_a_sum_over_modalities(slabs):
    encoder = make_encoder()
    zero = torch.zeros(1)
    parts = [slabs.clone() for _ in range(2)]
    parts[0][:, :, 3:], parts[1][:, :, :3] = zero, zero
    sums = [encoder.patch_embed(part.flatten(0, 1)) for part in parts]
    whole = encoder.patch_embed(slabs.flatten(0, 1)) + encoder.patch_embed.proj.bias
    torch.testing.assert_close(sums[0] + sums[1], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stand_in", [0.0, 1e6, float("nan")])
def test_pixels_of_a_missing_modality_are_ignored(stand_in, slabs):
    encoder = make_encoder()
    present = torch.tensor([[True, True], [True, False]])
    expected = encoder(slabs, present=present)
    changed = slabs.clone()
    changed[1, :, 3:] = stand_in
    assert_same(encoder(changed, present=present), expected)
    changed[1, :, :3] = 0.0  # those of the other modality do
    assert differs(encoder(changed, present=present), expected)


def test_missing_modality_adds_its_own_vector(slabs):
    encoder = make_encoder()
    blank = torch.zeros_like(slabs)
    tokens = [
        encoder._embed(blank, torch.tensor([flags] * 2), None)[0][0, -1]
        for flags in ([True, True], [True, False])
    ]
    expected = encoder.absent_embed[1] - encoder.modality_embed[1]
    torch.testing.assert_close(tokens[1] - tokens[0], expected)


def test_all_present_is_the_default(slabs):
    encoder = make_encoder()
    present = torch.ones(2, 2, dtype=torch.bool)
    assert_same(encoder(slabs, present=present), encoder(slabs))


def test_masked_patches_are_ignored(slabs):
    encoder = make_encoder()
    masks = torch.zeros(2, 7, 5, 3, dtype=torch.bool)
    masks[1, 2, 4, 0] = True
    changed = slabs.clone()
    changed[1, 2, :, 16:20, 0:4] += 5.0
    assert_same(encoder(changed, masks=masks), encoder(slabs, masks=masks))
    assert differs(encoder(changed), encoder(slabs))


def test_any_multiple_of_the_patch_size_is_encoded(slabs):
    output = make_encoder()(slabs[..., :16, :8])
    assert output.patch_tokens.shape == (2, 7, 4, 2, 24)


def test_intermediate_tokens_have_the_requested_order(slabs):
    encoder = make_encoder()
    last, first = encoder.forward_intermediates(slabs, [-1, 0])
    assert_same(last, encoder(slabs))
    assert differs(first, last)
    present = torch.tensor([[True, False], [False, True]])
    (output,) = encoder.forward_intermediates(slabs, [3], present=present)
    assert_same(output, encoder(slabs, present=present))
    with pytest.raises(
        InputError, match=r"blocks: expected indices below 4, got \(4,\)"
    ):
        encoder.forward_intermediates(slabs, [4])


def test_activation_checkpointing_changes_no_gradient(slabs):
    encoder = make_encoder().train()
    gradients = []
    for enabled in (False, True):
        encoder.set_activation_checkpointing(enabled)
        encoder.zero_grad()
        sum(x.square().mean() for x in encoder(slabs)).backward()
        gradients.append(
            [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
        )
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_every_parameter_has_a_gradient(slabs):
    encoder = make_encoder().train()
    masks = torch.zeros(2, 7, 5, 3, dtype=torch.bool)
    masks[0, 1, 2] = True
    present = torch.tensor([[True, True], [True, False]])
    output = encoder(slabs, masks=masks, present=present)
    sum(x.square().sum() for x in output).backward()
    idle = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert idle == set()


def test_drop_path_grows_with_depth_and_layer_scale_is_set():
    encoder = SlabEncoder(dataclasses.replace(CONFIG, drop_path=0.3))
    rates = [block.drop_rate for block in encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert encoder.blocks[2].ls2.gamma.unique().tolist() == [0.5]


def test_half_precision_stays_close(slabs):
    encoder = make_encoder()
    expected = encoder(slabs).patch_tokens
    half = encoder.to(torch.bfloat16)(slabs).patch_tokens
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).norm() / expected.norm() < 0.05


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 7, 5, 20, 12),
            r"expected shape \(B, S, 6, H, W\), got \(2, 7, 5, 20, 12\)",
        ),
        ((7, 6, 20, 12), r"expected shape \(B, S, 6, H, W\)"),
        ((2, 7, 6, 20, 13), r"multiples of the patch size 4, got \(20, 13\)"),
    ],
)
def test_wrong_slabs_are_rejected(shape, message):
    with pytest.raises(InputError, match=message):
        make_encoder()(torch.zeros(shape))


@pytest.mark.parametrize(
    "flags",
    [
        {"present": torch.ones(2, 3, dtype=torch.bool)},
        {"present": torch.ones(2, 2)},
        {"masks": torch.ones(2, 7, 3, 5, dtype=torch.bool)},
        {"foreground": torch.ones(2, 7, 5, 4, dtype=torch.bool)},
    ],
)
def test_wrong_flags_are_rejected(flags, slabs):
    with pytest.raises(InputError, match=rf"{next(iter(flags))}: expected booleans"):
        make_encoder()(slabs, **flags)


def test_tokens_depend_on_the_position_not_on_the_index_of_a_slab(slabs):
    encoder = make_encoder(slab_positions=9, slab_mixing=())
    positions = torch.rand(2, 7)
    order = torch.randperm(7)
    plain = encoder(slabs, positions=positions)
    shuffled = encoder(slabs[:, order], positions=positions[:, order])
    torch.testing.assert_close(shuffled.patch_tokens, plain.patch_tokens[:, order])
    even = ((torch.arange(7) + 0.5) / 7).expand(2, -1)
    torch.testing.assert_close(encoder(slabs, positions=even), encoder(slabs))
    assert not torch.allclose(plain.patch_tokens, encoder(slabs).patch_tokens)


def test_positions_of_another_shape_are_rejected(slabs):
    with pytest.raises(InputError, match=r"positions: expected shape \(2, 7\)"):
        make_encoder(slab_positions=9)(slabs, positions=torch.rand(2, 6))


def test_hierarchical_stem_ignores_missing_modalities_and_trains_all_weights(slabs):
    encoder = make_encoder(stem="hierarchical").train()
    present = torch.tensor([[True, True], [True, False]])
    changed = slabs.clone()
    changed[1, :, 3:] = torch.nan
    torch.testing.assert_close(
        encoder(changed, present=present), encoder(slabs, present=present)
    )
    sum(x.square().sum() for x in encoder(slabs, present=present)).backward()
    stem = dict(encoder.patch_embed.named_parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in stem.values())


SKIPPED = {"background": "skipped", "slab_positions": 5}


def make_foreground():
    """Slabs of different lengths, an empty one and a full one."""
    generator = torch.Generator().manual_seed(2)
    rates = torch.linspace(0.1, 0.9, 7)[:, None, None]
    foreground = torch.rand(2, 7, 5, 3, generator=generator) < rates
    foreground[0, 3], foreground[1, 6] = False, True
    return foreground


def encode_hidden(encoder, slabs, foreground, **flags):
    """Encode all patches, but keep those of the background from all others."""
    x, grid = encoder._embed(slabs, **flags)
    shown = foreground.flatten(2).flatten(0, 1)  # BS hw
    shown = torch.cat([torch.ones(len(x), 4, dtype=torch.bool), shown], 1)
    for index, block in enumerate(encoder.blocks):
        qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~shown[:, None, None], -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + block.ls1(block.attn.proj(mixed))
        x = x + block.ls2(block.mlp(block.norm2(x)))
        if str(index) in encoder.slab_mixing:
            mixing = encoder.slab_mixing[str(index)]
            prefix, patches = encoder._split(x, grid)
            normed = mixing.norm(patches) * foreground[..., None]
            volume = normed.permute(0, 4, 1, 2, 3)
            patches = patches + mixing.conv(volume).permute(0, 2, 3, 4, 1)
            x = torch.cat([prefix, patches.flatten(2, 3).flatten(0, 1)], 1)
    cls_token, patches = encoder._output(x, grid)
    has_brain = foreground.flatten(2).any(2)[..., None]
    return cls_token * has_brain, patches * foreground[..., None]


@pytest.mark.parametrize("stem", ["linear", "hierarchical"])
def test_skipped_background_does_not_change_tokens(slabs, stem):
    foreground = make_foreground()
    flags = {
        "present": torch.tensor([[True, True], [False, True]]),
        "masks": torch.rand(2, 7, 5, 3) < 0.3,
        "positions": torch.rand(2, 7),
    }
    kept = make_encoder(stem=stem, slab_positions=5).train()
    skipping = make_encoder(stem=stem, **SKIPPED).train()
    skipping.load_state_dict(kept.state_dict())
    expected = encode_hidden(kept, slabs, foreground, **flags)
    output = skipping(slabs, foreground=foreground, **flags)
    assert_same(output, expected)
    for tokens in (expected, output):
        sum(x.square().mean() for x in tokens).backward()
    for (name, ours), theirs in zip(
        skipping.named_parameters(), kept.parameters(), strict=True
    ):
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name
        )


def test_packing_a_full_foreground_changes_nothing(slabs):
    kept, skipping = make_encoder(slab_positions=5), make_encoder(**SKIPPED)
    foreground = make_foreground()
    assert_same(kept(slabs, foreground=foreground), kept(slabs))
    assert_same(skipping(slabs), kept(slabs))
    everything = torch.ones_like(foreground)
    assert_same(skipping(slabs, foreground=everything), kept(slabs))


def test_intermediate_tokens_skip_the_background_too(slabs):
    encoder, foreground = make_encoder(**SKIPPED), make_foreground()
    (last,) = encoder.forward_intermediates(slabs, [-1], foreground=foreground)
    assert_same(last, encoder(slabs, foreground=foreground))


def test_no_foreground_gives_zeros(slabs):
    nowhere = torch.zeros(2, 7, 5, 3, dtype=torch.bool)
    output = make_encoder(**SKIPPED)(slabs, foreground=nowhere)
    assert all(not x.any() for x in output)
    assert output.cls_token.shape == (2, 7, 24)


def test_stochastic_depth_drops_whole_slabs_of_different_lengths(slabs):
    encoder = make_encoder(drop_path=0.9, depth=2, slab_mixing=(), **SKIPPED).train()
    foreground = make_foreground()
    x, packing = encoder._embed(slabs, foreground=foreground)
    torch.manual_seed(3)
    changed = (encoder.blocks[1](x, packing) != x).any(1)
    for slab in range(len(packing.slabs)):
        assert changed[packing.row_slabs == slab].unique().numel() == 1
    assert changed.unique().numel() == 2


def test_checkpointed_activations_of_packed_slabs_give_the_same_gradient(slabs):
    encoder = make_encoder(**SKIPPED).train()
    gradients = []
    for enabled in (False, True):
        encoder.set_activation_checkpointing(enabled)
        encoder.zero_grad()
        output = encoder(slabs, foreground=make_foreground())
        output.patch_tokens.square().mean().backward()
        gradients.append(encoder.pos_embed.grad.clone())
    torch.testing.assert_close(*gradients)


ROTARY = {"positions": "rotary", "num_register_tokens": 3, "norm_eps": 1e-5}


@torch.inference_mode()
def test_rotary_positions_are_the_same_without_the_background():
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "thickness": 2}
    config = EncoderConfig(**sizes | ROTARY, background="skipped")
    encoder = SlabEncoder(config).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    kept = SlabEncoder(dataclasses.replace(config, background="kept")).eval()
    kept.load_state_dict(encoder.state_dict())
    slabs = torch.randn(2, 3, config.in_channels, 16, 40)
    everywhere = torch.ones(2, 3, 2, 5, dtype=torch.bool)
    for ours, theirs in zip(
        encoder(slabs, foreground=everywhere), kept(slabs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    foreground = torch.rand(everywhere.shape) < 0.7
    changed = (
        slabs
        + 9 * (~foreground).repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, None]
    )
    for ours, theirs in zip(
        encoder(slabs, foreground=foreground),
        encoder(changed, foreground=foreground),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rotary_positions_tell_places_apart():
    torch.manual_seed(0)
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 2, "modalities": ("T1w",)}
    encoder = SlabEncoder(EncoderConfig(**sizes | ROTARY)).eval()
    assert "pos_embed" not in encoder.state_dict()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    slabs = torch.randn(1, 1, 4, 24, 16)
    swapped = torch.cat([slabs[..., 8:16, :], slabs[..., :8, :], slabs[..., 16:, :]], 3)
    before, after = encoder(slabs).patch_tokens, encoder(swapped).patch_tokens
    assert not torch.allclose(before[0, 0, 0], after[0, 0, 1], atol=1e-3)
