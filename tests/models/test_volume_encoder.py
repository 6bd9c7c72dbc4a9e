import dataclasses

import pytest
import torch

from brainfeat.exceptions import InputError
from brainfeat.models.feed_forward import ExpertConfig, ExpertMlp
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.models.volume_encoder import VolumeEncoder
from brainfeat.models.volume_positions import resize_positions

CONFIG = VolumeConfig(
    modalities=("T1w", "FLAIR"),
    patch_size=(2, 3, 4),
    volume_size=(4, 9, 16),
    embed_dim=48,
    depth=3,
    num_heads=2,
    mlp_ratio=1.5,
)
SHAPE = (6, 9, 8)  # 3 x 3 x 2 patches, other than the stored 2 x 3 x 4
EXPERTS = ExpertConfig(
    blocks=(1,), num_experts=5, num_active=2, hidden_dim=7, shared_dim=9, scale=3.0
)
WIDE = {"embed_dim": 128, "positions": "rotary", "num_heads": 2}
KINDS = {
    "learned": {},
    "class token": {"has_cls_token": True, "layer_scale": 0.3},
    "joint": {"streams": "joint", "has_cls_token": True},
    "concatenated": {"positions": "concatenated", "gelu": "tanh"},
    "sinusoidal": {"positions": "sinusoidal"},
    "rotary": WIDE | {"gate": True},
    "joint rotary": WIDE | {"streams": "joint"},
    "experts": {"positions": "none", "experts": EXPERTS},
}


def make_encoder(**changes):
    torch.manual_seed(0)
    encoder = VolumeEncoder(dataclasses.replace(CONFIG, **changes))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def subjects(n=3):
    torch.manual_seed(1)
    return torch.randn(n, 2, *SHAPE)


def flags(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def assert_same(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_shapes_and_last_block(kind):
    encoder, volumes = make_encoder(**KINDS[kind]), subjects()
    output = encoder(volumes)
    dim = encoder.config.embed_dim
    assert output.patch_tokens.shape == (3, 3, 3, 2, dim)
    assert (output.cls_token is not None) == encoder.config.has_cls_token
    first, last = encoder.forward_intermediates(volumes, [0, -1])
    assert_same(last, output)
    assert not torch.allclose(first.patch_tokens, last.patch_tokens)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_missing_modality_has_no_influence(kind):
    encoder, volumes = make_encoder(**KINDS[kind]), subjects()
    present = flags([1, 0], [1, 1], [0, 1])
    holes = volumes.clone()
    holes[0, 1] = holes[2, 0] = torch.nan
    output = encoder(holes, present=present)
    assert output.patch_tokens.isfinite().all()
    for row in range(3):
        alone = encoder(holes[row, None], present=present[row, None])
        expected = [None if x is None else x[row, None] for x in output]
        assert_same(alone, expected)


@torch.inference_mode()
def test_modalities_alone_are_averaged():
    encoder, volumes = make_encoder(has_cls_token=True), subjects()
    both = encoder(volumes)
    single = [encoder(volumes, present=flags(*[p] * 3)) for p in ([1, 0], [0, 1])]
    assert_same(both, [(a + b) / 2 for a, b in zip(*single, strict=True)])
    assert_same(both, encoder(volumes, present=flags(*[[1, 1]] * 3)))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "joint rotary"])
@torch.inference_mode()
def test_skipped_background_has_no_influence_and_zero_tokens(kind):
    encoder = make_encoder(**KINDS[kind], background="skipped")
    kept = make_encoder(**KINDS[kind])
    volumes = subjects()
    everywhere = torch.ones(3, 3, 3, 2, dtype=torch.bool)
    assert_same(encoder(volumes, foreground=everywhere), kept(volumes))
    foreground = everywhere.clone()
    foreground[0, 1:, 2] = foreground[1, :2, 0, 1] = foreground[2] = False
    output = encoder(volumes, foreground=foreground)
    assert not output.patch_tokens[~foreground].any()
    changed = volumes.clone()
    changed[0, :, 2:, 6:] += 5
    assert_same(encoder(changed, foreground=foreground), output)
    assert_same(kept(volumes, foreground=foreground), kept(volumes))


