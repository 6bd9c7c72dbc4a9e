"""``brainfeat pretrain``, in real processes where they matter."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.cli import app as cli
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.source import derive_seed
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.trainer import Trainer
from brainfeat.pretraining.warm_start import run_lock

ROOM = runpy.run_path(str(Path(__file__).parents[1] / "pretraining" / "conftest.py"))
CONFIG = replace(
    ROOM["SMALL_CONFIG"],
    anatomy_weight=0.0,
    n_steps=5,
    batch_size=2,
    log_every=2,
)
N_LONG = 100  # steps of a run that is long enough to be cut off


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options for a small encoder on a grid of 8 mm."""
    folder = tmp_path_factory.mktemp("options")
    preprocessor = Preprocessor(shape=(24, 32, 20), spacing=8.0, alignment="none")
    config = CheckpointConfig(
        encoder=replace(CONFIG.encoder, drop_path=0.0, tissues=("csf",)),
        preprocessing=preprocessor.to_dict(),
        missing_modalities=True,
        trained=False,
    )
    init = Checkpoint.untrained(config).save(folder / "init")
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return ["--config", path, "--init", init, "--device", "cpu"]


@pytest.fixture(scope="module")
def store(cohort, options, tmp_path_factory):
    """Store of an earlier run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert _run(cohort, "-o", folder, *options).exit_code == 0
    return folder / "store"


def _run(*arguments):
    return CliRunner().invoke(cli.app, ["pretrain", *map(str, arguments)])


def _command(*arguments):
    return [sys.executable, "-m", "brainfeat", "pretrain", *map(str, arguments)]


def _process(*arguments, command=_command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_progress_and_summary_of_a_run_are_printed(cohort, options, tmp_path):
    folder = tmp_path / "run"
    result = _run(cohort, "-o", folder, *options)
    assert result.exit_code == 0
    checkpoint = Checkpoint.load(folder)
    assert checkpoint.config.description.startswith("Pretrained for 5 steps")
    first, second = result.stdout.splitlines()
    assert re.fullmatch(r"5 steps done, final loss \d+\.\d{3}", first)
    assert second == f"checkpoint: {folder}"
    lines = result.stderr.splitlines()
    assert " on host " in lines[0]
    assert lines[1].endswith(
        "features come from random weights."
    )  # the weights to start from
    shown = [line.split(" ", 2)[2] for line in lines[2:]]  # without date and time
    assert shown[:3] == [f"[{n}/3] sub-{n - 1}: preprocessed" for n in (1, 2, 3)]
    # Contrasts of one drawn brain may look mirrored to each other, which is told.
    steps = [line for line in shown[3:] if " in doubt, but stored: " not in line]
    assert [line[:5] for line in steps] == ["[1/5]", "[2/5]", "[4/5]", "[5/5]"]


def test_options_reach_the_run(cohort, options, tmp_path):
    more = ["--modality", "FLAIR", "--steps", 2, "--preset", "large_batch"]
    result = _run(cohort, "-o", tmp_path / "run", *options, *more, "--jobs", 1)
    assert result.exit_code == 0
    begun = json.loads((tmp_path / "run" / "pretraining.json").read_text())
    assert begun["encoder"]["modalities"] == ["FLAIR"]
    assert begun["n_steps"] == 2
    assert begun["n_prototypes"] == CONFIG.n_prototypes  # the file's
    assert VolumeStore(tmp_path / "run" / "store").modalities == ("FLAIR",)


def test_initial_weights_determine_the_encoder(store, options, tmp_path):
    config = {"batch_size": 2, "views": CONFIG.to_dict()["views"], "head_hidden_dim": 8}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    result = _run(
        *(store, "-o", tmp_path / "run", "--config", path, "--steps", 1),
        *options[2:],
    )
    assert result.exit_code == 0, result.stderr
    begun = json.loads((tmp_path / "run" / "pretraining.json").read_text())
    assert begun["encoder"]["embed_dim"] == CONFIG.encoder.embed_dim
    assert begun["head_bottleneck_dim"] == 128  # the preset's


def test_scans_that_fail_are_listed_and_the_status_is_1(cohort, options, tmp_path):
    broken = tmp_path / "sub-9_T1w.nii.gz"
    broken.write_bytes(b"no image")
    result = _run(cohort, broken, "-o", tmp_path / "run", *options)
    assert result.exit_code == 1
    assert Checkpoint.load(tmp_path / "run").config.trained
    (line,) = [line for line in result.stderr.splitlines() if "failed" in line]
    assert f" [4/4] sub-9: failed: {broken}: " in line
    listed = (tmp_path / "run" / "failures.tsv").read_text().splitlines()
    assert listed[0] == "participant_id\tfile\treason"
    assert listed[1].startswith(f"sub-9\t{broken}\t")
    first, _, last = result.stdout.splitlines()
    assert first.endswith(", 1 failed")
    assert last == f"failures:   {tmp_path / 'run' / 'failures.tsv'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no such file."),
        (["empty"], "empty: expected images"),
        (["{cohort}", "--modality", "PET"], "unknown modality 'PET'"),
        (["{cohort}", "--modality", "T2w"], "expected BIDS images .*T2w"),
        (["{cohort}", "--init", "absent"], "unknown checkpoint 'absent'"),
        (["{cohort}", "--device", "abacus"], "got 'abacus'"),
        (["{cohort}", "--config", "absent.json"], "absent.json: cannot be read"),
        (["{cohort}", "--config", "key.json"], "key.json: .* unknown keys ['sed']"),
        (["{cohort}", "--config", "type.json"], "type.json: .* int .*, got 'one'"),
        (
            ["{cohort}", "--config", "list.json"],
            "list.json: expected hyperparameters as",
        ),
        (["{cohort}", "-o", "key.json"], "key.json: expected a folder to write"),
        (["{cohort}", "-o", "{store}/.."], "holds a run; resume it"),
        (["{store}", "{cohort}"], "a store cannot be combined"),
        (
            ["{cohort}", "-o", "{store}/..", "--resume", "--preset", "small_batch"],
            "pretraining.json: the run began with .*batch_size 2 .now 8",
        ),
        (
            ["{cohort}", "-o", "{store}/..", "--resume", "--steps", "4"],
            "first.*: 5 steps are done; n_steps .* at least as many, got 4",
        ),
    ],
)
def test_errors_before_a_run_are_one_line(
    cohort, store, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("key.json").write_text('{"sed": 1}')
    Path("type.json").write_text('{"seed": "one"}')
    Path("list.json").write_text("[1]")
    filled = [text.format(cohort=cohort, store=store) for text in arguments]
    result = _run("-o", "run", *filled)
    assert result.exit_code == 2
    *_, line = result.stderr.splitlines()
    assert result.stderr.count("error: ") == 1
    assert line.startswith("error: ")
    assert re.search(message.replace("[", r"\[").replace("]", r"\]"), line)
    assert not Path("run").exists()


def test_hyperparameters_are_printed_without_data_or_a_folder():
    result = _run("--print-config", "--size", "base", "--preset", "large_batch_short")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert (values["encoder"]["embed_dim"], values["encoder"]["depth"]) == (768, 12)
    assert values["n_prototypes"] == 65_536
    assert PretrainingConfig.from_dict(values).to_dict() == values


def test_a_resumed_run_may_be_longer(store, options, tmp_path):
    folder = tmp_path / "run"
    assert _run(store, "-o", folder, *options, "--steps", 2).exit_code == 0
    result = _run(store, "-o", folder, "--resume", "--steps", 4, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("4 steps done")
    assert "resumes with n_steps 2 (now 4)" in result.stderr
    assert json.loads((folder / "pretraining.json").read_text())["n_steps"] == 4


@pytest.mark.parametrize(
    "arguments", ["", "a", "a -o b --steps 0", "a -o b --preset max", "a -o b --jobs 0"]
)
def test_wrong_usage_is_2(arguments):
    assert _run(*arguments.split()).exit_code == 2


def test_a_diverging_run_suggests_what_to_change(store, options, tmp_path):
    path = tmp_path / "config.json"
    wild = replace(CONFIG, learning_rate=1e30, warmup_fraction=0.0)
    path.write_text(json.dumps(wild.to_dict()))
    result = _run(store, "-o", tmp_path / "run", "--config", path, *options[2:])
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert re.match(r"error: step \d: .* not finite\. Lower learning_rate", last)
    assert "Traceback" not in result.output
    # A run cannot be resumed with another configuration.
    assert "new run in another folder; --init starts it from the last" in last
    assert "resume" not in last


@pytest.fixture(scope="module")
def whole_run(store, options, tmp_path_factory):
    """Folder of a long, uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = _run(store, "-o", folder, *options, "--steps", N_LONG)
    assert result.exit_code == 0
    return folder


