"""``brainfeat pretrain`` under torchrun, in real processes."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.cli import app as cli
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.run_state import saved_step

ROOM = runpy.run_path(str(Path(__file__).parents[1] / "pretraining" / "conftest.py"))
CONFIG = replace(
    ROOM["SMALL_CONFIG"], anatomy_weight=0.0, n_steps=3, batch_size=4, log_every=1
)
# A disk on which the checkpoint of the last step takes seconds.
_SLOW_DISK = """
import time
from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.cli.app import main

save = Checkpoint.save

def save_slowly(self, folder, **options):
    time.sleep(4)
    return save(self, folder, **options)

Checkpoint.save = save_slowly
if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options for a small encoder on a grid of 8 mm."""
    folder = tmp_path_factory.mktemp("options")
    preprocessor = Preprocessor(shape=(24, 32, 20), spacing=8.0, alignment="none")
    config = CheckpointConfig(
        encoder=replace(CONFIG.encoder, drop_path=0.0),
        preprocessing=preprocessor.to_dict(),
        missing_modalities=True,
        trained=False,
    )
    init = Checkpoint.untrained(config).save(folder / "init")
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return ["--config", path, "--init", init, "--device", "cpu"]


def start(*arguments, n_ranks=2, program=("-m", "brainfeat")):
    """Start torchrun with ranks on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(n_ranks), *program, "pretrain"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_a_slow_disk_and_a_failed_scan_lose_no_checkpoint(cohort, options, tmp_path):
    broken = tmp_path / "sub-9_T1w.nii.gz"
    broken.write_bytes(b"no image")
    program = tmp_path / "slow_disk.py"
    program.write_text(_SLOW_DISK)
    folder = tmp_path / "run"
    process = start(cohort, broken, "-o", folder, *options, program=(program,))
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 1, errors  # a scan failed
    assert "interrupted" not in errors
    assert output.splitlines()[0].endswith(", 1 failed")
    assert Checkpoint.load(folder).config.description.startswith("Pretrained for 3 ")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["fully_shard"])
def test_interrupted_ranks_stop_at_one_step_and_one_process_resumes(
    cohort, options, tmp_path, parallel
):
    config = replace(CONFIG, n_steps=5000, checkpoint_every=5000, parallel=parallel)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    folder = tmp_path / "run"
    process = start(cohort, "-o", folder, "--config", path, *options[2:])
    deadline = time.monotonic() + 200
    log = folder / "log.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # torchrun passes it on
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    n_done = saved_step(folder)
    assert 3 <= n_done < 5000
    assert f"error: interrupted: --resume continues from step {n_done}" in errors
    arguments = [cohort, "-o", folder, "--resume", "--steps", n_done + 2]
    result = CliRunner().invoke(
        cli.app, ["pretrain", *map(str, arguments), "--device", "cpu"]
    )
    assert result.exit_code == 0, result.stderr
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [*range(n_done + 2)]
