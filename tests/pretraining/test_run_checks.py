import json
import os
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from brainfeat.exceptions import CheckpointError, ConfigError, TrainingError
from brainfeat.pretraining.run_state import saved_step
from brainfeat.pretraining.warm_start import (
    check_fit,
    check_grid,
    check_run_folder,
    run_lock,
)


@pytest.fixture
def run(small_config, tmp_path):
    """Folder of a run that stopped after five steps."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "pretraining.json").write_text(json.dumps(small_config.to_dict()))
    (folder / "config.json").write_text("{}")
    facts = {"facts": json.dumps({"next_step": 5})}
    save_file({"weight": torch.ones(2)}, folder / "state.safetensors", metadata=facts)
    return folder


@pytest.mark.parametrize("resume", [True, False])
def test_an_empty_folder_can_be_used(small_config, tmp_path, resume):
    assert not check_run_folder(tmp_path, small_config, resume=resume)
    assert not check_run_folder(tmp_path / "new", small_config, resume=resume)
    assert saved_step(tmp_path) == 0


def test_a_run_resumes_only_if_asked_to(small_config, run):
    assert check_run_folder(run, small_config, resume=True)
    assert saved_step(run) == 5
    with pytest.raises(TrainingError, match=r"run: holds a run; resume it"):
        check_run_folder(run, small_config, resume=False)


def test_a_run_resumes_only_with_its_own_configuration(small_config, run):
    encoder = replace(small_config.encoder, drop_path=0.1)
    other = replace(small_config, seed=3, encoder=encoder)
    message = r"json: .*with encoder.drop_path 0.2 \(now 0.1\), seed 0 \(now 3\);"
    with pytest.raises(ConfigError, match=message):
        check_run_folder(run, other, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"n_steps": 5},
        {"n_steps": 99},
        {"log_every": 1},
        {"checkpoint_every": 1},
        {"probe_every": 1},
        {"precision": "bfloat16"},
        {"parallel": "fully_shard"},
        {"activation_checkpointing": True},
    ],
)
def test_a_resumed_run_may_change_its_length_its_output_and_how_it_computes(
    small_config, run, change, caplog
):
    caplog.set_level("INFO")
    assert check_run_folder(run, replace(small_config, **change), resume=True)
    (message,) = caplog.messages
    assert f"(now {next(iter(change.values()))})" in message


def test_a_resumed_run_is_not_shorter_than_what_is_done(small_config, run):
    with pytest.raises(ConfigError, match=r"run: 5 steps are done; n_steps .* got 4"):
        check_run_folder(run, replace(small_config, n_steps=4), resume=True)


def test_errors_name_damaged_files_of_a_run(small_config, run):
    os.truncate(run / "state.safetensors", 20)
    with pytest.raises(TrainingError, match=r"state\.safetensors: expected the state"):
        saved_step(run)
    save_file({"weight": torch.ones(2)}, run / "state.safetensors")
    with pytest.raises(TrainingError, match=r"state\.safetensors: .* other tensors"):
        saved_step(run)
    os.truncate(run / "pretraining.json", 20)
    with pytest.raises(CheckpointError, match=r"pretraining\.json: expected the conf"):
        check_run_folder(run, small_config, resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_a_checkpoint_of_another_kind_is_not_overwritten(small_config, run, resume):
    (run / "state.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"run: holds config\.json, and no run"):
        check_run_folder(run, small_config, resume=resume)
    with pytest.raises(TrainingError, match="expected a folder to write, got a file"):
        check_run_folder(run / "config.json", small_config, resume=resume)


def test_a_folder_is_locked_by_one_run_at_a_time(tmp_path):
    folder = tmp_path / "new"
    for _ in range(2):
        with (
            run_lock(folder),
            pytest.raises(TrainingError, match="new: another run is writing this fold"),
            run_lock(folder),
        ):
            pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_file_that_a_checkpoint_would_replace_is_kept(small_config, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(TrainingError, match=f"holds {name}, and no run that can be"):
        check_run_folder(tmp_path, small_config, resume=False)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_volumes_must_divide_into_slabs_and_patches_of_the_first_plane(
    small_config, plane
):
    views = replace(small_config.views, planes=(plane, "axial", "sagittal"))
    encoder = replace(
        small_config.encoder,
        thickness=5,
        patch_size=7,
        image_size=(7, 7),
        stem="linear",
    )
    config = replace(
        small_config,
        encoder=encoder,
        views=replace(
            views,
            global_crops=replace(views.global_crops, size=(14, 14)),
            local_crops=replace(views.local_crops, size=(14, 14)),
        ),
    )
    slices = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    shape = [14, 21, 28]
    shape[slices] = 15
    check_grid(tuple(shape), config)
    for axis in range(3):
        other = list(shape)
        other[axis] += 1
        message = rf"volumes of .* {plane} slabs of 5 slices and patches of 7 x 7"
        with pytest.raises(ConfigError, match=message):
            check_grid(tuple(other), config)


@pytest.mark.parametrize(
    ("data", "change", "message"),
    [
        ((("FLAIR", "T1w"), ("a",)), {}, "modalities"),
        ((("T1w", "FLAIR"), ()), {}, "known anatomy"),
        ((("T1w", "FLAIR"), ("a",)), {"batch_size": 9}, None),
        ((("T1w", "FLAIR"), ()), {"anatomy_weight": 0.0}, None),
    ],
)
def test_configurations_that_would_learn_nothing_are_refused(
    small_config, data, change, message
):
    modalities, targets = data
    source = SimpleNamespace(modalities=modalities, targets=targets)
    config = replace(small_config, **change)
    if message is None:
        check_fit(source, config)
        return
    with pytest.raises(ConfigError, match=message):
        check_fit(source, config)


def test_subjects_divide_evenly_between_processes(small_config, monkeypatch):
    monkeypatch.setattr("brainfeat.pretraining.warm_start.world_size", lambda: 3)
    source = SimpleNamespace(modalities=("T1w", "FLAIR"), targets=("a",))
    check_fit(source, replace(small_config, batch_size=6))
    with pytest.raises(ConfigError, match="batch_size 4 does not divide into 3"):
        check_fit(source, small_config)


@pytest.mark.parametrize(("probability", "n_parts"), [(0.0, 1), (0.2, 2)])
def test_ibot_without_masked_views_is_refused(probability, n_parts, small_config):
    source = SimpleNamespace(
        modalities=small_config.encoder.modalities, targets=("grey_matter",)
    )
    views = replace(small_config.views, n_global=2, mask_probability=probability)
    config = replace(
        small_config,
        views=views,
        batch_size=2,
        accumulation_steps=n_parts,
        koleo_weight=0.0,
        infonce_weight=0.0,
    )
    with pytest.raises(ConfigError, match="iBOT needs masked views"):
        check_fit(source, config)
    check_fit(source, replace(config, ibot_weight=0.0))


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, False),
        ({"centring": "moving_average"}, False),
        ({"koleo_weight": 0.0}, False),
        ({"koleo_weight": 0.0, "centring": "moving_average"}, True),
        ({"koleo_weight": 0.0, "dino_weight": 0.0}, True),
        ({"accumulation_steps": 2}, True),
    ],
)
def test_objectives_that_compare_subjects_need_two_in_a_part(
    small_config, change, fits
):
    source = SimpleNamespace(
        modalities=small_config.encoder.modalities, targets=("grey_matter",)
    )
    config = replace(
        small_config, centring="sinkhorn", infonce_weight=0.0, accumulation_steps=4
    )
    with nullcontext() if fits else pytest.raises(ConfigError, match="4 accumulated"):
        check_fit(source, replace(config, **change))
