import json
import runpy
import signal
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.exceptions import ConfigError, TrainingError
from brainfeat.pretraining import loader
from brainfeat.pretraining.self_distillation import SelfDistillation, unwrapped
from brainfeat.pretraining.source import seeded_generator
from brainfeat.pretraining.store import StoredScan, StoreIndex, VolumeStore
from brainfeat.pretraining.trainer import Trainer, train
from brainfeat.pretraining.views import ViewGroup, Views
from brainfeat.pretraining.warm_start import Start
from brainfeat.slabs.intensity import IntensityConfig

CPU = "cpu"
ROOM = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
RandomSource = ROOM["RandomSource"]
# The second probe of this process, after five steps, kills it.
_KILLED_RUN = """
import os, runpy, signal, sys
from dataclasses import replace
import torch
from brainfeat.pretraining.trainer import train

torch.set_num_threads(1)
room = runpy.run_path(sys.argv[1])
config = replace(room["SMALL_CONFIG"], probe_every=5)
scores = iter([0.1])

def score_or_die(encoder):
    return next(scores, None) or os.kill(os.getpid(), signal.SIGKILL)

train(
    room["RandomSource"](),
    config,
    output=sys.argv[2],
    device="cpu",
    probe=score_or_die,
)
"""


class PowerCutError(Exception):
    """Interruption of a run."""


def interrupting(source, last_step):
    """Return a source that fails after a step."""

    class Interrupted(type(source)):
        def draw(self, step, n_subjects, **options):
            # Later steps standardise the anatomy targets.
            if last_step < step < 7:
                raise PowerCutError
            return super().draw(step, n_subjects, **options)

    return Interrupted()


def assert_same_run(first, second):
    """Compare weights, optimizer and log of two folders, bit by bit."""
    one, other = (load_file(f / "state.safetensors") for f in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (first, second)
    ]
    for line in logs[0] + logs[1]:
        line.pop("subjects_per_second", None)
    # The probe of the initial weights is not of a step.
    logs = [[line for line in lines if line["step"] >= 0] for lines in logs]
    assert logs[0] == logs[1]
    checkpoints = [Checkpoint.load(folder) for folder in (first, second)]
    assert checkpoints[0].fingerprint == checkpoints[1].fingerprint


def weights(source, config, folder, **options):
    """Train, and return all weights of student and teacher."""
    train(source, config, output=folder, device=CPU, **options)
    state = load_file(folder / "state.safetensors")
    return {name: state[name] for name in state if name.startswith("model.")}


def joined(groups):
    """Join the views of several batches of subjects."""
    values = {
        field.name: [getattr(group, field.name) for group in groups]
        for field in fields(ViewGroup)
    }
    return ViewGroup(
        **{k: None if v[0] is None else torch.cat(v, 1) for k, v in values.items()}
    )


def differ(first, second):
    return first.keys() != second.keys() or any(
        first[name].shape != second[name].shape
        or not torch.equal(first[name], second[name])
        for name in first
    )


@pytest.fixture(scope="module")
def whole_run(source, small_config, tmp_path_factory):
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(source, small_config, output=folder, device=CPU)
    return folder


@pytest.fixture(scope="module")
def short_config(small_config):
    return replace(small_config, n_steps=2)


@pytest.fixture(scope="module")
def short_run(source, short_config, tmp_path_factory):
    """Weights after two steps."""
    return weights(source, short_config, tmp_path_factory.mktemp("short"))


def test_folder_is_a_trained_checkpoint(whole_run, source, small_config):
    checkpoint = Checkpoint.load(whole_run)
    assert checkpoint.config.trained
    assert checkpoint.config.preprocessing == source.preprocessing
    assert checkpoint.config.encoder.modalities == source.modalities
    state = load_file(whole_run / "state.safetensors")
    for name, value in checkpoint.build_encoder().state_dict().items():
        if not name.startswith("anatomy."):
            assert torch.equal(value, state[f"model.teacher.encoder.{name}"])
    assert checkpoint.config.encoder.tissues == source.tissues
    begun = json.loads((whole_run / "pretraining.json").read_text())
    assert small_config.from_dict(begun) == small_config
    # No file, such as a pickle, can run code when it is read.
    assert {path.suffix for path in whole_run.iterdir()} == {
        ".safetensors",
        ".json",
        ".jsonl",
        ".md",
    }


