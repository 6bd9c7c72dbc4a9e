import pytest
import torch

from brainfeat.exceptions import ConfigError, InputError
from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder

CONFIG = DecoderConfig(
    n_classes=3, n_modalities=2, embed_dim=5, n_depths=2, upsampling=2, width=8
)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return SegmentationDecoder(CONFIG).eval()


def draw(n_rows=2, shape=(6, 8, 10), tokens=(3, 2, 5)):
    generator = torch.Generator().manual_seed(1)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    fine = [2 * size for size in shape]
    return (
        normal(n_rows, 2, *fine),
        torch.ones(n_rows, 1, *shape),
        [normal(n_rows, *tokens, 5) for _ in range(2)],
        normal(n_rows, 3, *shape).log_softmax(1),
    )


def test_each_fine_voxel_has_a_logit_of_each_class(decoder):
    assert decoder(*draw()).shape == (2, 3, 12, 16, 20)


def test_odd_sizes_keep_their_shape(decoder):
    assert decoder(*draw(shape=(5, 7, 9))).shape == (2, 3, 10, 14, 18)


def test_rows_are_independent(decoder):
    voxels, foreground, tokens, prior = draw()
    both = decoder(voxels, foreground, tokens, prior)
    alone = decoder(voxels[1:], foreground[1:], [t[1:] for t in tokens], prior[1:])
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)


def test_a_voxel_changes_its_own_logits_most(decoder):
    voxels, *rest = draw(n_rows=1)
    changed = voxels.clone()
    changed[0, 0, 3, 11, 17] += 5.0
    moved = (decoder(changed, *rest) - decoder(voxels, *rest)).abs().amax(dim=(0, 1))
    where = torch.unravel_index(moved.argmax(), moved.shape)
    distance = [abs(int(a) - b) for a, b in zip(where, (3, 11, 17), strict=True)]
    assert max(distance) <= 3


@pytest.mark.parametrize("depth", [0, 1])
def test_every_depth_counts(decoder, depth):
    voxels, foreground, tokens, prior = draw()
    before = decoder(voxels, foreground, tokens, prior)
    tokens[depth] = tokens[depth] + 1.0
    assert not torch.allclose(before, decoder(voxels, foreground, tokens, prior))


def test_untrained_decoder_repeats_the_prior(decoder):
    voxels, foreground, tokens, _ = draw(n_rows=1)
    prior = torch.zeros(1, 3, 6, 8, 10)
    prior[:, 1] = 5.0
    scores = decoder(voxels, foreground, tokens, prior)
    assert (scores.argmax(1) == 1).float().mean() > 0.99


def test_voxels_of_an_absent_modality_are_ignored(decoder):
    torch.nn.init.normal_(decoder.modality_embed)
    voxels, *rest = draw()
    present = torch.tensor([[True, False], [True, True]])
    other = voxels.clone()
    other[0, 1] = torch.nan
    first = decoder(voxels, *rest, present=present)
    torch.testing.assert_close(first, decoder(other, *rest, present=present))
    assert not torch.allclose(first[0], decoder(voxels, *rest)[0])


def test_other_shapes_are_rejected(decoder):
    voxels, foreground, tokens, prior = draw()
    with pytest.raises(InputError, match="voxels: expected shape"):
        decoder(voxels[..., :-2], foreground, tokens, prior)
    with pytest.raises(InputError, match="expected 2 depths of length 5"):
        decoder(voxels, foreground, tokens[:1], prior)


@pytest.mark.parametrize("field", ["n_classes", "n_modalities", "width", "upsampling"])
def test_invalid_size_is_rejected(field):
    with pytest.raises(ConfigError, match=field):
        DecoderConfig.from_dict({**vars(CONFIG), field: 0})


def test_configuration_survives_json():
    assert DecoderConfig.from_dict(vars(CONFIG)) == CONFIG
    with pytest.raises(ConfigError, match="unknown keys"):
        DecoderConfig.from_dict({**vars(CONFIG), "more": 1})
