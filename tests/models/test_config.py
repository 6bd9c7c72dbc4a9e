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
        ({"depth": 0}, "depth: expected int >= 1, got 0"),
        ({"depth": "12"}, "depth: expected int >= 1, got '12'"),
        ({"thickness": True}, "thickness: expected int >= 1, got True"),
        ({"num_register_tokens": -1}, "num_register_tokens: expected int >= 0, got -1"),
        ({"mlp_ratio": "4"}, "mlp_ratio: expected float > 0, got '4'"),
        ({"mlp_ratio": 0}, "mlp_ratio: expected float > 0, got 0"),
        ({"modalities": "T1w"}, "modalities: expected a tuple of str unique"),
        ({"modalities": []}, "modalities: expected at least one name, got ()"),
        ({"modalities": ["T1w", "T1w"]}, "unique and not empty"),
        ({"num_heads": 5}, "num_heads: expected a divisor of embed_dim 192, got 5"),
        ({"image_size": [104, 81]}, "multiples of patch_size 8, got (104, 81)"),
        ({"image_size": [104]}, "image_size: expected a tuple of 2 int >= 1"),
        ({"slab_mixing": [12]}, "slab_mixing: expected blocks below depth 12"),
        ({"tissues": "csf"}, "tissues: expected a tuple of str"),
        ({"tissues": ["csf", "csf"]}, "tissues: expected a tuple of str unique"),
        ({"tissues": [""]}, "tissues: expected a tuple of str unique"),
        (
            {"tissues": ["csf"], "structures": ["cortex", "csf"]},
            "structures: expected other names than those of tissues",
        ),
        ({"structures": ["csf"]}, "tissues: expected at least one name beside"),
        ({"slab_positions": -1}, "slab_positions: expected int >= 0, got -1"),
        ({"stem": "conv"}, "stem: expected one of ('linear', 'hierarchical')"),
        (
            {
                "stem": "hierarchical",
                "patch_size": 4,
                "image_size": [104, 80],
                "embed_dim": 90,
            },
            "embed_dim: expected a multiple of patch_size 4 for a hierarchical stem",
        ),
        ({"background": "hidden"}, "background: expected one of ('kept', 'skipped')"),
        ({"drop_path": 1.0}, "drop_path: expected float in [0, 1), got 1.0"),
        ({"ffn": "gelu"}, "ffn: expected one of ('mlp', 'swiglu'), got 'gelu'"),
    ],
)
def test_invalid_value_is_reported(change, message):
    with pytest.raises(ConfigError) as error:
        EncoderConfig.preset("tiny", **change)
    assert message in str(error.value)


def test_unknown_preset_is_reported():
    with pytest.raises(ConfigError, match=r"expected one of .*'tiny'.*got 'huge'"):
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
