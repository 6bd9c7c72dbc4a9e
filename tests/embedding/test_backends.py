import pytest

from brainfeat.embedding.backends import open_workers, split_devices
from brainfeat.embedding.clusters import DeviceWorkers
from brainfeat.exceptions import InputError


def test_devices_with_commas_are_several():
    assert split_devices("cpu") == ("cpu",)
    assert split_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")


def test_one_device_needs_no_other_process_and_several_do():
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
def test_options_that_contradict_are_refused(backend, scheduler, device, message):
    if scheduler is not None and backend == "dask":
        pytest.importorskip("distributed")
    with (
        pytest.raises(InputError, match=message),
        open_workers(backend, scheduler, device, 1),
    ):
        pass
