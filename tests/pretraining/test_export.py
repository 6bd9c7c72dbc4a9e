from dataclasses import replace

import pytest
import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.pretraining.run_state import export_checkpoint
from brainfeat.pretraining.self_distillation import SelfDistillation
from brainfeat.pretraining.warm_start import initialise

GRID = {"shape": [12, 16, 8], "spacing": 9.0}


def teacher_of(config):
    torch.manual_seed(0)
    return SelfDistillation(config, 3).teacher


@pytest.fixture
def export(source):
    """Function that exports a teacher, after 40 steps."""

    def export(config, teacher=None):
        teacher = teacher or teacher_of(config)
        return export_checkpoint(teacher, config, source, n_steps=40)

    return export


def test_exported_encoder_computes_what_the_trained_one_does(
    export, small_config, source, tmp_path
):
    teacher = teacher_of(small_config)
    encoder = teacher.encoder
    export(small_config, teacher).save(tmp_path)
    loaded = Checkpoint.load(tmp_path)
    slabs = torch.randn(2, 3, 4, 16, 12)
    for one, other in zip(encoder(slabs), loaded.build_encoder()(slabs), strict=True):
        assert torch.equal(one, other)
    assert loaded.config.trained
    assert loaded.config.preprocessing == source.preprocessing


def test_checkpoint_reads_what_the_head_predicts(export, small_config):
    network = teacher_of(small_config)
    head = network.anatomy_head
    head.calibrate(3.0 + torch.rand(2, 9, 3), torch.rand(2, 9))
    checkpoint = export(small_config, network)
    assert checkpoint.config.encoder.tissues == ("third", "first")
    tokens = torch.randn(5, small_config.encoder.embed_dim)
    with torch.no_grad():
        read = checkpoint.build_encoder().anatomy(tokens)
        expected = head.spread * head(tokens) + head.mean
    torch.testing.assert_close(read, expected[:, [2, 0]])
    without_head = replace(small_config, anatomy_weight=0.0)
    assert export(without_head).config.encoder.anatomy_names == ()


def test_structures_are_read_after_the_tissues(small_config, source):
    network = teacher_of(small_config)

    class Other(type(source)):
        tissues, structures = ("second",), ("third", "first")

    checkpoint = export_checkpoint(network, small_config, Other(), n_steps=1)
    assert checkpoint.config.encoder.tissues == ("second",)
    assert checkpoint.config.encoder.structures == ("third", "first")
    expected = network.anatomy_head.linear.weight[[1, 2, 0]]
    torch.testing.assert_close(checkpoint.state["anatomy.weight"], expected)


def test_stochastic_depth_is_not_exported(export, small_config):
    config = replace(small_config, anatomy_weight=0.0)
    assert config.encoder.drop_path > 0
    expected = replace(config.encoder, drop_path=0.0)
    assert export(config).config.encoder == expected


def test_description_names_steps_and_objectives_with_weight(export, small_config):
    config = replace(small_config, dino_weight=0.0, koleo_weight=0.0)
    text = export(config).config.description
    assert "40 steps of 4 subjects" in text
    assert "iBOT 1, InfoNCE 0.2, anatomy 0.5." in text
    assert "KoLeo" not in text
    assert "DINO" not in text


@pytest.mark.parametrize(
    ("probability", "modalities", "expected"),
    [
        (0.3, ("T1w", "FLAIR"), True),
        (0.0, ("T1w", "FLAIR"), False),
        (0.3, ("T1w",), False),
    ],
)
def test_missing_modalities_are_allowed_if_training_hid_some(
    export, small_config, probability, modalities, expected
):
    config = replace(
        small_config,
        encoder=replace(small_config.encoder, modalities=modalities),
        views=replace(small_config.views, hidden_modalities=probability),
    )
    assert export(config).config.missing_modalities == expected


def test_checkpoint_takes_the_first_plane(export, small_config):
    views = replace(small_config.views, planes=("sagittal", "axial"))
    assert export(replace(small_config, views=views)).config.plane == "sagittal"


def test_export_is_a_copy_of_its_step(export, small_config):
    teacher = teacher_of(small_config)
    checkpoint = export(small_config, teacher)
    before = checkpoint.state["norm.weight"].clone()
    with torch.no_grad():
        teacher.encoder.norm.weight.add_(1.0)
    assert torch.equal(checkpoint.state["norm.weight"], before)


@pytest.fixture
def saved(small_config, tmp_path):
    """Folder of a checkpoint whose parameters are all noise."""
    encoder = replace(small_config.encoder, drop_path=0.0)
    config = CheckpointConfig(encoder=encoder, preprocessing=GRID)
    generator = torch.Generator().manual_seed(6)
    state = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in SlabEncoder(encoder).state_dict().items()
    }
    return Checkpoint(config, state).save(tmp_path / "init")


def test_student_and_teacher_take_the_encoder_of_a_checkpoint_and_keep_their_heads(
    saved, small_config
):
    model = SelfDistillation(small_config, 3)
    heads = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if ".encoder." not in name
    }
    initialise(model, Checkpoint.load(saved))
    state = Checkpoint.load(saved).state
    for network in (model.student, model.teacher):
        got = network.encoder.state_dict()
        assert all(torch.equal(got[name], state[name]) for name in state)
    after = model.state_dict()
    assert heads
    assert all(torch.equal(after[name], heads[name]) for name in heads)
    assert not model.teacher.training


def test_initial_weights_adapt_to_other_modalities_and_sizes(saved, small_config):
    encoder = replace(
        small_config.encoder,
        modalities=("T2w", "T1w", "FLAIR"),
        thickness=3,
        image_size=(24, 20),
        slab_mixing=(0, 1),
    )
    model = SelfDistillation(replace(small_config, encoder=encoder), 3)
    initialise(model, Checkpoint.load(saved))
    state = Checkpoint.load(saved).state
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(model.student.encoder.state_dict()[name], state[name])
    assert model.student.encoder.patch_embed.proj.weight.shape[1] == 9
