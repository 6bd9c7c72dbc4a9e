import json

import pytest

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoders import require_slab_config
from brainfeat.models.resnet_config import ResNetConfig
from brainfeat.models.volume_config import VolumeConfig

EXPERTS = {
    "blocks": [1],
    "num_experts": 4,
    "num_active": 2,
    "hidden_dim": 5,
    "shared_dim": 6,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": []}, "modalities: expected at least one name"),
        ({"num_heads": 5}, "num_heads: expected a divisor of embed_dim 768, got 5"),
        ({"volume_size": [96, 96, 90]}, r"volume_size: expected multiples of patch_"),
        ({"positions": "fixed"}, "positions: expected one of"),
        ({"positions": "sinusoidal", "embed_dim": 64, "num_heads": 1}, "multiple of 6"),
        (
            {"positions": "concatenated", "embed_dim": 24, "num_heads": 1},
            "embed_dim: expected > 30",
        ),
        ({"positions": "rotary", "num_heads": 16}, "an even number >= 60"),
        ({"experts": EXPERTS | {"blocks": [12]}}, r"experts.blocks: expected .* 12"),
        ({"experts": EXPERTS | {"blocks": []}}, "blocks: expected .* not empty"),
        ({"experts": EXPERTS | {"num_active": 5}}, "num_active: expected at most"),
        ({"feature": "cls"}, "feature: expected first or mean without a class token"),
        ({"layer_scale": "0.1"}, "layer_scale: expected float or None, got '0.1'"),
        ({"kind": "slab"}, r"kind: expected one of \('volume',\)"),
    ],
)
def test_invalid_value_is_reported(change, message):
    with pytest.raises(ConfigError, match=message):
        VolumeConfig.from_dict(change)


@pytest.mark.parametrize(
    "encoder",
    [
        EncoderConfig(depth=2),
        VolumeConfig(patch_size=(4, 8, 16), layer_scale=0.1),
        VolumeConfig.from_dict({"experts": EXPERTS}),
        ResNetConfig(widths=(3, 4), stem_stride=1),
    ],
    ids=lambda encoder: encoder.kind,
)
def test_configuration_of_each_kind_survives_json(encoder):
    config = CheckpointConfig(encoder=encoder, preprocessing={})
    values = json.loads(json.dumps(config.to_dict()))
    assert values["encoder"]["kind"] == encoder.kind
    assert CheckpointConfig.from_dict(values) == config


def test_configuration_without_kind_is_of_slabs():
    config = CheckpointConfig(encoder=EncoderConfig(depth=2), preprocessing={})
    values = config.to_dict()
    del values["encoder"]["kind"]
    assert CheckpointConfig.from_dict(values) == config
    with pytest.raises(ConfigError, match="kind: expected one of"):
        CheckpointConfig.from_dict(values | {"encoder": {"kind": "swin"}})


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        (
            EncoderConfig(thickness=3, patch_size=4, image_size=(8, 12)),
            (9, 12, 20),
            ((3, 3, 5), (3, 4, 4), (1.0, 1.5, 1.5)),
        ),
        (
            VolumeConfig(patch_size=(2, 3, 4), volume_size=(2, 3, 4)),
            (6, 15, 8),
            ((3, 5, 2), (2, 3, 4), (0.5, 1.0, 1.5)),
        ),
        (
            ResNetConfig(stem_stride=1, widths=(4, 5)),
            (9, 12, 13),
            ((3, 3, 4), (4, 4, 4), (0.0, 0.0, 0.0)),
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_tokens_lie_in_the_middle_of_their_voxels(config, shape, expected):
    assert config.token_grid(shape) == expected


def test_other_kinds_are_refused_where_slabs_are_needed():
    with pytest.raises(ConfigError, match=r"encoder of slabs, .* 'volume'"):
        require_slab_config(VolumeConfig())
