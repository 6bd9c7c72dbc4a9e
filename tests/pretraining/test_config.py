import json
from dataclasses import fields, replace

import numpy as np
import pytest

from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.views import ViewConfig
from brainfeat.slabs.crops import CropConfig
from brainfeat.slabs.intensity import IntensityConfig

PRESETS = ("small_batch", "large_batch", "large_batch_short", "agreement")
CHANGED = PretrainingConfig(
    encoder=EncoderConfig(modalities=("FLAIR",), depth=4, slab_mixing=(1, 3)),
    views=ViewConfig(
        global_crops=CropConfig(size=(40, 32), area=(0.2, 0.9)),
        planes=("axial", "sagittal"),
        intensity=IntensityConfig(gamma=0.1),
        n_local=0,
    ),
    learning_rate=3e-4,
    teacher_momentum=(0.9, 0.99),
    precision="float32",
    seed=11,
)


@pytest.mark.parametrize(
    "config",
    [PretrainingConfig(), CHANGED, *(PretrainingConfig.preset(p) for p in PRESETS)],
)
def test_configuration_survives_json(config):
    text = json.dumps(config.to_dict())
    assert PretrainingConfig.from_dict(json.loads(text)) == config


def test_absent_keys_take_their_defaults():
    assert PretrainingConfig.from_dict({}) == PretrainingConfig()
    partial = PretrainingConfig.from_dict({"views": {"n_local": 7}})
    assert partial.views == ViewConfig(n_local=7)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"colour": 1}, "colour"),
        ({"encoder": {"colour": 1}}, r"encoder: unknown keys \['colour'\]"),
        ({"views": {"colour": 1}}, r"views: unknown keys \['colour'\]"),
        ({"views": {"global_crops": {"colour": 1}}}, "views.global_crops: unknown"),
        ({"views": {"intensity": {"colour": 1}}}, "views.intensity: unknown"),
    ],
)
def test_unknown_key_is_reported_with_its_path(values, path):
    with pytest.raises(ConfigError, match=path):
        PretrainingConfig.from_dict(values)


@pytest.mark.parametrize("name", [item.name for item in fields(PretrainingConfig)])
def test_value_of_another_type_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        PretrainingConfig.from_dict({name: "something else"})


@pytest.mark.parametrize("value", [None, "2", [2, 3, 4], 2.5])
@pytest.mark.parametrize("name", ["n_steps", "seed", "encoder", "views", "centring"])
def test_constructor_refuses_a_value_of_another_type(name, value):
    with pytest.raises(ConfigError, match=rf"PretrainingConfig\.{name}: expected"):
        PretrainingConfig(**{name: value})


def test_constructor_refuses_a_value_of_another_type_within_the_views():
    with pytest.raises(
        ConfigError, match=r"ViewConfig\.hidden_modalities: .* got True"
    ):
        PretrainingConfig(views=ViewConfig(hidden_modalities=True))


def test_numbers_of_numpy_are_numbers():
    rate = np.geomspace(1e-4, 1e-3, 3)[1]
    assert PretrainingConfig(learning_rate=rate).peak_learning_rate == rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dino_weight": 0.0, "ibot_weight": 0.0, "koleo_weight": 0.0},
            "one objective",
        ),
        ({"ibot_weight": -1.0}, r"ibot_weight: expected float >= 0, got -1\.0"),
        ({"batch_size": 0}, ">= 1"),
        ({"accumulation_steps": 0}, ">= 1"),
        ({"n_steps": 0}, ">= 1"),
        ({"n_prototypes": 1}, "n_prototypes: expected int >= 2, got 1"),
        (
            {"infonce_weight": 1.0, "accumulation_steps": 8},
            "batch_size: expected two subjects",
        ),
        ({"probe_every": 0}, ">= 1"),
        ({"head_hidden_dim": 0}, "head_hidden_dim: .* >= 1, got 0"),
        ({"seed": -1}, "seed: expected int >= 0, got -1"),
        ({"koleo_weight": float("nan")}, "koleo_weight: expected float .*, got nan"),
        ({"clip_grad": 0.0}, "clip_grad: expected float > 0"),
        (
            {"learning_rate": -1e-3},
            r"learning_rate: expected float >= 0 or None, got -0\.001",
        ),
        ({"learning_rate": float("nan")}, "learning_rate: expected .* got nan"),
        ({"teacher_temperature": (0.04, 0.0)}, r"float > 0, got \(0\.04, 0\.0\)"),
        ({"weight_decay": (-0.1, 0.4)}, "weight_decay: .* float >= 0"),
        ({"teacher_momentum": (0.9, 1.1)}, r"teacher_momentum: .* in \[0, 1\]"),
        ({"warmup_fraction": 10.0}, r"in \[0, 1\], got 10\.0"),
        (
            {"encoder": EncoderConfig(tissues=("csf",))},
            "encoder.tissues: expected none",
        ),
        ({"batch_size": 8, "accumulation_steps": 3}, "batch_size: expected a multiple"),
        ({"views": ViewConfig(n_global=1)}, r"views\.n_global: expected at least 2"),
        (
            {"views": ViewConfig(global_crops=CropConfig(size=(80, 50)))},
            r"global_crops\.size: expected multiples of .* 8, got \(80, 50\)",
        ),
        ({"views": ViewConfig(local_crops=CropConfig(size=(12, 80)))}, "12"),
    ],
)
def test_impossible_value_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        PretrainingConfig(**changes)


