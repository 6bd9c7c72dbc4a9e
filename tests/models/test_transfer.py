import dataclasses

import pytest
import torch

from brainfeat.exceptions import CheckpointError, ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.transfer import (
    adapt_state,
    check_state,
    parameter_shapes,
    transfer_weights,
)

RGB = EncoderConfig(
    modalities=("T1w",),
    thickness=3,
    patch_size=2,
    image_size=(6, 8),
    embed_dim=8,
    depth=2,
    num_heads=2,
    layer_scale=1.0,
)


@pytest.fixture
def state():
    torch.manual_seed(0)
    state = SlabEncoder(RGB).state_dict()
    return {
        name: value + 0.1 * torch.randn(value.shape) for name, value in state.items()
    }


def build(config, state):
    encoder = SlabEncoder(config)
    encoder.load_state_dict(state)
    return encoder.eval()


def test_kernels_of_a_small_example(state):
    red, green, blue = 1.0, 2.0, 6.0
    state["patch_embed.proj.weight"] = torch.stack(
        [torch.full((8, 2, 2), value) for value in (red, green, blue)], 1
    )
    moved = transfer_weights(state, RGB, modalities=("T1w", "FLAIR"), thickness=5)
    # The mean of the three is 3; divided over ten channels.
    expected = torch.full((8, 10, 2, 2), 3.0 * 3 / 10)
    torch.testing.assert_close(moved["patch_embed.proj.weight"], expected)
    assert moved["modality_embed"].shape == (2, 8)
    assert torch.equal(moved["norm.weight"], state["norm.weight"])
    assert state["patch_embed.proj.weight"].shape == (8, 3, 2, 2)


def test_transfer_keeps_each_pixel_of_the_kernel(state):
    moved = transfer_weights(state, RGB, modalities=("T2w",), thickness=4)
    kernel = state["patch_embed.proj.weight"]
    for channel in range(4):
        new = moved["patch_embed.proj.weight"][5, channel, 1, 0]
        old = sum(kernel[5, rgb, 1, 0] for rgb in range(3))
        torch.testing.assert_close(new, old / 4)


