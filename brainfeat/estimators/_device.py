"""Where the encoder runs, in which precision, and on how many subjects at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import joblib
import torch

from brainfeat.exceptions import ConfigError

__all__ = [
    "is_out_of_memory",
    "resolve_batch_size",
    "resolve_device",
    "resolve_dtype",
    "resolve_n_jobs",
    "spare_cores",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Enough tokens to fill a large accelerator; a fixed number, so that rows are the
# same on cards with more or less memory.
_TOKENS_PER_BATCH = 65_536
_LARGEST_BATCH = 32


def resolve_device(device: Any) -> torch.device:
    """Choose the device.

    Parameters
    ----------
    device : "auto", str or torch.device
        ``"auto"`` takes the current CUDA device, if there is one, else the CPU.

    Returns
    -------
    torch.device
        A device that is there.

    Raises
    ------
    ConfigError
        If the device is unknown or not there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        # Asking for one number is the only test that every backend has.
        torch.empty(1, device=chosen)
    except (AssertionError, RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device: expected 'auto' or a device that is there, got {device!r} "
            f"({reason})."
        ) from error
    return chosen


def resolve_dtype(dtype: Any, device: torch.device) -> torch.dtype:
    """Choose the precision of the encoder's matrix products.

    Parameters
    ----------
    dtype : {"auto", "float32", "bfloat16"}
        ``"auto"`` takes bfloat16 where the processor multiplies it natively,
        which is about three times as fast, else float32.
    device : torch.device
        Where the encoder runs.

    Returns
    -------
    torch.dtype
        ``torch.float32`` or ``torch.bfloat16``.

    Raises
    ------
    ConfigError
        If ``dtype`` is another value.
    """
    if isinstance(dtype, str) and dtype == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ConfigError(
            f"dtype: expected one of {('auto', *_DTYPES)}, got {dtype!r}."
        )
    return _DTYPES[dtype]


def resolve_batch_size(batch_size: Any, device: torch.device, n_tokens: int) -> int:
    """Choose how many subjects share a batch.

    Parameters
    ----------
    batch_size : "auto" or int
        ``"auto"`` is one on a CPU, whose caches hold the slabs of one subject,
        and what fills an accelerator elsewhere.
    device : torch.device
        Where the encoder runs.
    n_tokens : int
        Tokens of one subject.

    Returns
    -------
    int
        Number of subjects.

    Raises
    ------
    ConfigError
        If ``batch_size`` is another value.
    """
    if isinstance(batch_size, str) and batch_size == "auto":
        if device.type == "cpu":
            return 1
        return max(1, min(_LARGEST_BATCH, _TOKENS_PER_BATCH // n_tokens))
    is_integer = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if not is_integer or batch_size < 1:
        raise ConfigError(
            f"batch_size: expected 'auto' or a positive integer, got {batch_size!r}."
        )
    return int(batch_size)


def resolve_n_jobs(n_jobs: Any) -> int:
    """Choose the number of threads.

    Parameters
    ----------
    n_jobs : None or int
        As scikit-learn's: -1 is one a core.

    Returns
    -------
    int
        Number of threads.

    Raises
    ------
    ConfigError
        If ``n_jobs`` is another value.
    """
    if n_jobs is not None and (not isinstance(n_jobs, Integral) or n_jobs == 0):
        raise ConfigError(
            "n_jobs: expected None, a positive integer, or -1 for one a core, "
            f"got {n_jobs!r}."
        )
    return int(joblib.effective_n_jobs(n_jobs))


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory was short.

    Parameters
    ----------
    error : Exception
        What a computation raised.

    Returns
    -------
    bool
        Whether less work at a time could succeed.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What torch raises on a CPU has no type of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def spare_cores(device: torch.device, n_busy: int) -> Iterator[None]:
    """Let the encoder leave some cores to other threads.

    Matrix products that wait for a core that another thread has take several times
    as long as on fewer cores.

    Parameters
    ----------
    device : torch.device
        Where the encoder runs; nothing is done unless it is a CPU.
    n_busy : int
        Threads that need a core each.

    Yields
    ------
    None
        While the limit holds.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, joblib.cpu_count() - n_busy)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
