"""Other processes that embed: of a Dask or Ray cluster, or one a device."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from typing import Any, Protocol

import joblib
import torch

from brainfeat.exceptions import MissingDependencyError
from brainfeat.workers import end_with_parent

__all__ = [
    "DaskWorkers",
    "DeviceWorkers",
    "RayWorkers",
    "Workers",
    "active_workers",
    "claimed_device",
    "import_ray",
]


class Workers(Protocol):
    """Processes that take calls; a call whose process dies raises from its future."""

    @property
    def n_workers(self) -> int:
        """Calls that run side by side, as things are now."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function in one of the processes.

        Parameters
        ----------
        function : callable
            Of a module that the processes can import.
        *arguments : object
            What it takes; sent there.

        Returns
        -------
        Future
            Of what it returns.
        """


def active_workers() -> Workers | None:
    """Find the cluster that ``joblib.parallel_config("dask")`` or Ray's chose.

    Returns
    -------
    Workers or None
        None with joblib's own backends, and inside a worker, which would wait for
        itself.

    Examples
    --------
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
    """The workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
        Connected to its scheduler.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)

    @property
    def n_workers(self) -> int:
        """Threads of all workers."""
        return max(1, sum(map(int, self._client.nthreads().values())))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function in a worker; Dask calls it again if the worker dies.

        Parameters
        ----------
        function : callable
            Of a module that the workers can import.
        *arguments : object
            What it takes.

        Returns
        -------
        Future
            Of what it returns.
        """
        future: Future[Any] = self._executor.submit(function, *arguments)
        return future


class RayWorkers:
    """The workers of a Ray cluster: of the running one, or of a new local one.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    """

    def __init__(self) -> None:
        self._ray = import_ray()
        if not self._ray.is_initialized():
            self._ray.init(log_to_driver=False)
        self._has_gpus = "GPU" in self._ray.cluster_resources()

    @property
    def n_workers(self) -> int:
        """GPUs of the cluster, or its cores if it has none."""
        name = "GPU" if self._has_gpus else "CPU"
        return max(1, int(self._ray.cluster_resources().get(name, 1)))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function in a worker; Ray calls it again if the worker dies.

        Parameters
        ----------
        function : callable
            Of a module that the workers can import.
        *arguments : object
            What it takes.

        Returns
        -------
        Future
            Of what it returns.
        """
        remote = self._ray.remote(num_cpus=1, num_gpus=int(self._has_gpus))(function)
        future: Future[Any] = remote.remote(*arguments).future()
        return future


class DeviceWorkers:
    """Processes of this machine, each with a device of its own.

    Parameters
    ----------
    devices : sequence of str
        One a process, such as ``["cuda:0", "cuda:1"]``.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = tuple(devices)
        self._pool = self._start()

    @property
    def n_workers(self) -> int:
        """Number of devices."""
        return len(self._devices)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a function in a process; they are started anew if one has died.

        Parameters
        ----------
        function : callable
            Of a module; it finds its device by `claimed_device`.
        *arguments : object
            What it takes.

        Returns
        -------
        Future
            Of what it returns.
        """
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:
            self._pool = self._start()
            return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """End the processes once they have done what they are at."""
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


def import_ray() -> Any:
    """Import Ray, which is heavy and optional.

    Returns
    -------
    module
        Ray.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "Ray is not installed: pip install 'brainfeat[ray]'."
        ) from error
    return ray


_DEVICE: list[str] = []


def claimed_device() -> str | None:
    """Name the device of this process.

    Returns
    -------
    str or None
        None unless `DeviceWorkers` started it.
    """
    return _DEVICE[0] if _DEVICE else None


def _start_worker(devices: "Queue[str]", n_threads: int) -> None:
    # The one who waits for the results is told, and ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _DEVICE[:] = [devices.get()]
    torch.set_num_threads(n_threads)
    end_with_parent()
