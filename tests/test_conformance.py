"""Encoders give the tokens of transformers and MONAI, in all their layouts."""

import re

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from brainfeat.checkpoint.layouts import convert_state, load_foreign
from brainfeat.models.encoders import build_encoder
from brainfeat.models.volume_positions import make_sinusoids

SIZES = {
    "small": {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 4},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12},
    "swiglu": {
        "hidden_size": 192,
        "num_attention_heads": 3,
        "num_hidden_layers": 5,
        "use_swiglu_ffn": True,
    },
}
TOLERANCE = 1e-5
META_NAMES = [
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"\.mlp\.down_proj\.", ".mlp.w3."),
]


def reference(size, *, registers):
    values = SIZES[size] | {"image_size": 70, "patch_size": 14}
    with torch.device("meta"):
        if registers:
            config = Dinov2WithRegistersConfig(**values, num_register_tokens=3)
            model = Dinov2WithRegistersModel(config)
        else:
            model = Dinov2Model(Dinov2Config(**values))
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(len(size) + 7 * registers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Nothing at zero or one, so that no parameter can be forgotten.
            parameter.normal_(std=0.03, generator=generator)
            if name.endswith(
                ("lambda1", "norm.weight", "norm1.weight", "norm2.weight")
            ):
                parameter.add_(1.0)
    return model.eval()


def meta_layout(model):
    state = model.state_dict()
    layout = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in META_NAMES:
            new = re.sub(pattern, replacement, new)
        if ".k_proj." in name or ".v_proj." in name or ".up_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [state[name.replace(".q_", f".{part}_")] for part in "qkv"]
            layout[new.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif ".gate_proj." in name:
            parts = [value, state[name.replace("gate", "up")]]
            layout[new.replace("gate_proj", "w12")] = torch.cat(parts)
        else:
            layout[new] = value
    return layout


def timm_layout(model):
    layout = meta_layout(model)
    del layout["mask_token"]
    if "register_tokens" in layout:
        layout["reg_token"] = layout.pop("register_tokens")
        positions = layout["pos_embed"]
        layout["cls_token"] = layout["cls_token"] + positions[:, :1]
        layout["pos_embed"] = positions[:, 1:]
    return {
        name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): value
        for name, value in layout.items()
    }


def relative_error(encoder, model, pixels):
    n_prefix = 1 + encoder.config.num_register_tokens
    with torch.inference_mode():
        tokens = model(pixels).last_hidden_state
        output = encoder(pixels[:, None])
    patches = output.patch_tokens.flatten(1, 3)
    ours = torch.cat([output.cls_token, patches], 1)
    theirs = torch.cat([tokens[:, :1], tokens[:, n_prefix:]], 1)
    return ((ours - theirs).norm() / theirs.norm()).item()


def build(config, state):
    encoder = build_encoder(config)
    encoder.load_state_dict(state)
    return encoder.eval()


@pytest.mark.parametrize("registers", [False, True], ids=["plain", "registers"])
@pytest.mark.parametrize("size", ["small", "swiglu"])
def test_tokens_equal_those_of_transformers(size, registers, tmp_path):
    model = reference(size, registers=registers)
    model.save_pretrained(tmp_path)
    torch.save(meta_layout(model), tmp_path / "meta.pth")
    save_file(timm_layout(model), tmp_path / "timm.safetensors")
    for path in (tmp_path, tmp_path / "meta.pth", tmp_path / "timm.safetensors"):
        encoder = build(*load_foreign(path))
        for shape in [(70, 70), (42, 98), (112, 56)]:
            pixels = torch.randn(2, 3, *shape)
            assert relative_error(encoder, model, pixels) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("registers", [False, True], ids=["plain", "registers"])
def test_tokens_of_the_base_size_equal_those_of_transformers(registers):
    model = reference("base", registers=registers)
    encoder = build(*convert_state(timm_layout(model)))
    for shape in [(56, 56), (28, 70)]:
        assert relative_error(encoder, model, torch.randn(1, 3, *shape)) < TOLERANCE


def test_masked_patches_equal_those_of_transformers():
    model = reference("swiglu", registers=False)
    encoder = build(*convert_state(model.state_dict()))
    pixels = torch.randn(2, 3, 42, 56)
    masks = torch.rand(2, 1, 3, 4) < 0.5
    with torch.inference_mode():
        ours = encoder(pixels[:, None], masks=masks).patch_tokens.flatten(1, 3)
        theirs = model(pixels, bool_masked_pos=masks.flatten(1)).last_hidden_state
    torch.testing.assert_close(ours, theirs[:, 1:], rtol=1e-4, atol=1e-4)


def test_blocks_equal_the_hidden_states_of_transformers():
    model = reference("swiglu", registers=True)
    encoder = build(*convert_state(model.state_dict()))
    pixels = torch.randn(2, 3, 42, 56)
    with torch.inference_mode():
        outputs = encoder.forward_intermediates(pixels[:, None], [3, -1, 0])
        hidden = model(pixels, output_hidden_states=True).hidden_states
        for index, output in zip([3, 4, 0], outputs, strict=True):
            expected = model.layernorm(hidden[index + 1])[:, 4:]
            ours = output.patch_tokens.flatten(1, 3)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_memory", [True, False])
def test_both_generations_of_transformers_names_convert(in_memory, tmp_path):
    # Since version 5 the model's own names differ from those in its files.
    model = reference("swiglu", registers=False)
    model.save_pretrained(tmp_path)
    config, state = (
        convert_state(model.state_dict()) if in_memory else load_foreign(tmp_path)
    )
    _, expected = convert_state(meta_layout(model))
    assert config.num_heads == 3
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("gated", [False, True])
@torch.inference_mode()
def test_tokens_of_dinov3_equal_those_of_transformers(gated, tmp_path):
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=192,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    model = DINOv3ViTModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    states = [load_foreign(tmp_path), convert_state(model.state_dict())]
    if not gated:
        states.append(convert_state(meta_dinov3(model)))
    for encoder in [build(*state) for state in states]:
        for shape in [(48, 80), (32, 16)]:
            pixels = torch.randn(2, 3, *shape)
            assert relative_error(encoder, model, pixels) < TOLERANCE


def meta_dinov3(model):
    """Return a state in Meta's names, with its masked biases and its periods."""
    state = dict(model.state_dict())
    result = {"rope_embed.periods": torch.ones(16)}
    for name, value in state.items():
        new = re.sub(r"^(embeddings|model)\.", "", name)
        new = new.replace("register_tokens", "storage_tokens")
        new = new.replace("patch_embeddings", "patch_embed.proj")
        new = re.sub(r"layer\.(\d+)\.", r"blocks.\1.", new)
        new = new.replace("attention.o_proj", "attn.proj")
        new = new.replace("mlp.up_proj", "mlp.fc1").replace("mlp.down_proj", "mlp.fc2")
        new = re.sub(r"layer_scale(\d)\.lambda1", r"ls\1.gamma", new)
        if "k_proj" in new or "v_proj" in new:
            continue
        if "q_proj" in new:
            parts = [state.get(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
            # What lies under the mask has no effect.
            parts = [torch.full_like(value, 7.0) if x is None else x for x in parts]
            value = torch.cat(parts)
            new = new.replace("attention.q_proj", "attn.qkv")
            if new.endswith("bias"):
                result[f"{new}_mask"] = torch.full_like(value, torch.nan)
        result[new] = value[0] if new == "mask_token" else value
    return result


@torch.inference_mode()
def test_vit_of_monai_gives_the_same_tokens():
    nets = pytest.importorskip("monai.networks.nets")
    sizes = {"hidden_size": 128, "mlp_dim": 192, "num_layers": 3, "num_heads": 2}
    model = nets.ViT(1, (32, 32, 32), (16, 16, 16), **sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config, state = convert_state(model.state_dict())
    encoder = build(config, state)
    volume = torch.randn(2, 1, 32, 32, 32)
    volumes = volume.repeat(1, len(config.modalities), 1, 1, 1)
    tokens = encoder(volumes).patch_tokens.flatten(1, 3)
    torch.testing.assert_close(tokens, model(volume)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "has_bias"), [(1, True), (2, False)])
@torch.inference_mode()
def test_resnet_of_monai_gives_the_same_feature(stride, has_bias):
    nets = pytest.importorskip("monai.networks.nets")
    sizes = {"block": "basic", "layers": [2] * 4, "block_inplanes": [3, 4, 5, 6]}
    stem = {"n_input_channels": 1, "conv1_t_stride": stride}
    model = nets.ResNet(**sizes, **stem, bias_downsample=has_bias, feed_forward=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    volume = torch.randn(2, 1, 35, 41, 33)
    model.train()(volume)  # statistics of the batch norms
    config, state = convert_state(model.state_dict())
    encoder = build(config, state)
    feature = encoder(volume).patch_tokens.mean((1, 2, 3))
    torch.testing.assert_close(feature, model.eval()(volume), rtol=1e-4, atol=1e-4)


def test_sinusoids_are_those_of_monai():
    utils = pytest.importorskip("monai.networks.blocks.pos_embed_utils")
    grid = (2, 3, 4)
    places = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1)
    with pytest.warns(UserWarning, match="indexing"):
        expected = utils.build_sincos_position_embedding(grid, 24, 3)
    torch.testing.assert_close(make_sinusoids(places, 24).flatten(0, 2), expected[0])