def test_the_same_run_gives_the_same_result(whole_run, source, small_config, tmp_path):
    train(source, small_config, output=tmp_path / "again", device=CPU)
    assert_same_run(whole_run, tmp_path / "again")


@pytest.mark.parametrize("last_step", [3, 5])
def test_resumed_run_equals_an_uninterrupted_one(
    whole_run, source, small_config, tmp_path, last_step
):
    folder = tmp_path / "parts"
    with pytest.raises(PowerCutError):
        train(interrupting(source, last_step), small_config, output=folder, device=CPU)
    train(source, small_config, output=folder, device=CPU, resume=True)
    assert_same_run(whole_run, folder)


@pytest.mark.slow
def test_killed_run_resumes_bit_equal(source, small_config, tmp_path):
    config = replace(small_config, probe_every=5)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    room = Path(__file__).with_name("conftest.py")
    process = subprocess.run(
        [sys.executable, "-c", _KILLED_RUN, room, killed], timeout=120, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert Checkpoint.load(killed).config.trained
    train(source, config, output=killed, device=CPU, resume=True)
    train(source, config, output=whole, device=CPU)
    assert_same_run(whole, killed)


def test_random_state_of_the_caller_is_restored(source, short_config, tmp_path):
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    train(source, short_config, output=tmp_path, device=CPU)
    assert torch.equal(torch.get_rng_state(), expected)


def test_resuming_a_finished_run_changes_nothing(whole_run, source, small_config):
    before = {path: path.read_bytes() for path in whole_run.iterdir()}
    train(source, small_config, output=whole_run, device=CPU, resume=True)
    assert before == {path: path.read_bytes() for path in whole_run.iterdir()}


def test_resuming_without_a_run_starts_one(whole_run, source, small_config, tmp_path):
    folder = tmp_path / "new"
    train(source, small_config, output=folder, device=CPU, resume=True)
    assert_same_run(whole_run, folder)


def test_run_is_not_overwritten(whole_run, source, small_config):
    before = (whole_run / "state.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="holds a run"):
        train(source, small_config, output=whole_run, device=CPU)
    assert (whole_run / "state.safetensors").read_bytes() == before


def test_run_is_not_resumed_with_another_configuration(whole_run, source, small_config):
    other = replace(small_config, learning_rate=0.1, koleo_weight=0.3)
    with pytest.raises(ConfigError, match=r"koleo_weight .*, learning_rate"):
        train(source, other, output=whole_run, device=CPU, resume=True)


def test_log_has_the_losses_of_every_log_every_steps(whole_run):
    text = (whole_run / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    for line in lines:
        parts = [line[name] for name in ("dino", "ibot", "infonce", "anatomy")]
        assert min(parts) > 0
        assert 0 < line["teacher_entropy"] <= 1
        assert line["subjects_per_second"] > 0
    assert lines[-1]["learning_rate"] < lines[1]["learning_rate"]


@pytest.mark.parametrize(
    "change",
    [
        {"dino_weight": 0.0},
        {"ibot_weight": 0.0},
        {"koleo_weight": 0.0},
        {"infonce_weight": 0.0},
        {"anatomy_weight": 0.0},
        {"n_prototypes": 7},
        {"head_hidden_dim": 13},
        {"head_bottleneck_dim": 5},
        {"centring": "sinkhorn"},
        {"student_temperature": 0.2},
        {"teacher_temperature": (0.2, 0.5)},
        {"infonce_temperature": 0.3},
        {"teacher_momentum": (0.9, 1.0)},
        {"teacher_momentum": (0.992, 0.9)},
        {"batch_size": 6},
        {"accumulation_steps": 2},
        {"n_steps": 3},
        {"learning_rate": None},
        {"final_learning_rate": 1e-3},
        {"weight_decay": (0.04, 0.8)},
        {"layer_decay": 0.5},
        {"patch_embed_lr": 1.0},
        {"warmup_fraction": 0.9},
        {"temperature_warmup_fraction": 0.8},
        {"freeze_last_layer_fraction": 0.9},
        {"clip_grad": 0.01},
        {"precision": "bfloat16"},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_changes_what_is_learnt(
    short_run, source, short_config, tmp_path, change
):
    changed = weights(source, replace(short_config, **change), tmp_path)
    assert differ(short_run, changed)


def test_teacher_momentum_rises_along_half_a_cosine(
    source, small_config, tmp_path, monkeypatch
):
    momenta, update = [], SelfDistillation.update_teacher

    def record(model, momentum):
        momenta.append(momentum)
        update(model, momentum)

    monkeypatch.setattr(SelfDistillation, "update_teacher", record)
    config = replace(small_config, anatomy_weight=0.0, teacher_momentum=(0.6, 1.0))
    train(source, config, output=tmp_path, device=CPU)
    angles = np.pi * np.arange(config.n_steps) / config.n_steps
    np.testing.assert_allclose(momenta, 0.8 - 0.2 * np.cos(angles))


@pytest.mark.parametrize(
    "change",
    [
        {"log_every": 1},
        {"checkpoint_every": 1},
        {"probe_every": 1},
        {"activation_checkpointing": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_of_speed_or_output_do_not_change_what_is_learnt(
    short_run, source, short_config, tmp_path, change
):
    changed = weights(source, replace(short_config, **change), tmp_path)
    torch.testing.assert_close(short_run, changed, rtol=1e-5, atol=1e-6)


def test_learning_rate_of_zero_keeps_the_initial_weights(
    source, small_config, tmp_path
):
    config = replace(
        small_config, n_steps=2, learning_rate=0.0, final_learning_rate=0.0
    )
    begin = CheckpointConfig(
        encoder=replace(config.encoder, drop_path=0.0), preprocessing={}, trained=False
    )
    init = Checkpoint.untrained(begin, seed=5)
    init = Checkpoint(replace(begin, trained=True), init.state)
    init.save(tmp_path / "init")
    result = train(
        source, config, output=tmp_path / "run", device=CPU, init=tmp_path / "init"
    )
    assert all(torch.equal(result.state[name], init.state[name]) for name in init.state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_probe_gets_an_encoder_on_the_device_of_the_run(source, small_config, tmp_path):
    def probe(encoder):
        assert encoder.cls_token.is_cuda
        return 0.5

    config = replace(small_config, n_steps=2)
    train(source, config, output=tmp_path / "out", device="cuda", probe=probe)
    assert Checkpoint.load(tmp_path / "out" / "best").config.trained


def test_best_probed_encoder_is_kept(source, small_config, tmp_path):
    scores, states = iter([1.0, 0.3, 0.9, 0.5, 0.7]), []

    def probe(encoder):
        assert not encoder.training
        states.append(encoder.state_dict())
        return next(scores)

    folder = tmp_path / "run"
    train(source, small_config, output=folder, device=CPU, probe=probe)
    best = Checkpoint.load(folder / "best")
    assert all(torch.equal(best.state[name], states[2][name]) for name in best.state)
    text = (folder / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines() if "probe" in line]
    assert [(line["step"], line["probe"]) for line in lines] == [
        (-1, 1.0),  # of the initial weights
        (1, 0.3),
        (3, 0.9),
        (5, 0.5),
        (6, 0.7),
    ]


def test_best_score_survives_an_interruption(source, small_config, tmp_path):
    folder = tmp_path / "run"
    config = replace(small_config, checkpoint_every=4)
    with pytest.raises(PowerCutError):
        train(
            interrupting(source, 4),
            config,
            output=folder,
            device=CPU,
            probe=lambda _: 0.9,
        )
    best = (folder / "best" / "model.safetensors").read_bytes()
    train(source, config, output=folder, device=CPU, resume=True, probe=lambda _: 0.8)
    assert (folder / "best" / "model.safetensors").read_bytes() == best


def test_non_finite_loss_stops_the_run_before_its_step(
    whole_run, source, small_config, tmp_path
):
    class Poisoned(type(source)):
        def draw(self, step, n_subjects, **options):
            batch = super().draw(step, n_subjects, **options)
            batch.volumes[0] = torch.nan
            return batch

    folder = tmp_path / "poisoned"
    with pytest.raises(TrainingError, match=r"step 0: loss, gradient not finite"):
        train(Poisoned(), small_config, output=folder, device=CPU)
    assert not (folder / "state.safetensors").exists()
    train(source, small_config, output=folder, device=CPU)
    assert_same_run(whole_run, folder)


def test_run_with_collapsed_embeddings_is_stopped(source, small_config, tmp_path):
    class Blank(type(source)):
        def draw(self, step, n_subjects, **options):
            batch = super().draw(step, n_subjects, **options)
            return replace(batch, volumes=torch.zeros_like(batch.volumes))

    still = IntensityConfig(gamma=0, contrast=0, bias=0, noise=0, blur=0, coarse=0)
    config = replace(
        small_config,
        encoder=replace(small_config.encoder, drop_path=0.0),
        views=replace(small_config.views, intensity=still, hidden_modalities=0.0),
        ibot_weight=0.0,
        koleo_weight=0.0,
        infonce_weight=0.0,
        teacher_temperature=(1.0, 1.0),
        batch_size=128,
        n_steps=10,
    )
    with pytest.raises(TrainingError, match=r"step 2: collapse, .* rank 1\.0"):
        train(Blank(), config, output=tmp_path / "run", device=CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ("FLAIR", "T1w")}, "modalities"),
        ({"targets": ()}, "known anatomy"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_written(
    source, small_config, tmp_path, change, message
):
    other = type("Other", (type(source),), change)()
    with pytest.raises(ConfigError, match=message):
        train(other, small_config, output=tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_local_views_are_cut_only_for_dino(source, small_config, tmp_path):
    for weight in (0.0, 1.0):
        config = replace(small_config, dino_weight=weight)
        trainer = Trainer(source, config, tmp_path, device=torch.device(CPU))
        (views,) = trainer.make_views(0)
        assert (views.local_views is not None) == (weight > 0)


def test_accumulated_parts_split_the_subjects_of_a_step(source, small_config, tmp_path):
    drawn = []

    class Recording(type(source)):
        def draw(self, step, n_subjects, **options):
            drawn.append(super().draw(step, n_subjects, **options))
            return drawn[-1]

    for n_parts in (1, 2):
        config = replace(small_config, accumulation_steps=n_parts)
        trainer = Trainer(Recording(), config, tmp_path, device=torch.device(CPU))
        parts = trainer.make_views(3)
        assert [views.global_views.slabs.shape[1] for views in parts] == [
            4 // n_parts
        ] * n_parts
    # A source that reuses subjects would repeat them in a second draw.
    whole, split = drawn
    assert torch.equal(whole.volumes, split.volumes)


def test_gradients_of_parts_add_up_to_those_of_one_batch(
    source, small_config, tmp_path
):
    # Without objectives that compare subjects, and with a fixed centre.
    config = replace(
        small_config,
        encoder=replace(small_config.encoder, drop_path=0.0),
        **dict.fromkeys(
            ("ibot_weight", "koleo_weight", "infonce_weight", "anatomy_weight"), 0.0
        ),
    )
    gradients = []
    for n_parts in (2, 1):
        config = replace(config, accumulation_steps=n_parts)
        trainer = Trainer(source, config, tmp_path, device=torch.device(CPU))
        trainer.model.dino_centring.momentum = 1.0
        if n_parts == 2:
            parts = trainer.make_views(0)
        else:
            kinds = ("global_views", "local_views")
            parts = [
                Views(*(joined([getattr(part, k) for part in parts]) for k in kinds))
            ]
        trainer.backward(parts, step=0)
        student = trainer.model.student
        gradients.append([p.grad for p in student.parameters() if p.grad is not None])
    assert len(gradients[0]) > 30
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_views_are_prefetched_for_a_gpu_only(
    source, small_config, tmp_path, monkeypatch, device
):
    trainer = Trainer(source, small_config, tmp_path, device=torch.device(CPU))
    made = []

    def read(step):
        made.append(step)
        return step, threading.get_ident()

    monkeypatch.setattr(trainer, "read_subjects", read)
    monkeypatch.setattr(trainer, "_cut", lambda item: (*item, threading.get_ident()))
    monkeypatch.setattr(loader, "_hand_over", lambda views, *_: views)
    for name in ("Stream", "stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: MagicMock())
    trainer.device, trainer.next_step = torch.device(device), 2
    with trainer._batches() as batches:
        views = list(batches)
    steps = list(range(2, small_config.n_steps))
    assert [step for step, *_ in views] == made == steps
    for _, *threads in views:
        is_here = [thread == threading.get_ident() for thread in threads]
        assert is_here == [device == "cpu"] * 2


class PairedNoise(RandomSource):
    """Two noisy acquisitions of each subject, and the clean one."""

    def draw_pairs(self, step, n_subjects, **options):
        clean = self.draw(step, n_subjects, **options)
        noise = torch.randn(
            (n_subjects, 2, 2, *self.shape), generator=seeded_generator(step)
        )
        return replace(
            clean,
            volumes=clean.volumes + 0.3 * noise,
            present=clean.present.expand(-1, 2, -1),
            foreground=clean.foreground.expand(-1, 2, -1, -1, -1),
            reference=replace(clean, targets=None),
        )


@pytest.fixture(scope="module")
def pair_config(short_config):
    return replace(
        short_config,
        dino_weight=0.0,
        ibot_weight=0.0,
        koleo_weight=0.0,
        infonce_weight=0.0,
        agreement_weight=1.0,
        consistency_weight=0.5,
        anatomy_whole_weight=0.2,
        views=replace(short_config.views, global_boxes="shared", n_local=0),
    )


@pytest.fixture(scope="module")
def pair_init(pair_config, tmp_path_factory):
    """Checkpoint whose tokens depend on the image."""
    config = CheckpointConfig(
        encoder=replace(pair_config.encoder, drop_path=0.0),
        preprocessing={},
        trained=False,
    )
    torch.manual_seed(1)
    state = Checkpoint.untrained(config).state
    state = {n: v + 0.1 * torch.randn(v.shape) for n, v in state.items()}
    folder = tmp_path_factory.mktemp("pair_init") / "small"
    return Checkpoint(replace(config, trained=True), state).save(folder)


@pytest.fixture(scope="module")
def pair_run(pair_config, pair_init, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "run"
    return weights(PairedNoise(), pair_config, folder, init=pair_init)


def test_the_frozen_teacher_keeps_the_initial_weights(pair_run, pair_init):
    initial = Checkpoint.load(pair_init).state
    for name, value in initial.items():
        assert torch.equal(pair_run[f"model.reference.{name}"], value)
    moved = [
        not torch.equal(pair_run[f"model.student.encoder.{name}"], value)
        for name, value in initial.items()
    ]
    assert sum(moved) > 20
    assert pair_run["model.agreement.tokens.variance"].std() > 0


def test_the_frozen_teacher_sees_the_background_that_it_was_trained_with(
    pair_config, pair_init, tmp_path
):
    skips = replace(pair_config.encoder, background="skipped")
    config = replace(pair_config, encoder=skips, checkpoint_every=2)
    first = Start(resumes=False, checkpoint=Checkpoint.load(pair_init))
    seen = []
    for number, start in enumerate([first, Start(resumes=True)]):
        trainer = Trainer(PairedNoise(), config, tmp_path, device=torch.device("cpu"))
        trainer.prepare(start)
        seen.append(trainer.model.reference.config.background)
        with closing(trainer.steps()) as steps:
            for step in steps:
                if step.n_done == 3 + number:  # after the state of the second step
                    break
    assert seen == ["kept", "kept"]
    assert unwrapped(trainer.model.student).encoder.config.background == "skipped"


@pytest.mark.parametrize(
    "change",
    [
        {"agreement_weight": 0.0},
        {"consistency_weight": 0.0},
        {"anatomy_whole_weight": 0.0},
        {"agreement_teacher": "moving_average"},
        {"agreement_readout": "linear"},
        {"agreement_parts": (1.0, 0.1, 0.0)},
        {"consistency_parts": (1.0, 1.0, 0.1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_of_agreement_changes_what_is_learnt(
    pair_run, pair_config, pair_init, tmp_path, change
):
    changed = replace(pair_config, **change)
    assert differ(pair_run, weights(PairedNoise(), changed, tmp_path, init=pair_init))


def test_a_resumed_run_with_agreement_equals_an_uninterrupted_one(
    pair_config, pair_init, tmp_path
):
    config = replace(pair_config, n_steps=5, checkpoint_every=2)

    class Interrupted(PairedNoise):
        def draw_pairs(self, step, n_subjects, **options):
            if step == 3:
                raise PowerCutError
            return super().draw_pairs(step, n_subjects, **options)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(PairedNoise(), config, output=whole, device=CPU, init=pair_init)
    with pytest.raises(PowerCutError):
        train(Interrupted(), config, output=parts, device=CPU, init=pair_init)
    train(PairedNoise(), config, output=parts, device=CPU, resume=True)
    assert_same_run(whole, parts)
    lines = map(json.loads, (whole / "log.jsonl").read_text().splitlines())
    lines = [*lines]
    assert all(0 < line["within_between"] < 10 for line in lines)
    assert all(line["subject_spread"] > 0 for line in lines)


def test_agreement_needs_weights_and_acquisitions(source, pair_config, tmp_path):
    with pytest.raises(ConfigError, match=r"needs trained weights .*--init"):
        train(PairedNoise(), pair_config, output=tmp_path / "run", device=CPU)
    moving = replace(pair_config, agreement_teacher="moving_average")
    with pytest.raises(ConfigError, match="several acquisitions of a brain"):
        train(source, moving, output=tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_earlier_version_resumes(source, short_config, tmp_path):
    config = replace(short_config, n_steps=3, checkpoint_every=1)
    folder = tmp_path / "run"
    train(source, config, output=folder, device=CPU)
    path = folder / "pretraining.json"
    values = json.loads(path.read_text())
    del (
        values["agreement_weight"],
        values["n_degraded"],
        values["views"]["global_boxes"],
    )
    path.write_text(json.dumps(values))
    train(source, config, output=folder, device=CPU, resume=True)
    changed = replace(config, anatomy_whole_weight=0.5)
    with pytest.raises(ConfigError, match=r"anatomy_whole_weight 0\.0 \(now 0\.5\)"):
        train(source, changed, output=folder, device=CPU, resume=True)


# Clusters train from a store that was made elsewhere, without these libraries.
_BLOCKED = (
    *("nibabel", "pandas", "sklearn", "scipy", "SimpleITK", "nilearn", "isal"),
    *("joblib", "pyarrow", "typer", "rich"),
)
_BARE_PROCESS = """
import sys
store, folder, config, *blocked = sys.argv[1:]
sys.modules.update(dict.fromkeys(blocked))
import torch
torch.set_num_threads(1)  # as in the run that it is compared with
from brainfeat.pretraining.config import read_config
from brainfeat.pretraining.self_distillation import SelfDistillation, unwrapped
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.trainer import train

result = train(VolumeStore(store), read_config(config), output=folder, device="cpu")
print(result.fingerprint)
"""


@pytest.fixture
def store(source, tmp_path):
    """Store of three subjects of noise."""
    scans = []
    for number in range(3):
        array = np.random.default_rng(number).random((3, *source.shape))
        np.save(tmp_path / f"{number}.npy", array.astype(np.float16))
        present = (True, number != 1)
        scans.append(
            StoredScan(subject=f"{number}", file=f"{number}.npy", present=present)
        )
    StoreIndex(
        modalities=source.modalities,
        preprocessing=source.preprocessing,
        scans=tuple(scans),
    ).save(tmp_path)
    return VolumeStore(tmp_path)


def test_mirrored_crops_do_not_exchange_the_sides_of_structures(
    source, short_config, tmp_path
):
    targets = {"targets": ("cortex", "upright", "hippocampus_left")}
    sided = type("Sided", (type(source),), targets | {"tissues": ()})()
    with pytest.raises(ConfigError, match=r"sides of hippocampus_left; .*flip to 0"):
        train(sided, short_config, output=tmp_path / "run", device=CPU)
    crops = replace(short_config.views.global_crops, flip=0.0)
    views = replace(short_config.views, global_crops=crops)
    config = replace(short_config, views=views, n_steps=1)
    train(sided, config, output=tmp_path / "run", device=CPU)


def test_a_store_of_one_acquisition_each_has_nothing_to_agree(
    store, pair_config, tmp_path
):
    config = replace(
        pair_config,
        anatomy_weight=0.0,
        anatomy_whole_weight=0.0,
        agreement_teacher="moving_average",
    )
    with pytest.raises(ConfigError, match="the store has one of each subject; make"):
        train(store, config, output=tmp_path / "run", device=CPU)


@pytest.mark.slow
def test_a_store_is_trained_on_with_torch_numpy_and_safetensors_alone(
    store, short_config, tmp_path
):
    config = replace(short_config, anatomy_weight=0.0)
    expected = train(store, config, output=tmp_path / "full", device=CPU).fingerprint
    paths = (store.folder, tmp_path / "bare", tmp_path / "full" / "pretraining.json")
    result = subprocess.run(
        [sys.executable, "-c", _BARE_PROCESS, *paths, *_BLOCKED],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == expected
