from dataclasses import replace

import numpy as np
import pytest
import torch

from brainfeat.models.decoder import DecoderConfig, SegmentationDecoder
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.segmentation import network as model
from brainfeat.segmentation.boxes import whole_box
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.segmentation.network import (
    SegmentationNetwork,
    choose_blocks,
    init_decoder,
)
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.subject import Subject

pytestmark = pytest.mark.usefixtures("without_registration")


@pytest.fixture
def space():
    return SegmentationSpace(
        preprocessor=Preprocessor(shape=(24, 32, 40), spacing=6.0, alignment="none"),
        slab_grid=SlabGrid(thickness=2),
        encoder_modalities=("T1w", "T2w", "FLAIR"),
        modalities=("T1w",),
        allow_missing=True,
    )


@pytest.fixture
def network(checkpoint, space):
    torch.manual_seed(0)
    config = DecoderConfig(
        n_classes=3, n_modalities=1, embed_dim=24, n_depths=2, width=4
    )
    decoder = SegmentationDecoder(config).eval()
    torch.nn.init.normal_(decoder.head.weight)
    return SegmentationNetwork(
        encoder=checkpoint.build_encoder(),
        decoder=decoder,
        prior=torch.rand(3, 12, 16, 20) + 0.1,
        space=space,
        device=torch.device("cpu"),
    )


@pytest.fixture
def inputs(space, modality_paths):
    return space.read(Subject("x", {"T1w": modality_paths["T1w"][0]}))


def test_probabilities_have_the_grid_of_the_fine_voxels(network, inputs):
    probabilities, box = network.probabilities(inputs)
    probabilities = probabilities.astype(np.float32)
    assert box == whole_box(probabilities.shape[1:])
    assert probabilities.shape == (3, 48, 64, 80)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, atol=2e-3)


def test_decoding_in_parts_equals_decoding_at_once(network, inputs, monkeypatch):
    whole, _ = network.probabilities(inputs)
    monkeypatch.setattr(model, "_MAX_VOXELS", 24 * 32 * 2 * 6)  # 6 of 20 slabs
    parts, _ = network.probabilities(inputs)
    np.testing.assert_allclose(parts, whole, atol=2e-3)


@pytest.mark.parametrize(
    ("background", "matters"), [("kept", True), ("skipped", False)]
)
def test_background_matters_to_encoders_that_keep_it(
    make_checkpoint, checkpoint, network, inputs, background, matters
):
    config = replace(checkpoint.config.encoder, background=background)
    network.encoder = make_checkpoint(encoder=config).build_encoder()
    coarse = torch.from_numpy(inputs.stack_coarse())[None].float()
    coarse[:, -1, :, : 2 * config.patch_size] = 0  # as if no brain were there
    changed = coarse.clone()
    changed[:, :-1, :, : config.patch_size] += 5.0
    present = torch.from_numpy(inputs.coarse.present)[None]
    first, second = (
        network.tokens(network.to_slices(volumes), present)[-1]
        for volumes in (coarse, changed)
    )
    assert torch.equal(first, second) != matters


def test_many_classes_make_parts_smaller(network, monkeypatch):
    box = (slice(4, 40), slice(0, 32), slice(0, 24))
    monkeypatch.setattr(model, "_MAX_SCORES", 24 * 32 * 8 * 3 * 5)
    assert network._count_slices(box) == 5
    monkeypatch.setattr(model, "_MAX_SCORES", 1)
    assert network._count_slices(box) == 1


def test_probabilities_in_a_mask_are_those_of_the_whole(network, inputs, monkeypatch):
    monkeypatch.setattr(model, "resolve_dtype", lambda *_: torch.float32)
    whole, _ = network.probabilities(inputs)
    monkeypatch.setattr(model, "_MAX_SCORES", 24 * 32 * 8 * 3 * 7)
    monkeypatch.setattr(model, "_BORDER", model._RECEPTIVE_FIELD)
    mask = np.zeros(network.space.shape, np.bool_)
    mask[5:20, 7:30, 8:36] = True
    mask[10:12, :, 20:] = False
    values, box = network.probabilities(inputs, mask)
    assert box == (slice(10, 40), slice(14, 60), slice(16, 72))
    is_scored = mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)[box]
    expected = whole[(slice(None), *box)][:, is_scored]
    np.testing.assert_allclose(values[:, is_scored], expected, atol=2e-3)
    assert (values[0][~is_scored] == 1).all()
    assert not values[1:, ~is_scored].any()


def test_without_a_brain_all_is_background(network, inputs):
    values, _ = network.probabilities(inputs, np.zeros(network.space.shape, np.bool_))
    assert (values[0] == 1).all()


def test_prior_is_permuted_to_slices(network):
    assert network.log_prior.shape == (1, 3, 40, 32, 24)


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 12, 40])
def test_blocks_end_with_the_last(depth):
    blocks = choose_blocks(depth)
    assert blocks[-1] == depth - 1
    assert len(blocks) == len(set(blocks)) == min(3, depth)
    assert list(blocks) == sorted(blocks)


def test_network_follows_the_encoder_s_checkpoint(checkpoint, space):
    config = checkpoint.config
    network = SegmentationNetwork(
        space=space,
        encoder=checkpoint.build_encoder(),
        decoder=init_decoder(config.encoder, space, 3, seed=0),
        prior=torch.full((3, 12, 16, 20), 1 / 3),
        device=torch.device("cpu"),
    )
    assert network.blocks == choose_blocks(config.encoder.depth)
    assert network.decoder.config.n_depths == len(network.blocks)
    assert network.decoder.config.upsampling == space.upsampling


def test_initial_weights_depend_on_the_seed_alone(checkpoint, space):
    def weights(seed):
        decoder = init_decoder(checkpoint.config.encoder, space, 3, seed)
        return torch.cat([value.flatten() for value in decoder.parameters()])

    torch.manual_seed(7)
    first = weights(1)
    drawn = torch.rand(3)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))  # the global random state is unchanged
