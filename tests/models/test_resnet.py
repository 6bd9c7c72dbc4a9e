import pytest
import torch

from brainfeat.exceptions import InputError
from brainfeat.models.resnet import ResNetConfig, VolumeResNet


def make_encoder(**changes):
    torch.manual_seed(0)
    sizes = {"modalities": ("T1w", "T2w"), "widths": (3, 4), "num_blocks": 1}
    encoder = VolumeResNet(ResNetConfig(**sizes | changes))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


@pytest.mark.parametrize("axis", [0, 1, 2])
@torch.inference_mode()
def test_token_is_centred_where_its_grid_says(axis):
    encoder = make_encoder(modalities=("T1w",), stem_stride=1)
    for parameter in encoder.parameters():
        parameter.abs_()  # a brighter voxel changes each token that sees it
    volume = torch.rand(1, 1, 45, 49, 57)
    grid = encoder.config.token_grid(volume.shape[2:])
    output = encoder(volume).patch_tokens
    assert output.shape == (1, *grid.shape, 4)
    place = (5, 6, 7)
    centre = [
        int(f + s * i) for f, s, i in zip(grid.first, grid.step, place, strict=True)
    ]

    def sees(distance):
        changed, voxel = volume.clone(), centre.copy()
        voxel[axis] += distance
        changed[0, 0, *voxel] += 50
        return not torch.equal(
            encoder(changed).patch_tokens[0, *place], output[0, *place]
        )

    seen = [distance for distance in range(-20, 21) if sees(distance)]
    assert seen == [*range(-seen[-1], seen[-1] + 1)]
    assert seen[-1] > grid.step[axis]


@torch.inference_mode()
def test_modalities_are_averaged_over_those_present():
    encoder, volumes = make_encoder(), torch.randn(3, 2, 17, 21, 19)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    each = [
        VolumeResNet.forward(encoder, volumes, present=flags).patch_tokens
        for flags in (present & torch.tensor([True, False]), present & ~present[1])
    ]
    volumes[~present] = torch.nan
    output = encoder(volumes, present=present)
    assert output.cls_token is None
    expected = (each[0] + each[1]) / present.sum(1)[:, None, None, None, None]
    torch.testing.assert_close(output.patch_tokens, expected)


@torch.inference_mode()
def test_intermediates_are_the_last_stage():
    encoder, volumes = make_encoder(), torch.randn(1, 2, 17, 21, 19)
    (last,) = encoder.forward_intermediates(volumes, [-1])
    assert torch.equal(last.patch_tokens, encoder(volumes).patch_tokens)
    with pytest.raises(InputError, match="blocks: expected indices below 1"):
        encoder.forward_intermediates(volumes, [1])
