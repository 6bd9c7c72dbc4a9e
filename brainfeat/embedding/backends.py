"""The processes that ``--backend`` and ``--device`` ask for."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from brainfeat.embedding.clusters import (
    DaskWorkers,
    DeviceWorkers,
    RayWorkers,
    Workers,
    import_ray,
)
from brainfeat.exceptions import InputError, MissingDependencyError

__all__ = ["Backend", "open_workers", "split_devices"]

Backend = Literal["threads", "dask", "ray"]


def split_devices(device: str) -> tuple[str, ...]:
    """Read the devices of ``--device``.

    Parameters
    ----------
    device : str
        One, several with commas between them, or auto, which is all GPUs.

    Returns
    -------
    tuple of str
        Devices; one process each, if there are several.

    Examples
    --------
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
    """Connect to a cluster, or start processes here.

    Parameters
    ----------
    backend : {"threads", "dask", "ray"}
        What distributes the work.
    scheduler : str, optional
        Address of the cluster; without one, it is started on this machine.
    device : str
        As for `split_devices`.
    n_workers : int
        Workers of a cluster that is started here.

    Yields
    ------
    Workers or None
        None if this process embeds alone.

    Raises
    ------
    InputError
        If there is no cluster at the address, or options contradict each other.
    MissingDependencyError
        If Dask or Ray is not installed.
    """
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


@contextmanager
def _connect_to_dask(scheduler: str | None, n_workers: int) -> Iterator[Workers]:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError(
            "Dask is not installed: pip install 'brainfeat[dask]'."
        ) from error
    # It tells of each worker that comes and goes; ours are the lines that count.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"n_workers": n_workers, "threads_per_worker": 1}
    if scheduler is not None:
        options = {"address": scheduler, "timeout": 30}
    try:
        connect: Any = Client
        client = connect(**options, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler: no Dask scheduler at {scheduler} ({_brief(error)})."
        ) from error
    with client:
        yield DaskWorkers(client)


@contextmanager
def _connect_to_ray(scheduler: str | None, n_workers: int) -> Iterator[Workers]:
    ray = import_ray()
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


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
