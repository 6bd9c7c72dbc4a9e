import dataclasses
import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.foreign import _preprocessing
from brainfeat.checkpoint.locate import _BUNDLED
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    UntrainedCheckpointWarning,
)
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.preprocessing.preprocessor import Preprocessor

ENCODER = EncoderConfig(
    modalities=("T1w", "FLAIR"),
    thickness=3,
    patch_size=4,
    image_size=(12, 8),
    embed_dim=16,
    depth=2,
    num_heads=2,
    slab_mixing=(1,),
)
CONFIG = CheckpointConfig(
    encoder=ENCODER,
    preprocessing={"shape": [8, 12, 6], "spacing": 2.5},
    plane="axial",
    missing_modalities=True,
    description="Trained on noise.",
)


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    return Checkpoint(CONFIG, SlabEncoder(ENCODER).state_dict(), "# Card\n\nÜber.\n")


@pytest.fixture
def folder(checkpoint, tmp_path):
    return checkpoint.save(tmp_path / "deep" / "model")


def edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept))


def test_home_folder_is_expanded(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoint.save("~/model") == tmp_path / "model"
    assert Checkpoint.load("~/model").fingerprint == checkpoint.fingerprint


def test_card_that_is_not_utf8_is_reported(folder):
    (folder / "README.md").write_bytes("Über".encode("latin-1"))
    message = r"model: README.md: expected text in UTF-8 \('utf-8' codec"
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(folder)


def test_loading_restores_what_was_saved(checkpoint, folder):
    loaded = Checkpoint.load(folder)
    assert loaded.config == CONFIG
    assert loaded.model_card == checkpoint.model_card
    assert loaded.fingerprint == checkpoint.fingerprint
    assert all(torch.equal(loaded.state[k], v) for k, v in checkpoint.state.items())
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_built_encoder_gives_the_same_tokens_and_is_independent(checkpoint, folder):
    slabs = torch.randn(2, 5, 6, 12, 8)
    encoder = Checkpoint.load(folder).build_encoder()
    assert not encoder.training
    assert all(p.requires_grad for p in encoder.parameters())
    expected = checkpoint.build_encoder()(slabs)
    torch.testing.assert_close(encoder(slabs), expected)
    before = checkpoint.fingerprint
    with torch.no_grad():
        for parameter in checkpoint.build_encoder().parameters():
            parameter.zero_()
    torch.testing.assert_close(checkpoint.build_encoder()(slabs), expected)
    assert checkpoint.fingerprint == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_stored_and_loads_as_float32(dtype, checkpoint, tmp_path):
    folder = checkpoint.save(tmp_path / "half", dtype=dtype)
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {getattr(torch, dtype)}
    loaded = Checkpoint.load(folder)
    assert {value.dtype for value in loaded.state.values()} == {torch.float32}
    again = Checkpoint.load(loaded.save(tmp_path / "again"))
    assert again.fingerprint == loaded.fingerprint


def test_saving_replaces_a_checkpoint_and_keeps_other_files(checkpoint, folder):
    (folder / "log.jsonl").write_text("{}")
    other = Checkpoint(
        dataclasses.replace(CONFIG, pooling="cls"),
        {name: value + 1 for name, value in checkpoint.state.items()},
    )
    other.save(folder)
    assert Checkpoint.load(folder).fingerprint == other.fingerprint
    assert (folder / "log.jsonl").exists()
    assert len(list(folder.iterdir())) == 4


def test_unknown_precision_is_rejected(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="float16"):
        checkpoint.save(tmp_path / "folder", dtype="int8")
    assert not (tmp_path / "folder").exists()


def test_failed_save_keeps_the_old_checkpoint(checkpoint, folder, monkeypatch):
    other = Checkpoint(CONFIG, {k: v + 1 for k, v in checkpoint.state.items()})
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other.save(folder)
    monkeypatch.undo()
    assert Checkpoint.load(folder).fingerprint == checkpoint.fingerprint
    assert len(list(folder.iterdir())) == 3


def test_fingerprint_depends_on_weights_and_settings(checkpoint):
    def with_config(**changes):
        config = dataclasses.replace(CONFIG, **changes)
        return Checkpoint(config, checkpoint.state).fingerprint

    name = "blocks.1.mlp.fc2.bias"
    state = checkpoint.state | {name: checkpoint.state[name] + 1e-6}
    settings = [
        with_config(preprocessing={"shape": [8, 12, 6], "spacing": 2.0}),
        with_config(plane="coronal"),
        with_config(pooling="cls"),
        with_config(missing_modalities=False),
        with_config(trained=False),
        with_config(encoder=dataclasses.replace(ENCODER, position_mode="antialiased")),
        Checkpoint(CONFIG, state).fingerprint,
        checkpoint.fingerprint,
    ]
    assert len(set(settings)) == len(settings)
    assert with_config(description="other", library_version="9") == settings[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
        ({"plane": None}, r"missing keys \['plane'\]"),
        ({"plane": "oblique"}, "plane: expected one of"),
        ({"pooling": "max"}, "pooling: expected one of"),
        ({"trained": "yes"}, "trained: expected bool, got 'yes'"),
        ({"preprocessing": 3}, "preprocessing: expected Mapping, got 3"),
        ({"encoder": 3}, "encoder: expected an object, got 3"),
        ({"encoder": {"width": 3}}, r"unknown keys \['width'\]"),
        ({"encoder": ENCODER.to_dict() | {"depth": 3}}, "missing keys: blocks.2"),
        ({"weights_sha256": "0" * 64}, "SHA-256"),
        ({"weights_sha256": None}, "SHA-256"),
        ({"format": "brainfeat-checkpoint-9"}, "expected format"),
    ],
)
def test_edited_configuration_is_rejected(changes, message, folder):
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        Checkpoint.load(folder)
    assert str(folder) in str(error.value)


