import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.pretraining.parallel import (
    joined_ranks,
    wrap_for_ranks,
)
from brainfeat.pretraining.self_distillation import SelfDistillation

# Each of two ranks trains with replicated and with sharded weights, then resumes a run
# from its middle; both write their final weights.
_PROCESS = """
import json, os, runpy, sys
from dataclasses import replace
from pathlib import Path
import torch
from brainfeat.pretraining.parallel import joined_ranks
from brainfeat.pretraining.trainer import train

torch.set_num_threads(1)
room, folder = runpy.run_path(sys.argv[1]), Path(sys.argv[2])

class Noting(room["RandomSource"]):
    def draw(self, step, n_subjects, **options):
        note = folder / f"drawn-{os.environ['RANK']}-{step}.json"
        note.write_text(json.dumps({"n_subjects": n_subjects, **options}))
        return super().draw(step, n_subjects, **options)

class Broken(room["RandomSource"]):
    def draw(self, step, n_subjects, **options):
        if step > 3:
            raise KeyboardInterrupt
        return super().draw(step, n_subjects, **options)

with joined_ranks("cpu"):
    for kind in ("ddp", "fully_shard"):
        config = replace(room["SMALL_CONFIG"], parallel=kind, accumulation_steps=2)
        config = replace(config, n_steps=5, checkpoint_every=2, batch_size=8)
        options = {"output": folder / kind, "device": "cpu"}
        result = train(room["RandomSource"](), config, **options)
        result.save(folder / f"{kind}-{os.environ['RANK']}")
    config = replace(config, parallel="ddp", accumulation_steps=1, batch_size=4)
    options = {"output": folder / "whole", "device": "cpu"}
    train(Noting(), config, **options)
    options["output"] = folder / "parts"
    try:
        train(Broken(), config, **options)
    except KeyboardInterrupt:
        train(room["RandomSource"](), config, resume=True, **options)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder that two ranks write."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    room = Path(__file__).with_name("conftest.py")
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(2):
            # What torchrun sets.
            environment = os.environ | {
                "TORCHELASTIC_RUN_ID": "test",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": "2",
                "RANK": str(number),
                "LOCAL_RANK": str(number),
            }
            errors = stack.enter_context((folder / f"{number}.txt").open("w"))
            command = [sys.executable, "-c", _PROCESS, room, folder]
            process = subprocess.Popen(command, env=environment, stderr=errors)
            processes.append(stack.enter_context(process))
            # A rank whose neighbour ended would wait for a long time.
            stack.callback(process.kill)
        codes = [process.wait(timeout=200) for process in processes]
    assert codes == [0, 0], "".join(p.read_text() for p in folder.glob("*.txt"))
    return folder


@pytest.mark.parametrize("kind", ["ddp", "fully_shard"])
@pytest.mark.slow
def test_ranks_end_with_the_same_weights(folder, kind):
    checkpoints = [
        Checkpoint.load(folder / name) for name in (kind, f"{kind}-0", f"{kind}-1")
    ]
    assert len({checkpoint.fingerprint for checkpoint in checkpoints}) == 1
    assert checkpoints[0].config.trained


@pytest.mark.slow
def test_sharded_weights_equal_replicated_ones(folder):
    one, other = (
        load_file(folder / kind / "state.safetensors")
        for kind in ("ddp", "fully_shard")
    )
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_resumed_run_of_two_ranks_equals_an_uninterrupted_one(folder):
    one, other = (
        load_file(folder / name / "state.safetensors") for name in ("whole", "parts")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_ranks_split_the_subjects_of_a_step(folder):
    for step in range(5):
        one, other = (
            json.loads((folder / f"drawn-{number}-{step}.json").read_text())
            for number in range(2)
        )
        assert one == {**other, "process": 0}
        assert other["process"] == 1
        assert (other["n_subjects"], other["n_processes"]) == (2, 2)


@pytest.mark.slow
def test_only_rank_zero_writes_the_log(folder):
    lines = (folder / "ddp" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3  # steps 0, 2 and 4


def test_process_not_started_by_torchrun_joins_no_group(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with joined_ranks("cpu"):
        assert not dist.is_initialized()


def test_model_of_one_process_is_not_wrapped(small_config):
    model = SelfDistillation(small_config, 3)
    student = model.student
    assert wrap_for_ranks(model, small_config) is model
    assert model.student is student
