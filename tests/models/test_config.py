import dataclasses
import json

import pytest

from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.transfer import parameter_shapes


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 5.5),
        ("small", 22.1),
        ("base", 86.6),
        ("large", 304.4),
        ("giant", 1136.5),
    ],
)
def test_presets_have_the_sizes_of_dinov2(name, millions):
    channels = {} if name == "tiny" else {"modalities": ["T1w"], "thickness": 3}
    config = EncoderConfig.preset(name, **channels)
    sizes = parameter_shapes(config).values()
    total = sum(_product(shape) for shape in sizes) / 1e6
    assert total == pytest.approx(millions, abs=0.06)


def test_tiny_is_made_for_brains_at_two_millimetres():
    config = EncoderConfig.preset("tiny")
    assert (config.patch_size, config.thickness) == (8, 4)
    assert config.grid_size == (13, 10)
    assert config.in_channels == 12
    assert config.slab_mixing


def test_plain_values_survive_json():
    config = EncoderConfig.preset("tiny", num_register_tokens=2, drop_path=0.1)
    values = json.loads(json.dumps(config.to_dict()))
    assert EncoderConfig.from_dict(values) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 3}, "unknown keys ['width']"),
        ({"depth": 0}, "depth must be an integer of at least 1, got 0"),
        ({"depth": "12"}, "got '12'"),
        ({"thickness": True}, "got True"),
        ({"num_register_tokens": -1}, "at least 0"),
        ({"mlp_ratio": "4"}, "mlp_ratio must be a number"),
        ({"mlp_ratio": 0}, "mlp_ratio must be positive"),
        ({"modalities": "T1w"}, "modalities must be a tuple of str"),
        ({"modalities": []}, "distinct names"),
        ({"modalities": ["T1w", "T1w"]}, "distinct names"),
        ({"num_heads": 5}, "num_heads 5 does not divide embed_dim 192"),
        ({"image_size": [104, 81]}, "multiples of the patch size 8, got (104, 81)"),
        ({"image_size": [104]}, "image_size must be two"),
        ({"slab_mixing": [12]}, "slab_mixing (12,) is not within 12 blocks"),
        ({"tissues": "csf"}, "tissues must be a tuple of str"),
        ({"tissues": ["csf", "csf"]}, "tissues must be distinct names"),
        ({"tissues": [""]}, "tissues must be distinct names"),
        ({"slab_positions": -1}, "slab_positions must be an integer of at least 0"),
        ({"stem": "conv"}, "stem must be one of ('linear', 'hierarchical')"),
        (
            {
                "stem": "hierarchical",
                "patch_size": 4,
                "image_size": [104, 80],
                "embed_dim": 90,
            },
            "multiple of it, got 4 and 90",
        ),
        ({"background": "hidden"}, "background must be one of ('kept', 'skipped')"),
        ({"drop_path": 1.0}, "drop_path must be in [0, 1)"),
        ({"ffn": "gelu"}, "ffn must be one of ('mlp', 'swiglu'), got 'gelu'"),
    ],
)
def test_impossible_value_is_named(change, message):
    with pytest.raises(ConfigError) as error:
        EncoderConfig.preset("tiny", **change)
    assert message in str(error.value)


def test_unknown_preset_is_named():
    with pytest.raises(ConfigError, match=r"'huge', expected one of .*'tiny'"):
        EncoderConfig.preset("huge")


def test_each_shape_field_changes_the_parameters():
    config = EncoderConfig.preset("tiny")
    changes = {
        "modalities": ("T1w",),
        "thickness": 3,
        "patch_size": 4,
        "image_size": (96, 80),
        "embed_dim": 96,
        "depth": 9,
        "mlp_ratio": 3.0,
        "ffn": "swiglu",
        "num_register_tokens": 2,
        "slab_mixing": (1,),
        "slab_positions": 7,
        "tissues": ("csf",),
        "stem": "hierarchical",
    }
    for name, value in changes.items():
        changed = dataclasses.replace(config, **{name: value})
        assert parameter_shapes(changed) != parameter_shapes(config), name


def _product(shape):
    total = 1
    for size in shape:
        total *= size
    return total
