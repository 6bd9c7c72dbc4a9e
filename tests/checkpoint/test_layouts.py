import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from brainfeat.checkpoint.layouts import convert_state, load_foreign
from brainfeat.exceptions import CheckpointError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.transfer import transfer_weights

CONFIG = EncoderConfig(
    modalities=("T1w",),
    thickness=3,
    patch_size=7,
    image_size=(21, 21),
    embed_dim=64,
    depth=3,
    num_heads=1,
    mlp_ratio=2.0,
)
OURS = ("modality_embed", "absent_embed")
WRITTEN = {  # what a file of transformers calls a block of ours
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


@pytest.fixture
def meta():
    return meta_state()


def meta_state(**changes):
    torch.manual_seed(0)
    state = SlabEncoder(dataclasses.replace(CONFIG, **changes)).state_dict()
    return {
        name: torch.randn(value.shape)
        for name, value in state.items()
        if name not in OURS
    }


def transformers_state(meta):
    state = {}
    for name, value in meta.items():
        if name in OUTSIDE:
            state[OUTSIDE[name]] = value
            continue
        new = name.replace("blocks.", "encoder.layer.")
        for ours, theirs in WRITTEN.items():
            new = new.replace(ours, theirs)
        if "attn.qkv" in new:
            for part, rows in zip(
                ("query", "key", "value"), value.chunk(3), strict=True
            ):
                state[new.replace("attn.qkv", f"attention.attention.{part}")] = rows
        else:
            state[new] = value
    return state


def assert_converted(state, meta):
    assert {name for name in state if name not in OURS} == set(meta)
    assert all(torch.equal(state[name], value) for name, value in meta.items())


def test_sizes_are_inferred_from_the_weights(meta):
    config, state = convert_state(meta)
    assert config == CONFIG
    assert_converted(state, meta)
    assert not state["modality_embed"].any()
    SlabEncoder(config).load_state_dict(state)


def test_registers_and_swiglu_are_recognised():
    meta = meta_state(num_register_tokens=4, ffn="swiglu", mlp_ratio=4.0)
    config, state = convert_state(meta)
    assert config.num_register_tokens == 4
    assert config.position_mode == "antialiased"
    assert (config.ffn, config.mlp_ratio) == ("swiglu", 4.0)
    assert_converted(state, meta)


@pytest.mark.parametrize("hidden", [48, 128, 200])
def test_any_hidden_length_of_swiglu_is_reproduced(hidden):
    meta = meta_state(ffn="swiglu", mlp_ratio=1.5 * hidden / 64)
    assert meta["blocks.0.mlp.w3.weight"].shape == (64, hidden)
    _, state = convert_state(meta)
    assert_converted(state, meta)


@pytest.mark.parametrize(
    "prefix",
    ["teacher.", "backbone.", "module.", "teacher.backbone.", "module.model.vit."],
)
def test_prefixes_and_heads_are_removed(prefix, meta):
    state = {f"{prefix}{name}": value for name, value in meta.items()}
    root = prefix.partition("backbone.")[0]
    for head in ("dino_head.mlp.0.weight", "ibot_head.last_layer.weight", "head.bias"):
        state[f"{root}{head}"] = torch.ones(2)
    state["dino_loss.center"] = torch.ones(2)
    assert_converted(convert_state(state)[1], meta)


def test_teacher_is_preferred_to_the_student(meta):
    state = {f"student.backbone.{name}": -value for name, value in meta.items()}
    state |= {f"teacher.backbone.{name}": value for name, value in meta.items()}
    assert_converted(convert_state(state)[1], meta)
    with pytest.raises(CheckpointError, match=r"expected one encoder, .*'a\.'.*'b\.'"):
        convert_state({f"{p}.{n}": v for p in "ab" for n, v in meta.items()})


def test_checkpoint_of_lightly_train_is_its_teacher(meta, tmp_path):
    root = "teacher_embedding_model_wrapper._model."
    state = {f"{root}{name}": value for name, value in meta.items()}
    for other in ("student_embedding_model_wrapper._model.", "embedding_model._model."):
        state |= {f"{other}{name}": -value for name, value in meta.items()}
    for head in (
        *(
            "teacher_dino_head.dino_head.layers.0.weight",
            "student_dino_head.last.weight",
        ),
        *("teacher_ibot_head.ibot_head.last_layer.weight", "student_ibot_head.x.bias"),
        *("dino_loss.center", "ibot_loss.center", "koleo_loss.x"),
    ):
        state[head] = torch.ones(2)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    assert_converted(load_foreign(tmp_path / "last.ckpt")[1], meta)
    with pytest.raises(CheckpointError, match=r"unexpected keys: other\.weight"):
        convert_state(state | {"other.weight": torch.ones(2)})


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module."])
def test_wrappers_of_torch_are_removed(wrapper, meta):
    state = {
        f"model.{wrapper}{name.replace('blocks.1.', f'blocks.1.{wrapper}')}": value
        for name, value in meta.items()
    }
    assert_converted(convert_state(state)[1], meta)


def test_ten_keys_of_a_kind_are_listed(meta):
    state = meta | {f"extra.{index:02}": torch.ones(1) for index in range(57)}
    with pytest.raises(CheckpointError, match=r"keys: extra.00, .*09 and 47 more"):
        convert_state(state)


def test_chunked_blocks_of_sharded_training_keep_their_index(meta):
    state = {
        name.replace("blocks.0.", "blocks.0.0.")
        .replace("blocks.1.", "blocks.0.1.")
        .replace("blocks.2.", "blocks.1.2."): value
        for name, value in meta.items()
    }
    assert_converted(convert_state(state)[1], meta)


def test_wrapped_classifier_of_transformers_is_converted(meta):
    state = {f"dinov2.{n}": v for n, v in transformers_state(meta).items()}
    state["classifier.weight"] = torch.ones(2, 128)
    assert_converted(convert_state(state)[1], meta)


def test_weights_without_layer_scale_or_mask_token_get_neutral_ones(meta):
    bare = {n: v for n, v in meta.items() if "gamma" not in n and n != "mask_token"}
    _, state = convert_state(bare)
    assert torch.equal(state["blocks.2.ls1.gamma"], torch.ones(64))
    assert torch.equal(state["mask_token"], torch.zeros(1, 64))


def test_half_precision_becomes_float32(meta):
    _, state = convert_state({name: value.half() for name, value in meta.items()})
    assert {value.dtype for value in state.values()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.int8])
