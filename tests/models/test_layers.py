import pytest
import torch
from torch.nn import functional as F

from brainfeat.models.feed_forward import SwiGLU
from brainfeat.models.layers import (
    Attention,
    Block,
    BlockConfig,
    PatchEmbed,
    SlabMixing,
    drop_path,
    interpolate_positions,
    interpolate_slab_positions,
)
from brainfeat.models.packing import Packing


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_patch_tokens_are_products_of_their_own_pixels():
    embed = PatchEmbed(2, 5, 3)
    pixels = torch.randn(4, 2, 6, 9)
    tokens = embed(pixels)
    assert tokens.shape == (4, 2, 3, 5)
    patch = pixels[1, :, 3:6, 6:9]
    expected = torch.einsum("dcij,cij->d", embed.proj.weight, patch) + embed.proj.bias
    torch.testing.assert_close(tokens[1, 1, 2], expected)


@pytest.mark.parametrize(
    ("n_channels", "patch_size", "size"), [(12, 8, (104, 80)), (3, 14, (70, 56))]
)
def test_patch_embedding_is_accurate_in_bfloat16(n_channels, patch_size, size):
    embed = PatchEmbed(n_channels, 24, patch_size)
    pixels = torch.randn(5, n_channels, *size)
    expected = embed(pixels)
    torch.testing.assert_close(expected, embed.proj(pixels).permute(0, 2, 3, 1))
    with torch.autocast("cpu", torch.bfloat16):
        half = embed(pixels)
    assert (half.float() - expected).norm() / expected.norm() < 0.01


def test_attention_equals_its_loop_over_heads():
    attention = Attention(12, 3)
    x = torch.randn(2, 5, 12)
    qkv = attention.qkv(x)
    heads = []
    for head in range(3):
        q, k, v = (
            qkv[..., part * 12 + head * 4 : part * 12 + head * 4 + 4]
            for part in range(3)
        )
        scores = (q @ k.transpose(1, 2) / 4**0.5).softmax(-1)
        heads.append(scores @ v)
    expected = attention.proj(torch.cat(heads, -1))
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("n_tokens", [5, 155, 300])
def test_attention_in_half_precision_without_gradients_is_close(n_tokens):
    attention = Attention(64, 2)
    x = torch.randn(3, n_tokens, 64)
    expected = attention(x)
    with torch.inference_mode():
        output = attention.bfloat16()(x.bfloat16()).float()
    error = (output - expected).norm() / expected.norm()
    assert 0.0 < error < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_ignores_padding(dtype):
    attention = Attention(64, 2).to(dtype)
    packing = Packing.of(torch.arange(40).reshape(1, 2, 4, 5) < 39, 1)
    assert packing.groups[0].key_mask is not None
    x = torch.randn(len(packing.row_slabs), 64).to(dtype)
    changed = x.clone()
    changed[-1] = 9.0  # fills the shorter slab
    with torch.inference_mode():
        output, other = attention(x, packing), attention(changed, packing)
    assert torch.equal(output[:-1], other[:-1])
    assert not torch.equal(output[-1], other[-1])


def test_swiglu_gates_with_the_first_half():
    layer = SwiGLU(6, 24)
    x = torch.randn(3, 6)
    gate, value = layer.w12.weight.chunk(2)
    gate_bias, value_bias = layer.w12.bias.chunk(2)
    hidden = F.silu(x @ gate.T + gate_bias) * (x @ value.T + value_bias)
    torch.testing.assert_close(layer(x), layer.w3(hidden))


@pytest.mark.parametrize(
    ("hidden_dim", "gated_dim"), [(6144, 4096), (24, 16), (26, 24)]
)
def test_swiglu_keeps_two_thirds_rounded_up_to_eight(hidden_dim, gated_dim):
    with torch.device("meta"):
        assert SwiGLU(7, hidden_dim).w3.in_features == gated_dim


def make_block(drop_rate):
    return Block(
        BlockConfig(
            dim=12, num_heads=3, hidden_dim=20, layer_scale=0.5, drop_rate=drop_rate
        )
    )


def test_block_drops_whole_samples_in_training_only():
    block, x = make_block(0.5), torch.randn(64, 4, 12)
    unchanged = (block.train()(x) == x).flatten(1)
    assert torch.equal(unchanged.all(1), unchanged.any(1))
    assert 4 <= unchanged.all(1).sum() <= 32
    assert not (block.eval()(x) == x).any(1).any(1).all()
    torch.testing.assert_close(block.eval()(x), block.eval()(x))


def test_drop_path_keeps_the_expectation():
    kept = drop_path(torch.ones(4000, 2), 0.25)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert drop_path(kept, 0.0) is kept


def test_slab_mixing_starts_as_the_identity():
    tokens = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(SlabMixing(6)(tokens), tokens)


def test_slab_mixing_equals_its_loop_over_neighbours():
    mixing, tokens = SlabMixing(6), torch.randn(2, 3, 4, 5, 6)
    for parameter in mixing.parameters():
        torch.nn.init.normal_(parameter)
    x = F.pad(mixing.norm(tokens), (0, 0, 1, 1, 1, 1, 1, 1))
    expected = tokens + mixing.conv.bias
    for s in range(3):
        for i in range(3):
            for j in range(3):
                kernel = mixing.conv.weight[:, 0, s, i, j]
                expected = expected + kernel * x[:, s : s + 3, i : i + 4, j : j + 5]
    torch.testing.assert_close(mixing(tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["bicubic", "antialiased"])
def test_interpolation_keeps_rows_columns_and_constants(mode):
    rows, columns = torch.randn(5, 1), torch.randn(6)
    grid = torch.stack([rows.expand(5, 6), columns.expand(5, 6), torch.ones(5, 6)], -1)
    assert interpolate_positions(grid, (5, 6), mode) is grid
    for size in [(10, 9), (3, 11), (4, 2)]:
        other = interpolate_positions(grid, size, mode)
        assert other.shape == (*size, 3)
        assert other[..., 0].std(1).max() < 1e-6 < other[..., 0].std(0).min()
        assert other[..., 1].std(0).max() < 1e-6 < other[..., 1].std(1).min()
        torch.testing.assert_close(other[..., 2], torch.ones(size))


@pytest.mark.parametrize("mode", ["bicubic", "antialiased"])
def test_interpolation_commutes_with_mirrors(mode):
    grid = torch.randn(5, 6, 3)
    mirrored = interpolate_positions(grid.flip(0, 1), (7, 4), mode).flip(0, 1)
    torch.testing.assert_close(mirrored, interpolate_positions(grid, (7, 4), mode))


def test_antialiasing_matters_when_positions_get_coarser():
    grid = torch.randn(8, 6, 3)
    plain = interpolate_positions(grid, (4, 3), "bicubic")
    filtered = interpolate_positions(grid, (4, 3), "antialiased")
    assert filtered.std() < plain.std()


def test_interpolation_keeps_half_precision():
    grid = torch.randn(4, 5, 2, dtype=torch.bfloat16)
    assert interpolate_positions(grid, (3, 7)).dtype == torch.bfloat16


def test_slab_positions_are_interpolated_linearly():
    stored = torch.tensor([[0.0, 1.0], [10.0, 3.0], [40.0, 3.0], [0.0, 0.0]])
    positions = torch.tensor([[0.125, 0.375, 0.5], [0.4375, 0.0, 1.0]])
    expected = torch.tensor(
        [[[0.0, 1.0], [10.0, 3.0], [25.0, 3.0]], [[17.5, 3.0], [0.0, 1.0], [0.0, 0.0]]]
    )
    torch.testing.assert_close(interpolate_slab_positions(stored, positions), expected)
