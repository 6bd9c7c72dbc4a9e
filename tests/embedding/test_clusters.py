import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import joblib
import pytest

from brainfeat.embedding.clusters import (
    DaskWorkers,
    DeviceWorkers,
    active_workers,
    claimed_device,
    open_workers,
    split_devices,
)
from brainfeat.exceptions import InputError

KILLED_PARENT = """
import os, sys, time
from brainfeat.embedding.clusters import DeviceWorkers
if __name__ == "__main__":
    workers = DeviceWorkers(["cpu"])
    print(workers.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def devices():
    workers = DeviceWorkers(["cpu", "meta"])
    yield workers
    workers.close()


@pytest.mark.slow
def test_each_process_has_a_device_of_its_own(devices):
    assert devices.n_workers == 2
    deadline = time.monotonic() + 60
    found = set()
    while len(found) < 2 and time.monotonic() < deadline:
        futures = [devices.submit(claimed_device) for _ in range(4)]
        found |= {future.result() for future in futures}
    assert found == {"cpu", "meta"}
    assert claimed_device() is None


@pytest.mark.slow
def test_processes_that_die_are_restarted(devices):
    with pytest.raises(BrokenProcessPool):
        devices.submit(signal.raise_signal, signal.SIGKILL).result()
    assert devices.submit(os.getpid).result() != os.getpid()


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(pid):
    try:
        with pathlib.Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_joblib_selects_the_cluster():
    distributed = pytest.importorskip("distributed")
    assert active_workers() is None
    with joblib.parallel_config("threading", n_jobs=2):
        assert active_workers() is None
    with (
        distributed.Client(processes=False, n_workers=1, dashboard_address=None) as c,
        joblib.parallel_config("dask"),
    ):
        workers = active_workers()
        assert isinstance(workers, DaskWorkers)
        assert workers.n_workers >= 1
        # A worker that waited for its own cluster would wait for ever.
        assert c.submit(active_workers).result() is None


def test_devices_are_split_at_commas():
    assert split_devices("cpu") == ("cpu",)
    assert split_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")


def test_several_devices_are_a_process_each():
    with open_workers("threads", None, "cpu", 1) as workers:
        assert workers is None
    with open_workers("threads", None, "cpu,cpu", 1) as workers:
        assert isinstance(workers, DeviceWorkers)
        assert workers.n_workers == 2


@pytest.mark.parametrize(
    ("backend", "scheduler", "device", "message"),
    [
        ("threads", "tcp://a:1", "cpu", "--scheduler: expected with --backend"),
        ("dask", None, "cpu,cpu", "--device: expected one device a worker"),
        ("dask", "nonsense://a:1", "cpu", "--scheduler: no Dask scheduler"),
    ],
)
def test_contradicting_options_are_refused(backend, scheduler, device, message):
    if scheduler is not None and backend == "dask":
        pytest.importorskip("distributed")
    with (
        pytest.raises(InputError, match=message),
        open_workers(backend, scheduler, device, 1),
    ):
        pass