def test_damaged_files_are_rejected(folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        Checkpoint.load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        Checkpoint.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(
        CheckpointError, match=r"config\.json: expected the config.*no valid JSON"
    ):
        Checkpoint.load(folder)


def test_weights_of_another_encoder_are_listed(checkpoint):
    state = dict(checkpoint.state)
    del state["pos_embed"]
    state["extra"] = torch.zeros(1)
    state["norm.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as error:
        Checkpoint(CONFIG, state)
    for part in ("missing keys: pos_embed", "unexpected keys: extra", "norm.bias (3,)"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["brainfound-huge", "", "no/such/folder", "~nobody-of-this-name", "x" * 300],
)
def test_unknown_name_lists_bundled_checkpoints(name):
    with pytest.raises(CheckpointError) as error:
        Checkpoint.load(name)
    message = str(error.value)
    assert repr(name) in message
    assert "brainfound-tiny" in message
    assert "\n" not in message


def test_missing_configuration_is_reported(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError) as error:
        Checkpoint.load(folder)
    expected = f"{folder}: expected config.json of a brainfeat checkpoint, or weights"
    assert str(error.value).startswith(expected)
    assert str(error.value).count(str(folder)) == 1


def test_weights_are_copies():
    network = SlabEncoder(ENCODER)
    checkpoint = Checkpoint(CONFIG, network.state_dict())
    before = {name: value.clone() for name, value in checkpoint.state.items()}
    with torch.no_grad():
        for value in network.parameters():
            value += 1.0
    for name, value in checkpoint.state.items():
        assert torch.equal(value, before[name])


def test_folder_without_weights_is_reported(tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        Checkpoint.load(tmp_path)


def test_local_prefix_is_removed(checkpoint, folder):
    loaded = Checkpoint.load(f"local-dir:{folder}")
    assert loaded.fingerprint == checkpoint.fingerprint


def test_hub_folder_is_loaded(checkpoint, folder, monkeypatch):
    hub = SimpleNamespace(snapshot_download=lambda *_, **__: str(folder))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    loaded = Checkpoint.load("hf-hub:lab/brain@v1")
    assert loaded.fingerprint == checkpoint.fingerprint


@pytest.mark.parametrize("patch_size", [14, 16])
def test_foreign_weights_keep_their_rgb_kernels(patch_size, tmp_path):
    torch.manual_seed(0)
    rgb = EncoderConfig(
        modalities=("T1w",),
        thickness=3,
        patch_size=patch_size,
        image_size=(2 * patch_size, 2 * patch_size),
        embed_dim=64,
        depth=1,
        num_heads=1,
    )
    state = SlabEncoder(rgb).state_dict()
    state = {
        k: v for k, v in state.items() if k not in {"modality_embed", "absent_embed"}
    }
    save_file(state, tmp_path / "dinov2.safetensors")
    loaded = Checkpoint.load(tmp_path / "dinov2.safetensors")
    assert loaded.config.encoder == dataclasses.replace(rgb, layer_scale=1e-5)
    assert loaded.config.trained
    assert not loaded.config.missing_modalities
    assert "dinov2.safetensors" in loaded.model_card
    kernels = loaded.state["patch_embed.proj.weight"]
    assert torch.equal(kernels, state["patch_embed.proj.weight"])
    shape = loaded.config.preprocessing["shape"]
    assert [shape[0] % patch_size, shape[1] % patch_size, shape[2] % 3] == [0, 0, 0]
    saved = Checkpoint.load(loaded.save(tmp_path / "converted"))
    assert saved.fingerprint == loaded.fingerprint


def test_preprocessing_of_dinov2_weights_is_valid():
    plain = _preprocessing(
        EncoderConfig.preset("small", modalities=["T1w"], thickness=3), "dinov2", None
    )
    preprocessor = Preprocessor.from_dict(plain)
    assert tuple(preprocessor.shape) == (154, 196, 150)
    assert json.loads(json.dumps(preprocessor.to_dict())) == plain


def test_untrained_weights_warn_and_depend_on_the_seed(tmp_path):
    config = dataclasses.replace(CONFIG, trained=False)
    state = torch.random.get_rng_state()
    first, same, other = (Checkpoint.untrained(config, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.fingerprint == same.fingerprint != other.fingerprint
    first.save(tmp_path / "random")
    with pytest.warns(UntrainedCheckpointWarning, match="random is not trained"):
        Checkpoint.load(tmp_path / "random")
    with pytest.raises(ConfigError, match="trained=False"):
        Checkpoint.untrained(CONFIG)


def test_short_card_describes_the_checkpoint():
    config = dataclasses.replace(CONFIG, trained=False)
    card = Checkpoint.untrained(config).model_card
    for part in (
        "Trained on noise.",
        "recommended pooling: mean",
        "not trained",
        "T1w, FLAIR",
        "3 slices",
        "patches of 4",
    ):
        assert part in card
    assert "Not a medical device" in card


def test_bundled_checkpoint_is_small_and_made_for_the_default_preprocessing():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedCheckpointWarning)
        bundled = Checkpoint.load("brainfound-tiny")
    weights = _BUNDLED / "brainfound-tiny"
    assert (weights / "model.safetensors").stat().st_size <= 16 * 2**20
    assert bundled.config.encoder.modalities == ("T1w", "T2w", "FLAIR")
    assert bundled.config.missing_modalities
    assert "medical device" in bundled.model_card
    default = json.dumps(Preprocessor().to_dict())
    assert json.loads(default) == bundled.config.preprocessing


def test_models_need_torch_numpy_and_safetensors_only():
    code = "import sys, brainfeat.checkpoint.checkpoint; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    others = {"nibabel", "nilearn", "SimpleITK", "isal", "pandas", "sklearn", "scipy"}
    others |= {"joblib", "pyarrow", "typer", "rich", "transformers", "huggingface_hub"}
    assert others.isdisjoint(result.stdout.split())
