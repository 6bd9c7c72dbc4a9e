"""GPU code is proven on a device that is not there, and its faults are caught."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKS = (
    "encoder-dense",
    "encoder-rotary",
    "encoder-packed",
    "encoder-packed-rotary",
    "encoder-stem",
    "poolings",
    "views",
    "views-skipped",
    "objective-dino",
    "objective-ibot",
    "objective-koleo",
    "objective-infonce",
    "objective-anatomy",
    "objective-sinkhorn",
    "agreement",
    "step-float32",
    "step-bfloat16",
    "step-checkpointed",
    "step-skipped",
    "resume",
    "decoder",
    "prediction",
    "finetuning-bfloat16",
    "simulation",
)
FAULTS = (
    "index on the CPU",
    "rows by an index on the CPU",
    "generator of the CPU",
    "unregistered buffer",
    "numpy of a tensor",
    "mask on the CPU",
    "mask of the encoder on the CPU",
    "joined with the CPU",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What went wrong in each check, in a process whose torch has the device."""
    library = runpy.run_path(str(HERE / "guard.py"))["compile_guard"]()
    if library is None:
        pytest.skip("needs a C++ compiler")
    output = tmp_path_factory.mktemp("fake") / "results.json"
    command = [sys.executable, HERE / "checks.py", library, output]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=500
    )
    assert process.returncode == 0, process.stderr
    return json.loads(output.read_text())


def test_all_checks_and_faults_were_run(results):
    assert {*results} == {*CHECKS, *FAULTS}


@pytest.mark.parametrize("name", CHECKS)
def test_a_gpu_computes_what_the_cpu_does(results, name):
    assert results[name] is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_a_gpu_would_refuse_is_caught(results, name):
    assert results[name] is None
