import itertools
from dataclasses import replace

import pytest
import torch

from brainfeat.exceptions import ConfigError
from brainfeat.pretraining.optimizer import MuonWithAdamW, build_optimizer, set_schedule
from brainfeat.pretraining.self_distillation import HeadedEncoder


@pytest.fixture
def config(small_config):
    """Four blocks, the third followed by slab mixing."""
    encoder = replace(
        small_config.encoder, depth=4, slab_mixing=(2,), num_register_tokens=2
    )
    return replace(
        small_config,
        encoder=encoder,
        layer_decay=0.8,
        patch_embed_lr=0.3,
        n_steps=20,
        warmup_fraction=0.25,
        freeze_last_layer_fraction=0.2,
    )


@pytest.fixture
def network(config):
    return HeadedEncoder(config, 3)


def by_name(network, optimizer, key):
    """Setting of each parameter's group."""
    values = {
        id(parameter): group[key]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {
        name: values[id(parameter)]
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }


def test_every_trained_parameter_is_in_one_group(network, config):
    network.encoder.mask_token.requires_grad_(False)
    optimizer = build_optimizer(network, config)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    trained = [id(p) for p in network.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)


def test_learning_rates_rise_from_the_patches_to_the_heads(network, config):
    optimizer = build_optimizer(network, config)
    peak = set_schedule(optimizer, 7, config)
    rates = by_name(network, optimizer, "lr")
    ladder = [
        rates["encoder.patch_embed.proj.weight"],
        rates["encoder.pos_embed"],
        *[rates[f"encoder.blocks.{index}.attn.qkv.weight"] for index in range(4)],
        rates["encoder.norm.weight"],
    ]
    steps = [upper / lower for lower, upper in itertools.pairwise(ladder)]
    assert steps == pytest.approx([1 / 0.3] + 5 * [1 / 0.8])
    assert ladder[-1] == peak
    heads = [rate for name, rate in rates.items() if not name.startswith("encoder.")]
    assert set(heads) == {peak}


def test_all_parameters_of_a_block_have_one_learning_rate(network, config):
    optimizer = build_optimizer(network, config)
    set_schedule(optimizer, 7, config)
    rates = by_name(network, optimizer, "lr")
    for index in range(4):
        parts = (f"encoder.blocks.{index}.", f"encoder.slab_mixing.{index}.")
        assert len({rates[name] for name in rates if name.startswith(parts)}) == 1
    around = ("cls_token", "pos_embed", "register_tokens", "modality_embed")
    assert len({rates[f"encoder.{name}"] for name in around}) == 1


def test_layer_decay_of_one_gives_one_rate(network, config):
    config = replace(config, layer_decay=1.0, patch_embed_lr=1.0)
    optimizer = build_optimizer(network, config)
    set_schedule(optimizer, 7, config)
    assert len(set(by_name(network, optimizer, "lr").values())) == 1


def test_only_matrices_decay(network, config):
    optimizer = build_optimizer(network, config)
    set_schedule(optimizer, 7, config)
    decay = by_name(network, optimizer, "weight_decay")
    layers = {
        f"{prefix}.weight"
        for prefix, module in network.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d)
    }
    assert {name for name, value in decay.items() if value > 0} == layers
    shapes = dict(network.named_parameters())
    assert all(shapes[name].ndim >= 2 for name in layers)


def test_frozen_prototypes_have_no_learning_rate(network, config):
    optimizer = build_optimizer(network, config)
    for step, waits in [(0, True), (3, True), (4, False), (19, False)]:
        set_schedule(optimizer, step, config)
        rates = by_name(network, optimizer, "lr")
        last = [rate for name, rate in rates.items() if "last_layer" in name]
        assert len(last) == 2
        assert all((rate == 0) == waits for rate in last)
        assert rates["dino_head.projector.layers.0.weight"] > 0


def test_schedule_moves_from_the_first_step_to_the_final_values(network, config):
    optimizer = build_optimizer(network, config)
    rates, decays = [], []
    for step in range(20):
        rates.append(set_schedule(optimizer, step, config))
        decays.append(max(group["weight_decay"] for group in optimizer.param_groups))
    assert rates[0] > 0
    assert max(rates) == config.peak_learning_rate == rates[4]
    assert rates[-1] == pytest.approx(config.final_learning_rate)
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert decays[0] == pytest.approx(config.weight_decay[0])
    assert decays == sorted(decays)


def test_schedule_depends_on_the_step_alone(network, config):
    first, second = (build_optimizer(network, config) for _ in range(2))
    for step in range(11):
        set_schedule(first, step, config)
    set_schedule(second, 10, config)
    for one, other in zip(first.param_groups, second.param_groups, strict=True):
        assert one["lr"] == other["lr"]
        assert one["weight_decay"] == other["weight_decay"]


def test_muon_moves_the_matrices_of_blocks_and_adamw_the_rest(network, config):
    config = replace(config, optimizer="muon", freeze_last_layer_fraction=0.0)
    optimizer = build_optimizer(network, config)
    assert isinstance(optimizer, MuonWithAdamW)
    set_schedule(optimizer, 7, config)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    by_muon = set()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert not torch.equal(parameter, before[name]), name
            if "momentum_buffer" in optimizer.state[parameter]:
                by_muon.add(name)
    kinds = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert by_muon == {
        f"encoder.blocks.{index}.{kind}.weight" for index in range(4) for kind in kinds
    }


def test_muon_steps_are_orthogonal_and_as_large_as_adamws(network, config):
    config = replace(config, optimizer="muon", layer_decay=1.0, weight_decay=(0, 0))
    optimizer = build_optimizer(network, config)
    rate = set_schedule(optimizer, 7, config)
    matrix = network.encoder.blocks[1].mlp.fc1.weight
    before = matrix.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    singular = torch.linalg.svdvals(matrix.detach() - before)
    assert singular.max() / singular.min() < 2
    step = (matrix.detach() - before).square().mean().sqrt() / rate
    assert 0.1 < step < 0.4  # AdamW's steps have a root mean square near 0.2 to 0.4


def test_muon_needs_a_torch_that_has_it(network, config, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match=r"needs torch 2\.9 or newer, got"):
        build_optimizer(network, replace(config, optimizer="muon"))