@pytest.mark.parametrize("kind", [k for k in KINDS if "joint" not in k])
@torch.inference_mode()
def test_patches_in_any_order_give_the_tokens_of_the_volume(kind):
    encoder = make_encoder(**KINDS[kind], modalities=("T1w",), background="skipped")
    volume = subjects(1)[:, :1]
    grid = encoder.config.token_grid(SHAPE).shape
    foreground = torch.rand(1, *grid) < 0.6
    output = encoder(volume, foreground=foreground)
    places = foreground[0].nonzero().flip(0)
    p, q, r = encoder.config.patch_size
    patches = torch.stack(
        [
            volume[0, 0, i * p :, j * q :, k * r :][:p, :q, :r].flatten()
            for i, j, k in places.tolist()
        ]
    )
    tokens = encoder.forward_patches(patches, places, grid=grid)
    expected = output.patch_tokens[0][places.unbind(1)]
    assert_same(tokens, (output.cls_token, expected))


@torch.inference_mode()
def test_tokens_move_with_the_volume_where_positions_are_absent():
    encoder = make_encoder(positions="none", modalities=("T1w",))
    volume = subjects(1)[:, :1]
    moved = encoder(volume.roll((2, 3, 4), (2, 3, 4))).patch_tokens
    expected = encoder(volume).patch_tokens.roll((1, 1, 1), (1, 2, 3))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "none"},
        {"positions": "sinusoidal"},
        {"norm_eps": 0.3},
        {"gelu": "tanh"},
        {"num_heads": 3},
    ],
    ids=str,
)
@torch.inference_mode()
def test_each_setting_changes_the_tokens(changes):
    plain, other = make_encoder(), VolumeEncoder(dataclasses.replace(CONFIG, **changes))
    state = plain.state_dict()
    other.load_state_dict({n: state[n] for n in other.state_dict()})
    volumes = subjects(1)
    difference = plain(volumes).patch_tokens - other.eval()(volumes).patch_tokens
    assert difference.abs().max() > 2e-5


def test_every_parameter_has_a_gradient():
    encoder = make_encoder(
        streams="joint",
        has_cls_token=True,
        layer_scale=0.4,
        experts=dataclasses.replace(EXPERTS, num_active=5),
        gate=True,
    )
    output = encoder(subjects())
    (output.cls_token.sum() + output.patch_tokens.square().sum()).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None]
    assert without == ["blocks.1.mlp.router.bias"]


@torch.inference_mode()
def test_experts_are_the_weighted_sum_of_those_chosen():
    torch.manual_seed(0)
    layer = ExpertMlp(6, EXPERTS)
    torch.nn.init.normal_(layer.router.bias, std=0.2)
    tokens = torch.randn(2, 4, 6)
    for token, actual in zip(tokens[0], layer(tokens)[0], strict=True):
        scores = (layer.router.proj.weight @ token).softmax(0)
        best = (scores + layer.router.bias).argsort(descending=True)[:2]
        parts = [3.0 * scores[i] * layer.experts[i](token) for i in best]
        torch.testing.assert_close(actual, layer.shared(token) + sum(parts))


def test_resized_positions_keep_a_ramp_inside():
    ramp = torch.linspace(0, 1, 7)[:, None, None, None].expand(7, 5, 4, 2)
    assert resize_positions(ramp, (7, 5, 4)) is ramp
    resized = resize_positions(ramp, (6, 5, 8))
    assert resized.shape == (6, 5, 8, 2)
    steps = resized[1:-1].diff(dim=0)
    torch.testing.assert_close(steps, torch.full_like(steps, 7 / 6.1 / 6))


def test_wrong_shapes_are_reported():
    encoder, volumes = make_encoder(), subjects()
    for message, inputs, options in (
        (r"volumes: expected shape \(B, 2, I, J, K\)", volumes[:, :1], {}),
        (r"multiples of \(2, 3, 4\), got \(6, 9, 7\)", volumes[..., :7], {}),
        ("present: expected booleans", volumes, {"present": flags([1, 1])}),
        (r"foreground: .* \(3, 3, 3, 2\)", volumes, {"foreground": flags([1])}),
    ):
        with pytest.raises(InputError, match=message):
            encoder(inputs, **options)
    with pytest.raises(InputError, match="blocks: expected indices below 3"):
        encoder.forward_intermediates(volumes, [3])
    with pytest.raises(InputError, match=r"patches: expected shape \(N, 24\)"):
        encoder.forward_patches(torch.zeros(4, 23), torch.zeros(4, 3))
    with pytest.raises(InputError, match=r"places: expected shape \(4, 3\)"):
        encoder.forward_patches(torch.zeros(4, 24), torch.zeros(3, 3))
    with pytest.raises(InputError, match="one patch embedding"):
        make_encoder(streams="joint").forward_patches(
            torch.zeros(4, 24), torch.zeros(4, 3, dtype=torch.long)
        )
    with pytest.raises(InputError, match="expected an encoder with a class token"):
        encoder(volumes).require_cls_token()
