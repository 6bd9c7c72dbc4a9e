import json
from dataclasses import replace

import pytest

from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.config import PretrainingConfig, read_config

SMALL_BATCH = PretrainingConfig.preset("small_batch")


@pytest.fixture
def write(tmp_path):
    """Function that writes a configuration file."""

    def write(content):
        path = tmp_path / "config.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", ["small_batch", "large_batch_short"])
def test_without_a_file_the_preset_is_used(write, name):
    preset = PretrainingConfig.preset(name)
    assert read_config(None, preset=name) == preset
    assert read_config(write({}), preset=name) == preset


def test_a_file_changes_only_its_own_fields(write):
    path = write({"seed": 5, "encoder": {"depth": 3, "slab_mixing": [1]}})
    encoder = replace(SMALL_BATCH.encoder, depth=3, slab_mixing=(1,))
    assert read_config(path) == replace(SMALL_BATCH, seed=5, encoder=encoder)


def test_the_saved_configuration_of_a_run_is_read_back(small_config, write):
    path = write(small_config.to_dict())
    assert read_config(path, preset="large_batch") == small_config


def test_steps_and_encoder_replace_those_of_the_preset(write):
    encoder = EncoderConfig(modalities=("T2w",), depth=2)
    path = write({"n_steps": 7, "encoder": {"embed_dim": 48}})
    config = read_config(path, encoder=encoder, n_steps=9)
    assert config.encoder == replace(encoder, embed_dim=48)
    assert config.n_steps == 9
    assert read_config(path).n_steps == 7


def test_crops_are_resized_to_the_patches_of_another_encoder(write):
    encoder = EncoderConfig(patch_size=14, image_size=(28, 42))
    views = read_config(None, encoder=encoder).views
    assert views.global_crops.size == (140, 140)
    assert views.local_crops.size == (84, 84)
    given = write({"views": {"global_crops": {"size": [56, 70]}}})
    assert read_config(given, encoder=encoder).views.global_crops.size == (56, 70)


@pytest.mark.parametrize(
    ("size", "dim", "depth", "mixing"),
    [("small", 384, 12, (2, 5, 8)), ("large", 1024, 24, (5, 11, 17))],
)
def test_a_size_changes_the_encoder_alone(write, size, dim, depth, mixing):
    config = read_config(None, size=size)
    assert (config.encoder.embed_dim, config.encoder.depth) == (dim, depth)
    assert config.encoder.slab_mixing == mixing
    assert replace(config, encoder=SMALL_BATCH.encoder) == SMALL_BATCH
    assert read_config(None, size="tiny") == SMALL_BATCH
    given = read_config(write({"encoder": {"embed_dim": 48}}), size=size)
    assert given.encoder.embed_dim == 48


def test_crops_that_fit_are_kept():
    encoder = EncoderConfig(patch_size=4)
    assert read_config(None, encoder=encoder).views == SMALL_BATCH.views


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"batchsize": 4}, r"unknown keys \['batchsize'\]"),
        ({"views": {"n_locals": 4}}, r"views: unknown keys \['n_locals'\]"),
        ({"batch_size": "many"}, "batch_size: expected int .*, got 'many'"),
        ({"batch_size": 0}, "batch_size: expected int >= 1, got 0"),
        ({"encoder": 3}, "encoder: expected an object, got 3"),
        ({"centring": "none"}, "centring"),
        ([1, 2], "expected hyperparameters as a JSON object, got list"),
        ("{'seed': 1}", "no valid JSON"),
        ("", "no valid JSON"),
    ],
)
def test_errors_name_an_invalid_file(write, content, message):
    path = write(content)
    with pytest.raises(ConfigError, match=f"config.json: .*{message}") as raised:
        read_config(path)
    assert str(raised.value).startswith(str(path))


def test_errors_name_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.json: cannot be read \(No such file"):
        read_config(tmp_path / "no.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)