@pytest.mark.parametrize(
    ("number", "status", "n_lines"),
    [(signal.SIGKILL, -9, 9), (signal.SIGTERM, 143, 4)],
)
@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_weights(
    store, options, whole_run, tmp_path, number, status, n_lines
):
    arguments = [store, "-o", tmp_path / "run", *options, "--steps", N_LONG]
    process = _process(*arguments)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") >= n_lines):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in errors
    if status > 0:
        last = errors.splitlines()[-1]
        assert re.match(r"error: interrupted: --resume continues from step \d+", last)
    # A resumed run needs no options.
    result = _run(store, "-o", tmp_path / "run", "--resume", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    weights = [
        (folder / "model.safetensors").read_bytes()
        for folder in (tmp_path / "run", whole_run)
    ]
    assert weights[0] == weights[1]


def test_an_interrupt_keeps_the_preprocessed_scans(
    cohort, options, tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "prepare", interrupt)
    result = _run(cohort, "-o", tmp_path / "run", *options)
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert "error: interrupted before the first checkpoint: the same command" in last
    assert len(list((tmp_path / "run" / "store").glob("*.npy"))) == 3


def _two_processes(*arguments):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*start, "--nproc-per-node", "2", "-m", *_command(*arguments)[2:]]


@pytest.mark.slow
def test_only_rank_zero_prints(cohort, options, tmp_path):
    folder = tmp_path / "run"
    process = _process(cohort, "-o", folder, *options, command=_two_processes)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(output.splitlines()) == 2
    assert errors.count(" on host ") == 1
    assert re.findall(r" (\[\d/5\]) ", errors) == ["[1/5]", "[2/5]", "[4/5]", "[5/5]"]
    assert Checkpoint.load(folder).config.trained
    assert len(VolumeStore(folder / "store").subjects) == 3