def test_the_ends_of_a_schedule_may_be_a_list():
    assert PretrainingConfig(weight_decay=[0.04, 0.4]).weight_decay == [0.04, 0.4]
    with pytest.raises(ConfigError, match=r"weight_decay: .* float >= 0"):
        PretrainingConfig(weight_decay=[-0.1, 0.4])


def test_ibot_alone_needs_one_global_view():
    config = PretrainingConfig(dino_weight=0.0, views=ViewConfig(n_global=1))
    assert config.views.n_global == 1


@pytest.mark.parametrize("name", PRESETS)
def test_preset_takes_changes_of_known_fields(name):
    preset = PretrainingConfig.preset(name)
    assert preset != PretrainingConfig()
    changed = PretrainingConfig.preset(name, n_steps=17)
    assert changed == replace(preset, n_steps=17)
    with pytest.raises(ConfigError, match="colour"):
        PretrainingConfig.preset(name, colour=1)


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="medium_batch"):
        PretrainingConfig.preset("medium_batch")


def test_learning_rate_follows_the_root_of_the_batch_size():
    few, many = (
        PretrainingConfig(batch_size=size).peak_learning_rate for size in (16, 1024)
    )
    assert many == pytest.approx(4e-3)
    assert many / few == pytest.approx(8)
    assert CHANGED.peak_learning_rate == 3e-4


def test_large_presets_are_two_recipes():
    """Values of vitl14.yaml and of ssl_default_config.yaml of DINOv2."""
    long, short = map(PretrainingConfig.preset, ("large_batch", "large_batch_short"))
    assert long.peak_learning_rate == pytest.approx(2e-4 * (768 / 1024) ** 0.5)
    assert short.peak_learning_rate == pytest.approx(4e-3 * (512 / 1024) ** 0.5)
    epochs = {long: 500, short: 100}
    for config, (warmup, temperature, frozen) in (
        (long, (80, 30, 1)),
        (short, (10, 30, 1)),
    ):
        assert config.n_steps == epochs[config] * 1250
        fractions = (
            config.warmup_fraction,
            config.temperature_warmup_fraction,
            config.freeze_last_layer_fraction,
        )
        expected = [n / epochs[config] for n in (warmup, temperature, frozen)]
        assert fractions == pytest.approx(expected)
        # Its weight of 0.1 is of the sum over two global views, this one of a mean.
        assert config.koleo_weight == pytest.approx(2 * 0.1)
    recipes = {
        "layer_decay": (1.0, 0.9),
        "weight_decay": ((0.04, 0.2), (0.04, 0.4)),
        "teacher_momentum": ((0.994, 1.0), (0.992, 1.0)),
        "n_prototypes": (131_072, 65_536),
        "head_bottleneck_dim": (384, 256),
        "centring": ("sinkhorn", "moving_average"),
    }
    for name, values in recipes.items():
        assert (getattr(long, name), getattr(short, name)) == values


@pytest.mark.parametrize(
    ("weights", "teacher", "local"),
    [
        ({"dino": 1.0}, True, True),
        ({"ibot": 1.0}, True, False),
        ({"infonce": 1.0}, False, False),
        ({"anatomy": 1.0}, False, False),
    ],
)
def test_single_objective_uses_only_what_it_needs(weights, teacher, local):
    names = ("dino", "ibot", "koleo", "infonce", "anatomy")
    config = PretrainingConfig(
        **{f"{name}_weight": weights.get(name, 0.0) for name in names}
    )
    assert config.uses_teacher == teacher
    assert config.uses_local_views == local
    without = replace(config, views=ViewConfig(n_local=0))
    assert not without.uses_local_views
