"""Public encoders give the outputs of their authors' code, from files as released."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from brainfeat.checkpoint import Checkpoint

# Key lists have name, shape and type of each tensor of a released file; references are
# outputs of the authors' code at weights and inputs that `rule_state` and `reference`
# draw, every ninth token of long sequences.
STEP = 9
FOLDER = Path(__file__).parent / "peers"


def rule_state(name):
    """Return tensors for the keys of a list, each drawn from its name."""
    lines = (FOLDER / f"{name}.tsv").read_text().splitlines()
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