@pytest.mark.slow
def test_rank_zero_reports_an_interrupt(store, options, tmp_path):
    folder = tmp_path / "run"
    process = _process(
        *(store, "-o", folder, *options, "--steps", 5000), command=_two_processes
    )
    deadline = time.monotonic() + 60
    while not (folder / "state.safetensors").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # torchrun passes it on
    _, errors = process.communicate(timeout=60)
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "interrupted: --resume continues from step" in line


def _first_subject(source, process):
    seed = derive_seed(CONFIG.seed, 0, 2)
    drawn = source.draw(0, 1, seed=seed, process=process, n_processes=2).volumes
    found = (s for s in source.subjects if torch.equal(source.load([s]).volumes, drawn))
    return next(found)


@pytest.mark.slow
def test_an_error_of_rank_one_is_printed(store, options, tmp_path):
    copy = shutil.copytree(store, tmp_path / "store")
    source = VolumeStore(store)
    first, second = (_first_subject(source, process) for process in (0, 1))
    assert second not in {first, next(iter(source.subjects))}
    with (copy / source.subjects[second][0].file).open("r+b") as file:
        file.write(bytes(100))
    process = _process(copy, "-o", tmp_path / "run", *options, command=_two_processes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: process 1: {copy}")
    assert f"the array of {second} is damaged" in line


def test_a_run_in_the_home_folder_resumes(store, options, tmp_path, monkeypatch):
    # A shell does not expand the ~ of --output=~/run.
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(options[1], tmp_path / "config.json")
    arguments = ["--output=~/run", *options[2:]]
    result = _run(store, "--config=~/config.json", *arguments)
    assert result.exit_code == 0, result.stderr
    result = _run(store, *arguments, "--resume")
    assert result.exit_code == 0, result.stderr


def test_a_second_run_into_the_same_folder_is_refused(store, options, tmp_path):
    folder = tmp_path / "run"
    with run_lock(folder):
        result = _run(store, "-o", folder, *options, "--resume")
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert (
        last == f"error: {folder}: another run is writing this folder; choose another."
    )


def _with_little_space(*arguments):
    # Files are limited to 64 blocks of 1024 bytes, like on a full disk.
    return ["bash", "-c", 'ulimit -f 64; exec "$@"', "-", *_command(*arguments)]


@pytest.mark.slow
def test_a_full_disk_is_reported_with_the_file(cohort, store, options, tmp_path):
    for data, name in ((store, r"state\.safetensors"), (cohort, r"store/\w+\.npy")):
        folder = tmp_path / Path(data).name
        process = _process(data, "-o", folder, *options, command=_with_little_space)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        last = errors.splitlines()[-1]
        assert re.fullmatch(rf"error: {folder}/{name}: .*\(File too large\)\.", last)


def test_errors_of_labels_are_one_line(store, options, tmp_path):
    labels = tmp_path / "labels.tsv"
    labels.write_text(
        "participant_id\tage\tdx\nsub-0\t5\ta\nsub-1\t6\tb\nsub-2\t7\tb\n"
    )
    arguments = [store, "-o", tmp_path / "run", *options, "--labels", labels]
    result = _run(*arguments)
    assert result.exit_code == 2
    assert "expected a column participant_id and" in result.stderr
    result = _run(*arguments, "--label-column", "dx")
    assert result.exit_code == 2
    assert "two scanned subjects of each class, got 1 and 2" in result.stderr
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_curves_need_tensorboard(store, options, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = _run(store, "-o", tmp_path / "run", *options, "--tensorboard")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1:] == [
        "error: TensorBoard is not installed: pip install 'brainfeat[tensorboard]'"
    ]
