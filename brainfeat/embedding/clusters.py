"""Other processes that embed: of a Dask or Ray cluster, or one per device."""

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any, Literal, Protocol

import joblib
import torch

from brainfeat.exceptions import InputError, import_optional
from brainfeat.workers import end_with_parent

__all__ = [
    "Backend",
    "DaskWorkers",
    "DeviceWorkers",
    "RayWorkers",
    "Workers",
    "active_workers",
    "claimed_device",
    "open_workers",
    "split_devices",
]

Backend = Literal["threads", "dask", "ray"]


class Workers(Protocol):
    """Processes that take calls; a call whose process dies raises from its future."""

    @property
    def n_workers(self) -> int:
        """Calls that run side by side at the moment."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function, of a module that the processes can import, in one."""


def split_devices(device: str) -> tuple[str, ...]:
    """Split devices at commas; "auto" is all GPUs, if there are several.

    >>> split_devices("cuda:0,cuda:1")
    ('cuda:0', 'cuda:1')
    """
    n_gpus = torch.cuda.device_count() if device == "auto" else 0
    if n_gpus > 1:
        return tuple(f"cuda:{index}" for index in range(n_gpus))
    return tuple(name.strip() for name in device.split(",") if name.strip()) or ("",)


@contextmanager
def open_workers(
    backend: Backend, scheduler: str | None, device: str, n_workers: int
) -> Iterator[Workers | None]:
    """Connect to a cluster, or start processes here; None if this process embeds."""
    devices = split_devices(device)
    if backend == "threads":
        if scheduler is not None:
            raise InputError("--scheduler: expected with --backend dask or ray only.")
        if len(devices) == 1:
            yield None
            return
        here = DeviceWorkers(devices)
        try:
            yield here
        finally:
            here.close()
        return
    if "," in device:
        raise InputError(f"--device: expected one device a worker, got {device!r}.")
    connect = _connect_to_dask if backend == "dask" else _connect_to_ray
    with connect(scheduler, n_workers) as workers:
        yield workers


def active_workers() -> Workers | None:
    """Return the cluster of ``joblib.parallel_config("dask")`` or ``("ray")``, if any.

    None inside a worker, which would wait for itself.

    >>> active_workers() is None
    True
    """
    backend, _ = joblib.parallel.get_active_backend()
    name = type(backend).__name__
    if name == "DaskDistributedBackend":
        from distributed import get_worker

        try:
            get_worker()
        except ValueError:
            return DaskWorkers(backend.client)
        return None
    return RayWorkers() if name == "RayBackend" else None


class DaskWorkers:
    """The workers of a Dask cluster; Dask repeats the calls of a worker that dies."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)

    @property
    def n_workers(self) -> int:
        """Threads of all workers."""
        return max(1, sum(map(int, self._client.nthreads().values())))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function in a worker."""
        future: Future[Any] = self._executor.submit(function, *arguments)
        return future


class RayWorkers:
    """The workers of the running Ray cluster or a new one; Ray repeats lost calls."""

    def __init__(self) -> None:
        self._ray = _import_ray()
        if not self._ray.is_initialized():
            self._ray.init(log_to_driver=False)
        self._has_gpus = "GPU" in self._ray.cluster_resources()

    @property
    def n_workers(self) -> int:
        """GPUs of the cluster, or its cores if it has none."""
        name = "GPU" if self._has_gpus else "CPU"
        return max(1, int(self._ray.cluster_resources().get(name, 1)))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function in a worker."""
        remote = self._ray.remote(num_cpus=1, num_gpus=int(self._has_gpus))(function)
        future: Future[Any] = remote.remote(*arguments).future()
        return future


class DeviceWorkers:
    """Processes of this machine, each with a device of its own."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = tuple(devices)
        self._pool = self._start()

    @property
    def n_workers(self) -> int:
        """Number of devices."""
        return len(self._devices)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function in a process; all are restarted if one has died."""
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:
            self._pool = self._start()
            return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """End the processes once their current calls have returned."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        # Not forked: CUDA and threads do not survive that.
        context = multiprocessing.get_context("spawn")
        devices = context.Queue()
        for device in self._devices:
            devices.put(device)
        n_threads = max(1, joblib.cpu_count() // len(self._devices))
        return ProcessPoolExecutor(
            len(self._devices), context, _start_worker, (devices, n_threads)
        )


_DEVICE: list[str] = []


def claimed_device() -> str | None:
    """Return the device of this process, if `DeviceWorkers` started it."""
    return _DEVICE[0] if _DEVICE else None


def _start_worker(devices: "Queue[str]", n_threads: int) -> None:
    # The parent handles Ctrl-C and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _DEVICE[:] = [devices.get()]
    torch.set_num_threads(n_threads)
    end_with_parent()


@contextmanager
def _connect_to_dask(scheduler: str | None, n_workers: int) -> Iterator[Workers]:
    message = "Dask is not installed: pip install 'brainfeat[dask]'."
    distributed = import_optional("distributed", message)
    # It logs each worker that joins or leaves.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"n_workers": n_workers, "threads_per_worker": 1}
    if scheduler is not None:
        options = {"address": scheduler, "timeout": 30}
    try:
        client = distributed.Client(**options, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler: no Dask scheduler at {scheduler} ({_brief(error)})."
        ) from error
    with client:
        yield DaskWorkers(client)


@contextmanager
def _connect_to_ray(scheduler: str | None, n_workers: int) -> Iterator[Workers]:
    ray = _import_ray()
    options: dict[str, Any] = {"num_cpus": n_workers}
    if scheduler is not None:
        options = {"address": scheduler}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise InputError(
            f"--scheduler: no Ray cluster at {scheduler} ({_brief(error)})."
        ) from error
    try:
        yield RayWorkers()
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    return import_optional("ray", "Ray is not installed: pip install 'brainfeat[ray]'.")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