@pytest.mark.parametrize(
    ("modalities", "thickness"), [(("T1w",), 1), (("T1w", "T2w", "FLAIR"), 4)]
)
def test_repeated_slice_gives_the_tokens_of_a_grey_image(modalities, thickness, state):
    config = dataclasses.replace(RGB, modalities=modalities, thickness=thickness)
    moved = transfer_weights(state, RGB, modalities=modalities, thickness=thickness)
    grey = torch.randn(2, 1, 1, 6, 8)
    ours = build(config, moved)(grey.expand(-1, -1, config.in_channels, -1, -1))
    theirs = build(RGB, state)(grey.expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(
        ours.patch_tokens, theirs.patch_tokens, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(ours.cls_token, theirs.cls_token, rtol=1e-4, atol=1e-5)


def test_invalid_channels_are_rejected(state):
    with pytest.raises(ConfigError, match="thickness"):
        transfer_weights(state, RGB, modalities=("T1w",), thickness=0)
    del state["modality_embed"]
    with pytest.raises(CheckpointError, match="modality_embed"):
        transfer_weights(state, RGB, modalities=("T1w",), thickness=2)


def test_adapted_encoder_gives_the_same_tokens(state):
    target = dataclasses.replace(
        RGB, image_size=(10, 6), slab_mixing=(0, 1), thickness=2, modalities=("A", "B")
    )
    adapted = build(target, adapt_state(state, RGB, target))
    grey = torch.randn(2, 3, 1, 10, 6)
    ours = adapted(grey.expand(-1, -1, 4, -1, -1))
    theirs = build(RGB, state)(grey.expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(
        ours.patch_tokens, theirs.patch_tokens, rtol=1e-4, atol=1e-5
    )


def test_equal_channels_keep_their_kernels(state):
    target = dataclasses.replace(RGB, slab_mixing=(1,), drop_path=0.2)
    adapted = adapt_state(state, RGB, target)
    assert all(torch.equal(adapted[name], state[name]) for name in state)
    assert torch.equal(adapted["slab_mixing.1.norm.weight"], torch.ones(8))
    assert not adapted["slab_mixing.1.conv.weight"].any()


@pytest.mark.parametrize("stem", ["linear", "hierarchical"])
@pytest.mark.parametrize("chosen", [("B",), ("C", "A"), ("B", "C", "A")])
def test_fewer_modalities_give_the_tokens_of_subjects_that_lack_the_others(
    stem, chosen
):
    torch.manual_seed(0)
    config = dataclasses.replace(RGB, modalities=("A", "B", "C"), stem=stem)
    state = SlabEncoder(config).state_dict()
    state = {k: v + 0.1 * torch.randn(v.shape) for k, v in state.items()}
    target = dataclasses.replace(config, modalities=chosen)
    adapted = build(target, adapt_state(state, config, target))
    slabs = torch.randn(2, 3, 3, 3, 6, 8)  # B S M t H W
    indices = [config.modalities.index(name) for name in chosen]
    has = torch.tensor([[name in chosen for name in config.modalities]] * 2)
    has[1, indices[0]] = len(chosen) == 1  # one of them may be absent, too
    theirs = build(config, state)(slabs.flatten(2, 3), present=has)
    ours = adapted(slabs[:, :, indices].flatten(2, 3), present=has[:, indices])
    torch.testing.assert_close(
        ours.patch_tokens, theirs.patch_tokens, rtol=1e-4, atol=1e-5
    )


def test_anatomy_map_is_kept_for_equal_tissues_only():
    reading = dataclasses.replace(RGB, tissues=("csf", "ventricle"))
    state = SlabEncoder(reading).state_dict()
    assert "anatomy.weight" not in adapt_state(state, reading, RGB)
    more = dataclasses.replace(RGB, tissues=("csf",), structures=("ventricle",))
    with pytest.raises(CheckpointError, match=r"anatomy\.weight"):
        adapt_state(state, reading, more)
    deeper = dataclasses.replace(reading, slab_positions=5)
    kept = adapt_state(state, reading, deeper)
    assert torch.equal(kept["anatomy.weight"], state["anatomy.weight"])
    with pytest.raises(CheckpointError, match=r"anatomy\.weight"):
        adapt_state(SlabEncoder(RGB).state_dict(), RGB, reading)


def test_encoders_of_other_width_or_depth_are_rejected(state):
    for change in ({"embed_dim": 16}, {"depth": 3}, {"depth": 1}):
        with pytest.raises(CheckpointError, match="do not fit"):
            adapt_state(state, RGB, dataclasses.replace(RGB, **change))


def test_shapes_equal_those_of_the_encoder(state):
    expected = {name: tuple(value.shape) for name, value in state.items()}
    assert parameter_shapes(RGB) == expected


def test_all_problems_are_listed_in_one_error(state):
    del state["cls_token"], state["blocks.1.ls2.gamma"]
    state["blocks.2.norm1.weight"] = torch.zeros(8)
    state["norm.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointError) as error:
        check_state(state, RGB)
    message = str(error.value)
    assert "missing keys: cls_token, blocks.1.ls2.gamma" in message
    assert "unexpected keys: blocks.2.norm1.weight" in message
    assert "misshaped keys: norm.bias (9,) instead of (8,)" in message


def test_slab_positions_start_at_zero_or_between_the_old_ones(state):
    new = dataclasses.replace(RGB, slab_positions=4)
    adapted = adapt_state(state, RGB, new)
    assert not adapted["slab_embed"].any()
    adapted["slab_embed"] = torch.arange(4.0)[:, None].expand(4, 8).clone()
    finer = adapt_state(adapted, new, dataclasses.replace(new, slab_positions=8))
    expected = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
    torch.testing.assert_close(finer["slab_embed"][:, 3], expected)


def test_hierarchical_stem_keeps_its_channels():
    config = dataclasses.replace(RGB, stem="hierarchical")
    state = SlabEncoder(config).state_dict()
    with pytest.raises(
        CheckpointError, match="hierarchical stem cannot be transferred"
    ):
        transfer_weights(state, config, modalities=("T1w",), thickness=2)
    with pytest.raises(CheckpointError, match=r"do not fit.*patch_embed"):
        adapt_state(state, config, RGB)