def test_weights_must_be_finite_floats(meta, value):
    name = "blocks.1.attn.qkv.weight"
    if isinstance(value, torch.dtype):
        meta[name] = meta[name].to(value)
    else:
        meta[name][3, 2] = value
    with pytest.raises(CheckpointError, match=rf"finite .* got others in {name}\."):
        convert_state(meta)


def test_all_problems_are_listed_in_the_names_of_the_file(meta):
    state = transformers_state(meta)
    del state["encoder.layer.1.attention.attention.key.weight"]
    del state["layernorm.bias"]
    state["encoder.layer.0.mlp.fc1.bias"] = torch.zeros(3)
    state["embeddings.cls_token"] = torch.zeros(1, 1, 63)
    state["encoder.layer.2.gate.weight"] = torch.zeros(1)
    state["pooler.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        convert_state(state)
    message = str(error.value)
    for part in (
        "missing keys: encoder.layer.1.attention.attention.key.weight, layernorm.bias",
        "unexpected keys: encoder.layer.2.gate.weight, pooler.weight",
        "embeddings.cls_token (1, 1, 63) instead of (1, 1, 64)",
        "encoder.layer.0.mlp.fc1.bias (3,) instead of (128,)",
    ):
        assert part in message


@pytest.mark.parametrize("name", sorted(meta_state()))
def test_no_missing_tensor_goes_unnoticed(name, meta):
    if name == "mask_token":
        return
    del meta[name]
    with pytest.raises(CheckpointError, match=f"missing keys: {name}"):
        convert_state(meta)


@pytest.mark.parametrize("name", sorted(meta_state()))
def test_no_misshaped_tensor_goes_unnoticed(name, meta):
    meta[name] = torch.zeros(*meta[name].shape, 5)
    with pytest.raises(CheckpointError, match=rf"{name} .* instead of"):
        convert_state(meta)


@pytest.mark.parametrize("n_positions", [1 + 3 * 4, 1 + 3 * 5])  # the latter is 4 * 4
def test_positions_must_form_a_square(meta, n_positions):
    meta["pos_embed"] = torch.zeros(1, n_positions, 64)
    with pytest.raises(CheckpointError, match=rf"pos_embed \(1, {n_positions}, 64\)"):
        convert_state(meta)


def test_other_networks_are_rejected():
    state = {"conv1.weight": torch.zeros(4, 3, 7, 7), "fc.bias": torch.zeros(10)}
    with pytest.raises(
        CheckpointError, match=r"expected transformer blocks.*conv1\.weight"
    ):
        convert_state(state)


def test_head_count_comes_from_width_argument_or_folder(meta, tmp_path):
    assert convert_state(meta)[0].num_heads == 1
    assert convert_state(meta, num_heads=4)[0].num_heads == 4
    save_file(transformers_state(meta), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 8}))
    assert load_foreign(tmp_path)[0].num_heads == 8
    with pytest.raises(CheckpointError, match="unknown number of attention"):
        convert_state(meta_state(embed_dim=72))


@pytest.mark.parametrize("entry", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-12}])
def test_other_architecture_of_the_same_shapes_is_rejected(entry, meta, tmp_path):
    save_file(transformers_state(meta), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(entry))
    with pytest.raises(CheckpointError, match=next(iter(entry))):
        load_foreign(tmp_path)


def test_error_starts_with_the_path(meta, tmp_path):
    del meta["norm.bias"]
    torch.save(meta, tmp_path / "meta.pth")
    with pytest.raises(CheckpointError) as error:
        load_foreign(tmp_path / "meta.pth")
    assert str(error.value).startswith(f"{tmp_path / 'meta.pth'}: ")


def test_converted_weights_move_to_other_channels(meta):
    config, state = convert_state(meta)
    moved = transfer_weights(state, config, modalities=("T1w", "T2w"), thickness=4)
    rgb = meta["patch_embed.proj.weight"]
    expected = (rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) / 8
    for channel in range(8):
        torch.testing.assert_close(
            moved["patch_embed.proj.weight"][:, channel], expected
        )
