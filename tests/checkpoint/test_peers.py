"""Public encoders give the outputs of their authors' code, from files as released."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from brainfeat.checkpoint import Checkpoint
from brainfeat.checkpoint.layouts import convert_foreign, convert_state
from brainfeat.checkpoint.layouts.conversion import LAYOUTS as ALL_LAYOUTS
from brainfeat.exceptions import CheckpointError

# Key lists have name, shape and type of each tensor of a released file; references are
# outputs of the authors' code at weights and inputs that `rule_state` and `reference`
# draw, every ninth token of long sequences.
STEP = 9
FOLDER = Path(__file__).parent / "peers"


def rule_state(name):
    """Return tensors for the keys of a list, each drawn from its name."""
    lines = (FOLDER / "keys" / f"{name}.tsv").read_text().splitlines()
    return dict(_tensor(*line.split("\t")) for line in lines)


def _tensor(key, shape, kind):
    sizes = tuple(map(int, shape.split("x"))) if shape else ()
    if kind.startswith("int"):
        return key, torch.zeros(sizes, dtype=torch.int64)
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    z = generator.standard_normal(sizes, dtype=np.float32)
    if key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(z)
    elif z.ndim == 1:
        value = 0.1 * z + key.endswith((".weight", ".gamma"))
    elif z.ndim < 4:
        value = 0.02 * z
    else:
        value = z / np.float32(np.sqrt(np.prod(sizes[1:])))
    return key, torch.from_numpy(value.astype(np.float32))


def reference(name):
    """Return the outputs of a peer, and its input."""
    with np.load(FOLDER / "references.npz") as arrays:
        found = {k.split("/")[1]: arrays[k] for k in arrays if k.split("/")[0] == name}
    outputs = {key: torch.from_numpy(value) for key, value in found.items()}
    shape = tuple(outputs.pop("input_shape").tolist())
    generator = np.random.default_rng(7)
    draw = generator.random if "jepa" in name else generator.standard_normal
    return outputs, torch.from_numpy(draw(shape, dtype=np.float32))


def load(state, tmp_path, nesting=("state_dict",)):
    content = state
    for key in reversed(nesting):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    return Checkpoint.load(tmp_path / "weights.pth")


def one_modality(encoder, volume):
    """Return a subject of whose modalities only the first is there."""
    n_modalities = len(encoder.config.modalities)
    volumes = torch.full((1, n_modalities, *volume.shape[-3:]), torch.nan)
    volumes[:, 0] = volume
    present = torch.arange(n_modalities)[None] == 0
    return volumes, present


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("name", "nesting", "prefix"),
    [
        ("brainiac_small", ("state_dict",), ""),
        ("brainiac_small", ("state_dict",), "backbone."),
        ("3dino_small", ("teacher",), ""),
        ("3dino_small_96x112x128", ("model", "teacher"), "module."),
        ("neurojepa_small", (), "student.vision_encoder."),
        ("neurojepa_small", ("model_state_dict",), "target_encoder.module._orig_mod."),
    ],
)
@torch.inference_mode()
def test_tokens_are_those_of_the_authors(name, nesting, prefix, tmp_path):
    state = rule_state(name.removesuffix("_96x112x128"))
    state = {f"{prefix}{key}": value for key, value in state.items()}
    encoder = load(state, tmp_path, nesting).build_encoder()
    outputs, volume = reference(name)
    volumes, present = one_modality(encoder, volume)
    output = encoder(volumes, present=present)
    patches = output.patch_tokens.flatten(1, 3)[:, ::STEP]
    expected = outputs.get("patches", outputs.get("tokens"))
    assert relative_error(patches, expected) < 1e-5
    assert (output.cls_token is None) == ("cls" not in outputs)
    if "cls" in outputs:
        assert relative_error(output.cls_token, outputs["cls"]) < 1e-5


@torch.inference_mode()
def test_modalities_of_bm_mae_are_one_sequence(tmp_path):
    checkpoint = load(rule_state("bmmae_small"), tmp_path, ())
    encoder = checkpoint.build_encoder()
    outputs, (t1, flair) = reference("bmmae_small")
    names = encoder.config.modalities
    volumes = torch.full((1, len(names), *t1.shape[1:]), torch.nan)
    for name, volume in (("T1w", t1), ("FLAIR", flair)):
        volumes[0, names.index(name)] = volume[0]
    present = ~volumes[..., 0, 0, 0].isnan()
    output = encoder.forward_streams(volumes, present=present)
    assert relative_error(output.cls_token[:, 0], outputs["cls"]) < 1e-5
    patches = output.patch_tokens[present].flatten(0, 3)[None, ::32]
    assert relative_error(patches, outputs["patches"]) < 1e-5
    mean = encoder(volumes, present=present).patch_tokens
    torch.testing.assert_close(mean, output.patch_tokens[present].mean(0)[None])


@torch.inference_mode()
def test_tokens_of_neurovfm_are_those_of_the_authors(tmp_path):
    encoder = load(rule_state("neurovfm_small"), tmp_path).build_encoder()
    outputs, patches = reference("neurovfm_small")
    places = outputs["coordinates"]
    output = encoder.forward_patches(patches, places)
    assert output.cls_token is None
    assert relative_error(output.patch_tokens[::10], outputs["tokens"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["neuro_simclr_full", "anatcl_full"])
@torch.inference_mode()
def test_features_of_residual_networks_are_those_of_the_authors(name, tmp_path):
    key = "model" if name == "anatcl_full" else "model_state_dict"
    encoder = load(rule_state(name), tmp_path, (key,)).build_encoder()
    outputs, volume = reference(name)
    feature = encoder(volume).patch_tokens.mean((1, 2, 3))
    assert relative_error(feature, outputs["feature"]) < 1e-5


def test_chunks_and_averages_of_training_are_recognised():
    state = rule_state("3dino_small")
    both = {f"student.{name}": -value for name, value in state.items()}
    both |= {f"teacher.{name}": value for name, value in state.items()}
    both["teacher.dino_head.mlp.0.weight"] = torch.ones(2)
    (config, expected), (same, found) = convert_state(state), convert_state(both)
    assert config == same
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_cross_attention_of_newer_monai_is_dropped_and_said():
    state = rule_state("brainiac_small")
    for part in ("to_q", "to_k", "to_v", "out_proj"):
        state[f"backbone.blocks.1.cross_attn.{part}.weight"] = torch.ones(64, 64)
    n_unused = sum("cross_attn" in name for name in state)
    released = {name: v for name, v in state.items() if "cross_attn" not in name}
    newer, older = convert_foreign(state), convert_foreign(released)
    assert newer.encoder == older.encoder
    assert all(torch.equal(newer.state[n], older.state[n]) for n in older.state)
    assert f"{n_unused} parameters of cross-attention" in newer.note
    assert not older.note


LAYOUTS = {
    "brainiac_small": "brainiac",
    "3dino_small": "3dino",
    "bmmae_small": "bm-mae",
    "neurovfm_small": "neurovfm",
    "neurojepa_small": "neuro-jepa",
    "neuro_simclr_full": "neuro-simclr",
    "anatcl_full": "anatcl",
}


def empty_state(name):
    lines = (FOLDER / "keys" / f"{name}.tsv").read_text().splitlines()
    keys = [line.split("\t") for line in lines]
    return {
        key: torch.ones([int(n) for n in shape.split("x") if n])
        for key, shape, _ in keys
    }


@pytest.mark.parametrize(("name", "layout"), LAYOUTS.items())
def test_layout_is_found_from_keys_and_shapes(name, layout):
    state = empty_state(name)
    prefixed = {f"module.model.{key}": value for key, value in state.items()}
    assert convert_foreign(prefixed).layout == layout


@pytest.mark.parametrize("name", LAYOUTS)
def test_half_the_keys_name_the_nearest_layout_and_what_is_missing(name):
    state = empty_state(name)
    kept = [k for n, k in enumerate(state) if n % 2 == 0 or "patch_embed" in k]
    title = next(x.title for x in ALL_LAYOUTS if x.name == LAYOUTS[name])
    with pytest.raises(CheckpointError) as error:
        convert_foreign({key: state[key] for key in kept})
    message = str(error.value)
    assert message.startswith(f"the weights do not fit the nearest layout, {title}: ")
    listed = message.partition("missing keys: ")[2].partition(" and ")[0].split(", ")
    assert len(listed) == 10
    assert not {*listed} & {key.removeprefix("backbone.") for key in kept}


@pytest.mark.parametrize("name", LAYOUTS)
def test_sizes_of_half_a_file_do_not_make_the_other_half_misshaped(name):
    state = empty_state(name)
    with pytest.raises(CheckpointError, match="missing keys") as error:
        convert_foreign({key: state[key] for key in [*state][::2]})
    assert "misshaped" not in str(error.value)


def test_layouts_that_are_as_near_are_all_named():
    state = empty_state("3dino_small")
    kept = {k: v for k, v in state.items() if "patch_embed.proj.weight" not in k}
    del kept["backbone.pos_embed"]
    with pytest.raises(CheckpointError, match=r"DINOv2 of Meta.*As near: .*3DINO"):
        convert_foreign(kept)


@pytest.mark.parametrize("name", ["brainiac_small", "neurojepa_small"])
def test_no_missing_or_misshaped_tensor_goes_unnoticed(name):
    state = empty_state(name)
    for key in [k for k in state if "blocks.0" in k or "blocks" not in k]:
        if "cross_attn" in key:
            continue
        short = key.removeprefix("backbone.")
        others = {k: v for k, v in state.items() if k != key}
        with pytest.raises(CheckpointError, match=f"missing keys: {short}"):
            convert_foreign(others)
        wrong = torch.ones(*state[key].shape, 3)
        with pytest.raises(CheckpointError, match=f"misshaped keys: {short} "):
            convert_foreign(others | {key: wrong})


def test_unknown_networks_are_refused_with_the_layouts_that_are_known():
    state = {f"swinViT.layers{i}.0.blocks.0.attn.x": torch.ones(2) for i in range(5)}
    with pytest.raises(CheckpointError, match=r"BrainIAC, .*got keys swinViT"):
        convert_foreign(state)


def test_two_encoders_in_a_file_are_refused():
    state = empty_state("brainiac_small")
    state |= {f"other.{name}": value for name, value in state.items()}
    with pytest.raises(CheckpointError, match="expected one encoder, got prefixes"):
        convert_foreign(state)
